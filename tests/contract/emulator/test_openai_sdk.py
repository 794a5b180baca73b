"""The official SDK, unchanged and pointed at the emulator, is the witness that it speaks OpenAI's protocol."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.contract.emulator.http import openai_lines

from embatch.emulator import Fault
from embatch.emulator.vectors import vector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embatch.emulator import Emulator

pytestmark = pytest.mark.remote

MODEL = "text-embedding-3-small"


@pytest.fixture(scope="module")
def client(openai: Emulator) -> Iterator[Any]:
    from openai import OpenAI

    with OpenAI(base_url=openai.url, api_key="sk-a-key", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("encoding", [None, "float", "base64"])
def test_embeddings_answer_each_text_with_its_vector(client: Any, encoding: str | None) -> None:
    """Vectors come back in order and exact, as numbers and in base64."""
    asked = {} if encoding is None else {"encoding_format": encoding}
    answer = client.embeddings.create(model=MODEL, input=["a", "b"], dimensions=256, **asked)
    assert answer.usage.prompt_tokens == 2
    for place, (text, found) in enumerate(zip("ab", answer.data, strict=True)):
        value = found.embedding
        if isinstance(value, str):  # what is asked for by name is not decoded
            import base64

            value = np.frombuffer(base64.b64decode(value), "<f4")
        assert found.index == place
        np.testing.assert_array_equal(np.asarray(value, np.float32), vector(MODEL, text, None, 256))


def test_one_text_and_token_ids_are_inputs_too(client: Any) -> None:
    """A string, a list of ids and a list of such lists are each answered."""
    one = client.embeddings.create(model=MODEL, input="a", dimensions=8).data
    np.testing.assert_array_equal(np.asarray(one[0].embedding, np.float32), vector(MODEL, "a", None, 8))
    ids = client.embeddings.create(model=MODEL, input=[1, 2, 3], dimensions=8)
    assert (len(ids.data), ids.usage.prompt_tokens) == (1, 3)
    many = client.embeddings.create(model=MODEL, input=[[1, 2, 3], [4]], dimensions=8)
    assert many.data[0].embedding == ids.data[0].embedding
    assert many.usage.prompt_tokens == 4


def test_async_embedding_works(openai: Emulator) -> None:
    """The asynchronous client gets the same vectors."""
    from openai import AsyncOpenAI

    async def run() -> Any:
        async with AsyncOpenAI(base_url=openai.url, api_key="sk-a-key") as client:
            return await client.embeddings.create(model=MODEL, input=["a"], dimensions=8)

    found = asyncio.run(run()).data[0].embedding
    np.testing.assert_array_equal(np.asarray(found, np.float32), vector(MODEL, "a", None, 8))


def test_a_batch_goes_from_upload_to_results(client: Any, openai: Emulator) -> None:
    """Upload, create, poll, read both files: the whole life of a batch, with every id answered."""
    data = openai_lines("a", "EMULATOR-POISON", ["b", "c"])
    file = client.files.create(file=("in.jsonl", data), purpose="batch")
    assert file.bytes == len(data)
    job = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/embeddings",
        completion_window="24h",
        metadata={"tag": "tag-1"},
    )
    assert job.status == "validating"
    seen = []
    for _ in range(101):
        openai.advance(1)
        status = client.batches.retrieve(job.id).status
        seen += [status] if status not in seen else []
    assert [s for s in seen if s != "validating"] == ["in_progress", "finalizing", "completed"]
    job = client.batches.retrieve(job.id)
    assert job.metadata == {"tag": "tag-1"}
    assert (job.request_counts.total, job.request_counts.completed, job.request_counts.failed) == (3, 2, 1)
    assert job.usage.input_tokens == 3
    good = {
        line["custom_id"]: line["response"]["body"]["data"]
        for line in map(json.loads, client.files.content(job.output_file_id).text.splitlines())
    }
    np.testing.assert_array_equal(
        np.asarray(good["c2"][1]["embedding"], np.float32), vector(MODEL, "c", None, 8)
    )
    (bad,) = map(json.loads, client.files.content(job.error_file_id).text.splitlines())
    assert (bad["custom_id"], bad["response"]["status_code"], bad["error"]) == ("c1", 400, None)
    assert client.files.delete(file.id).deleted


def test_batches_are_listed_by_pages_and_cancelled(client: Any, openai: Emulator) -> None:
    """The SDK's pager goes through all batches, newest first, and a cancelled one says so after a while."""
    file = client.files.create(file=("in.jsonl", openai_lines("a")), purpose="batch")
    made = [
        client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")
        for _ in range(3)
    ]
    listed = [job.id for job in client.batches.list(limit=2)]
    assert {job.id for job in made} <= set(listed)
    assert listed.index(made[2].id) < listed.index(made[0].id)
    assert client.batches.cancel(made[0].id).status == "cancelling"
    openai.advance(6)
    assert client.batches.retrieve(made[0].id).status == "cancelled"
    assert client.files.retrieve(file.id).status == "processed"
    assert file.id in [each.id for each in client.files.list()]


def test_chat_whole_and_as_a_stream_say_the_same(client: Any) -> None:
    """A prompt has one answer, in one piece or in several, with usage in the last chunk if it is wanted."""
    asked: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
    whole = client.chat.completions.create(**asked)
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_chat_in_a_batch(client: Any, openai: Emulator) -> None:
    """A batch over the chat endpoint answers each prompt as a call would."""
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
    line = {"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": body}
    file = client.files.create(file=("in.jsonl", json.dumps(line).encode()), purpose="batch")
    job = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    openai.advance(101)
    output = json.loads(client.files.content(client.batches.retrieve(job.id).output_file_id).text)
    answer = output["response"]["body"]["choices"][0]["message"]["content"]
    assert answer == client.chat.completions.create(**body).choices[0].message.content


def test_errors_come_as_the_sdks_exceptions(client: Any, openai: Emulator) -> None:
    """Each refusal is the SDK's exception for it, with the code where the SDK looks for it."""
    import openai as sdk

    with pytest.raises(sdk.NotFoundError) as missing:
        client.embeddings.create(model="no-such-model", input="a")
    assert missing.value.code == "model_not_found"
    for kind, code in (("rate_limit", "rate_limit_exceeded"), ("insufficient_quota", "insufficient_quota")):
        openai.fault(Fault(kind=kind, where="embed"))
        with pytest.raises(sdk.RateLimitError) as limited:
            client.embeddings.create(model=MODEL, input="a")
        assert limited.value.code == code
    openai.fault(Fault(kind="overloaded", where="embed"))
    with pytest.raises(sdk.InternalServerError):
        client.embeddings.create(model=MODEL, input="a")
    openai.fault(Fault(kind="reset_before", where="embed"))
    with pytest.raises(sdk.APIConnectionError):
        client.embeddings.create(model=MODEL, input="a")
    with pytest.raises(sdk.AuthenticationError):
        client.with_options(api_key="wrong").embeddings.create(model=MODEL, input="a")


def test_an_empty_answer_is_no_error_of_the_sdks_own(client: Any, openai: Emulator) -> None:
    """A known trap of the SDK: no vectors at all come as a ValueError."""
    openai.fault(Fault(kind="empty_data", where="embed"))
    with pytest.raises(ValueError, match="No embedding data received"):
        client.embeddings.create(model=MODEL, input="a")


def test_the_sdks_own_retries_see_the_delay(openai: Emulator) -> None:
    """With its retries on, the SDK gets through a refusal that says to wait for a millisecond."""
    from openai import OpenAI

    openai.fault(Fault(kind="rate_limit", where="embed", delay=0.001))
    with OpenAI(base_url=openai.url, api_key="sk-a-key", max_retries=1) as client:
        assert client.embeddings.create(model=MODEL, input="a", dimensions=8).data
