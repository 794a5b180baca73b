"""What OpenAI's API and its SDK do that one would not expect, and what becomes of it here."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.contract.providers.conftest import JOB_S, KEY, items, right, tag, work
from tests.integration.providers import conftest as scripted

from embatch.errors import ProviderError
from embatch.providers.registry import open_provider
from embatch.remote import EmbedWork, GenerateWork, JobRef, JobState

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.contract.providers.conftest import Place
    from tests.integration.providers.conftest import Scripted

    from embatch.remote import Provider

pytestmark = pytest.mark.remote
openai = pytest.importorskip("openai")

server = scripted.server
WORK = EmbedWork(model="text-embedding-3-small")
CHAT = GenerateWork(model="gpt-4o-mini")
FULL = (
    "Enqueued token limit reached for text-embedding-3-small in organization org-x. Limit: 3,000,000 enqueued tokens. "
    "Please try again once some in_progress batches have been completed."
)


def open_on(server: Scripted) -> Provider:
    return open_provider("openai:text-embedding-3-small", base_url=f"{server.url}/v1", api_key=KEY)


@pytest.mark.parametrize("place", ["openai"], indirect=True)
def test_a_cancelled_job_keeps_what_was_done(place: Place) -> None:
    """Done rows come back with their vectors, since they are on the bill; the others are errors to be sent again."""
    job = place.provider.submit(items(10), work(place), tag=tag())
    place.emulator.advance(JOB_S * 0.6)
    place.provider.cancel(job)
    place.finish_jobs()
    assert place.provider.poll(job).state is JobState.CANCELLED
    rows = list(place.provider.results(job))
    assert {row.key for row in rows} == {f"key-{i}" for i in range(10)}
    good = [row for row in rows if isinstance(row.result, np.ndarray)]
    assert 0 < len(good) < 10
    for row in rows:
        assert row.key is not None
        if isinstance(row.result, ProviderError):
            assert row.result.kind.waits
        else:
            np.testing.assert_allclose(row.result, right(place, row.key), atol=1e-6)  # type: ignore[arg-type]  # a vector


@pytest.mark.parametrize("end", ["", "\n"])
def test_two_files_never_make_one_line(server: Scripted, end: str) -> None:
    """The last good row and the first bad one are two rows, also if the output ends without a line feed."""
    entry = {"index": 0, "embedding": [1.0] + [0.0] * 1535}
    good = {"custom_id": "a", "response": {"status_code": 200, "body": {"data": [entry]}}, "error": None}
    bad = {"custom_id": "b", "response": None, "error": {"code": "batch_expired", "message": "m"}}
    server.reply(
        200, {"id": "batch_1", "status": "expired", "output_file_id": "file-1", "error_file_id": "file-2"}
    )
    server.reply(200, json.dumps(good) + end)
    server.reply(200, json.dumps(bad) + end)
    with closing(open_on(server)) as provider:
        rows = list(provider.results(JobRef(id="batch_1")))
    assert [(row.key, isinstance(row.result, np.ndarray)) for row in rows] == [("a", True), ("b", False)]


@pytest.mark.parametrize(
    ("status", "code", "kind"), [(503, None, "overloaded"), (429, "insufficient_quota", "quota_money")]
)
def test_a_server_that_orders_retries_gets_none(
    server: Scripted, status: int, code: str | None, kind: str
) -> None:
    """`x-should-retry: true` and a client with five retries: one request for each call, stream and upload."""
    error = {"message": "no", "type": code, "code": code}
    server.reply(status, {"error": error}, x_should_retry="true", retry_after_ms="1")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=5) as client:
        embedding = open_provider("openai:text-embedding-3-small", client=client)
        chat = open_provider("openai:gpt-4o-mini", client=client)
        asks: list[Callable[[], object]] = [
            lambda: embedding.call(["a"], WORK, timeout_s=5),
            lambda: chat.call(["a"], CHAT, timeout_s=5),
            lambda: list(chat.stream("a", CHAT, timeout_s=5)),
            lambda: embedding.submit([("k", "a")], WORK, tag="t"),
        ]
        for count, ask in enumerate(asks, 1):
            with pytest.raises(ProviderError) as refused:
                ask()
            assert refused.value.kind == kind
            assert len(server.seen) == count


def test_a_piece_of_a_stream_may_have_no_choices(server: Scripted) -> None:
    """Usage comes in a piece of its own, which says nothing; the text around it is whole."""
    pieces: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "one "}}]},
        {"choices": []},
        {"choices": [{"index": 0, "delta": {"content": "two"}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}},
    ]
    events = [json.dumps({"id": "c", "object": "chat.completion.chunk", **piece}) for piece in pieces]
    body = "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"])
    server.reply(200, body, content_type="text/event-stream")
    with closing(open_provider("openai:gpt-4o-mini", base_url=f"{server.url}/v1", api_key=KEY)) as provider:
        assert list(provider.stream("a", CHAT, timeout_s=5)) == ["one ", "two"]


@pytest.mark.parametrize("status", [400, 429])
def test_a_queue_that_is_full_at_once(server: Scripted, status: int) -> None:
    """Refused while creating, with either status: to be deferred, and the uploaded file is deleted."""
    server.reply(200, {"id": "file-1"})
    server.reply(status, {"error": {"message": FULL, "type": "invalid_request_error", "code": None}})
    server.reply(200, {"id": "file-1", "deleted": True})
    with closing(open_on(server)) as provider, pytest.raises(ProviderError) as refused:
        provider.submit([("k", "a")], WORK, tag="t")
    assert refused.value.kind == "enqueued_full"
    assert [(seen.method, seen.path) for seen in server.seen] == [
        ("POST", "/v1/files"),
        ("POST", "/v1/batches"),
        ("DELETE", "/v1/files/file-1"),
    ]


@pytest.mark.parametrize(("count", "kind"), [(1, "input_too_long"), (2, "too_many_tokens")])
def test_an_upload_that_is_larger_than_is_taken(server: Scripted, count: int, kind: str) -> None:
    """413 for a file of several items means that they are to be split, and no job is made of it."""
    server.reply(413, {"error": {"message": "The file is larger than the 209715200 maximum", "code": None}})
    with closing(open_on(server)) as provider, pytest.raises(ProviderError) as refused:
        provider.submit([(f"k{i}", "a") for i in range(count)], WORK, tag="t")
    assert refused.value.kind == kind
    assert [seen.path for seen in server.seen] == ["/v1/files"]


@pytest.mark.parametrize("place", ["openai"], indirect=True)
def test_one_empty_text_refuses_the_whole_call(place: Place) -> None:
    """BAD_INPUT, so that it is looked for among the others; nothing is billed for them."""
    with pytest.raises(ProviderError) as refused:
        place.provider.call(["a", "", "b"], work(place), timeout_s=10)
    assert refused.value.kind == "bad_input"
