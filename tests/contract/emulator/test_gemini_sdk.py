"""The official SDK, unchanged and pointed at the emulator, is the witness that it speaks Gemini's protocol."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from embatch.emulator import Fault
from embatch.emulator.vectors import vector

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from embatch.emulator import Emulator

pytestmark = [
    pytest.mark.remote,
    # The SDK warns of its own batch embeddings at each call.
    pytest.mark.filterwarnings("ignore:.*is experimental:google.genai._common.ExperimentalWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:google"),
]

MODEL = "gemini-embedding-001"


@pytest.fixture(scope="module", params=["v1", "v1beta", "v1alpha"])
def client(request: pytest.FixtureRequest, gemini: Emulator) -> Iterator[Any]:
    from google import genai
    from google.genai import types

    with genai.Client(
        api_key="a-key",
        http_options=types.HttpOptions(
            base_url=gemini.url, api_version=request.param, retry_options=types.HttpRetryOptions(attempts=1)
        ),
    ) as client:
        yield client


def as_array(values: Any) -> np.ndarray[Any, Any]:
    return np.asarray(values, np.float32)


def test_embed_content_answers_each_text_with_its_vector(client: Any) -> None:
    """Vectors come back in order, of the dimension and task asked for, exactly as `vector` says."""
    answer = client.models.embed_content(
        model=MODEL, contents=["a", "b"], config={"output_dimensionality": 256, "task_type": "CLUSTERING"}
    )
    for text, found in zip(["a", "b"], answer.embeddings, strict=True):
        np.testing.assert_array_equal(as_array(found.values), vector(MODEL, text, "CLUSTERING", 256))


def test_the_second_model_fuses_strings_and_embeds_contents_one_by_one(client: Any) -> None:
    """The SDK sends strings for gemini-embedding-2 as one content with several parts, and that is one vector."""
    from google.genai import types

    fused = client.models.embed_content(model="gemini-embedding-2", contents=["a", "b"])
    assert len(fused.embeddings) == 1
    contents = [types.Content(parts=[types.Part(text=text)]) for text in "ab"]
    single = client.models.embed_content(model="gemini-embedding-2", contents=contents)
    assert len(single.embeddings) == 2


def test_async_embedding_works(gemini: Emulator) -> None:
    """The asynchronous client gets the same vectors."""
    from google import genai
    from google.genai import types

    async def run() -> Any:
        client = genai.Client(api_key="a-key", http_options=types.HttpOptions(base_url=gemini.url))
        async with client.aio as aio:
            return await aio.models.embed_content(
                model=MODEL, contents=["a"], config={"output_dimensionality": 128}
            )

    answer = asyncio.run(run())
    np.testing.assert_array_equal(as_array(answer.embeddings[0].values), vector(MODEL, "a", None, 128))


def test_a_job_from_a_file_goes_from_upload_to_download(
    client: Any, gemini: Emulator, tmp_path: Path
) -> None:
    """Upload, create, poll, download, delete: the whole life of a job, with every key answered."""
    path = tmp_path / "in.jsonl"
    rows = [
        {"key": f"k{i}", "request": {"content": {"parts": [{"text": f"t{i}"}]}, "output_dimensionality": 128}}
        for i in range(5)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    uploaded = client.files.upload(file=path, config={"mime_type": "jsonl", "display_name": "in"})
    assert uploaded.size_bytes == path.stat().st_size
    job = client.batches.create_embeddings(
        model=MODEL, src={"file_name": uploaded.name}, config={"display_name": "tag-1"}
    )
    assert job.state.name == "JOB_STATE_PENDING"
    gemini.advance(50)
    assert client.batches.get(name=job.name).state.name == "JOB_STATE_RUNNING"
    gemini.advance(51)
    job = client.batches.get(name=job.name)
    assert job.state.name == "JOB_STATE_SUCCEEDED"
    assert job.done
    lines = [json.loads(line) for line in client.files.download(file=job.dest.file_name).splitlines()]
    found = {line["key"]: as_array(line["response"]["embedding"]["values"]) for line in lines}
    assert set(found) == {f"k{i}" for i in range(5)}
    for i in range(5):
        np.testing.assert_array_equal(found[f"k{i}"], vector(MODEL, f"t{i}", None, 128))
    client.batches.delete(name=job.name)
    client.files.delete(name=uploaded.name)


def test_a_job_with_inline_rows_answers_in_its_metadata(client: Any, gemini: Emulator) -> None:
    """Rows that came inline come back inline."""
    source = {"inlined_requests": {"contents": ["x", "y"], "config": {"output_dimensionality": 128}}}
    job = client.batches.create_embeddings(model=MODEL, src=source, config={"display_name": "inline"})
    gemini.advance(101)
    job = client.batches.get(name=job.name)
    found = [each.response.embedding.values for each in job.dest.inlined_embed_content_responses]
    np.testing.assert_array_equal(as_array(found[1]), vector(MODEL, "y", None, 128))


def test_jobs_are_listed_by_pages_and_cancelled(client: Any, gemini: Emulator) -> None:
    """The SDK's pager goes through all jobs, and a cancelled one says so after a while."""
    source = {"inlined_requests": {"contents": ["x"]}}
    made = [
        client.batches.create_embeddings(model=MODEL, src=source, config={"display_name": f"list-{i}"})
        for i in range(3)
    ]
    listed = [job.name for job in client.batches.list(config={"page_size": 2})]
    assert {job.name for job in made} <= set(listed)
    assert listed.index(made[2].name) < listed.index(made[0].name)
    client.batches.cancel(name=made[0].name)
    gemini.advance(6)
    assert client.batches.get(name=made[0].name).state.name == "JOB_STATE_CANCELLED"


def test_files_are_listed_and_read(client: Any, tmp_path: Path) -> None:
    """Metadata of a file can be had by name, and through the list."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"{}\n")
    uploaded = client.files.upload(file=path, config={"mime_type": "jsonl"})
    assert client.files.get(name=uploaded.name).state.name == "ACTIVE"
    assert uploaded.name in [file.name for file in client.files.list()]


def test_generation_whole_and_as_a_stream_say_the_same(client: Any) -> None:
    """A prompt has one answer, in one piece or in several."""
    whole = client.models.generate_content(model="gemini-2.5-flash", contents="hello")
    pieces = [
        chunk.text
        for chunk in client.models.generate_content_stream(model="gemini-2.5-flash", contents="hello")
    ]
    assert len(pieces) > 3
    assert "".join(pieces) == whole.text
    assert whole.usage_metadata.candidates_token_count > 0


def test_generation_in_a_job(client: Any, gemini: Emulator) -> None:
    """`batches.create` over inline prompts answers each of them as a call would."""
    source = [{"contents": [{"parts": [{"text": text}], "role": "user"}]} for text in ("one", "two")]
    job = client.batches.create(model="gemini-2.5-flash", src=source, config={"display_name": "g"})
    gemini.advance(101)
    job = client.batches.get(name=job.name)
    found = [each.response.text for each in job.dest.inlined_responses]
    assert found == [
        client.models.generate_content(model="gemini-2.5-flash", contents=text).text
        for text in ("one", "two")
    ]


def test_errors_come_as_the_sdks_exceptions(client: Any, gemini: Emulator) -> None:
    """4xx are ClientErrors and 5xx ServerErrors, with status and details where the SDK looks for them."""
    from google.genai import errors

    with pytest.raises(errors.ClientError) as found:
        client.models.embed_content(model="no-such-model", contents=["a"])
    assert (found.value.code, found.value.status) == (404, "NOT_FOUND")
    gemini.fault(Fault(kind="overloaded", where="embed"))
    with pytest.raises(errors.ServerError) as broken:
        client.models.embed_content(model=MODEL, contents=["a"])
    assert (broken.value.code, broken.value.status) == (503, "UNAVAILABLE")
    gemini.fault(Fault(kind="rate_limit", where="embed", delay=12.5))
    with pytest.raises(errors.ClientError) as limited:
        client.models.embed_content(model=MODEL, contents=["a"])
    details = limited.value.details["error"]["details"]
    assert details[-1] == {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "12.5s"}


def test_details_of_row_errors_make_the_sdk_fail(client: Any, gemini: Emulator) -> None:
    """A known trap of the SDK: objects in `error.details` of an inline row make the whole job unreadable."""
    import pydantic

    gemini.fault(Fault(kind="error_details", where="create_job"))
    source = {"inlined_requests": {"contents": ["good", "EMULATOR-POISON"]}}
    job = client.batches.create_embeddings(model=MODEL, src=source, config={"display_name": "d"})
    gemini.advance(101)
    with pytest.raises(pydantic.ValidationError):
        client.batches.get(name=job.name)
