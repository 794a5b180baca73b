"""What Gemini's API and its SDK do that one would not expect, and what becomes of it here."""

from __future__ import annotations

from contextlib import closing
from importlib.metadata import requires
from typing import TYPE_CHECKING, Any

import pytest
from tests.contract.providers.conftest import JOB_S, KEY, items, tag, work
from tests.integration.providers import conftest as scripted

from embatch.errors import ProviderError, UsageError
from embatch.providers.facts import facts_for
from embatch.providers.gemini.errors import gemini_refusal
from embatch.providers.registry import open_provider
from embatch.providers.work import work_spec
from embatch.remote import EmbedWork, GenerateWork, JobRef, JobState

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.contract.providers.conftest import Place
    from tests.integration.providers.conftest import Scripted

pytestmark = pytest.mark.remote
genai = pytest.importorskip("google.genai")

server = scripted.server
gemini = pytest.mark.parametrize("place", ["gemini"], indirect=True)
WORK = EmbedWork(model="gemini-embedding-001")
CHAT = GenerateWork(model="gemini-2.5-flash")
JOB = JobRef(id="batches/1")
UNIT = {"values": [1.0] + [0.0] * 3071}
EVENT = 'data: {"candidates": [{"content": {"parts": [{"text": "hi"}]}, "finishReason": "STOP"}]}\r\n\r\n'


def client_of(server: Scripted, **others: Any) -> Any:
    options = {"base_url": server.url, **others.pop("options", {})}
    return genai.Client(api_key=KEY, http_options=genai.types.HttpOptions(**options), **others)


@pytest.mark.parametrize("where", ["variable", "client"])
def test_the_apis_version_is_the_sdks(server: Scripted, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Calls, uploads, jobs and downloads go to the version that the variable or the client of the SDK names."""
    if where == "variable":
        monkeypatch.setenv("GOOGLE_GENAI_API_VERSION", "v1beta")
    client = client_of(server, options={"api_version": "v1beta"} if where == "client" else {})
    server.reply(200, {"embeddings": [UNIT]})
    server.reply(200, {}, x_goog_upload_url=f"{server.url}/there")
    server.reply(200, {"file": {"name": "files/1"}}, x_goog_upload_status="final")
    server.reply(200, {"name": "batches/1"})
    server.reply(200, {"done": True, "response": {"responsesFile": "files/out"}})
    server.reply(200, b"")
    with client:
        provider = open_provider("gemini:gemini-embedding-001", client=client)
        provider.call(["a"], WORK, timeout_s=5)
        assert list(provider.results(provider.submit([("k", "a")], WORK, tag="t"))) == []
    assert [seen.path for seen in server.seen] == [
        "/v1beta/models/gemini-embedding-001:batchEmbedContents",
        "/upload/v1beta/files",
        "/there",
        "/v1beta/models/gemini-embedding-001:asyncBatchEmbedContent",
        "/v1beta/batches/1",
        "/v1beta/files/out:download?alt=media",
    ]


@pytest.mark.parametrize("how", ["stream", "vertex"])
def test_the_sdk_is_told_the_time_limit_in_milliseconds(server: Scripted, how: str) -> None:
    """Seven seconds are seven to the server, too: not seven thousandths, and not two hours."""
    if how == "stream":
        server.reply(200, EVENT, content_type="text/event-stream")
    else:
        server.reply(200, {"embedding": UNIT})  # of one text, unlike the list for several
    with client_of(server, vertexai=how == "vertex") as client:
        if how == "stream":
            pieces = open_provider("gemini:gemini-2.5-flash", client=client).stream("a", CHAT, timeout_s=7)
            assert list(pieces) == ["hi"]
        else:
            open_provider("gemini:gemini-embedding-001", client=client).call(["a"], WORK, timeout_s=7)
    assert server.seen[0].headers["x-server-timeout"] == "7"


@pytest.mark.parametrize("how", ["stream", "vertex", "raw"])
def test_the_delay_is_found_inside_the_sdks_exception(server: Scripted, how: str) -> None:
    """RetryInfo with a fraction, deep in the body, where the SDK itself never looks; one request was made."""
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "14.044580725s"}
    error = {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "Quota exceeded", "details": [info]}
    server.reply(429, {"error": error})
    retry = genai.types.HttpRetryOptions(attempts=5, initial_delay=0.0, max_delay=0.0, jitter=0.0)
    with client_of(server, vertexai=how == "vertex", options={"retry_options": retry}) as client:
        chat = open_provider("gemini:gemini-2.5-flash", client=client)
        asks: dict[str, Callable[[], object]] = {
            "stream": lambda: list(chat.stream("a", CHAT, timeout_s=5)),
            "call": lambda: chat.call(["a"], CHAT, timeout_s=5),
        }
        with pytest.raises(ProviderError) as refused:
            asks["stream" if how == "stream" else "call"]()
    assert (refused.value.kind, refused.value.retry_after_s) == ("rate_minute", 14.044580725)
    assert len(server.seen) == 1


@pytest.mark.parametrize("creating_job", [False, True])
@pytest.mark.parametrize(
    "violation",
    [
        {"quotaId": "EmbedContentRequestsPerMinutePerProjectPerModel"},
        {"quotaId": "EmbedContentInputTokensPerModelPerMinute"},
        {"quotaId": "BatchEmbedContentsRequestsPerMinutePerProjectPerRegion"},
        {"quotaMetric": "generativelanguage.googleapis.com/embed_content_paid_tier_requests"},
    ],
)
def test_quotas_of_paid_tiers_are_of_the_minute(violation: dict[str, str], creating_job: bool) -> None:
    """None of their names is taken for the queue of jobs or for the day, with or without a delay beside it."""
    error = {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [{"violations": [violation]}]}
    refused = gemini_refusal({"error": error}, "x", status=429, creating_job=creating_job)
    assert refused.kind == "rate_minute"


def test_a_page_without_jobs(server: Scripted) -> None:
    """An empty list is an object without any field; a page without jobs may have another one after it."""
    with closing(open_provider("gemini:gemini-embedding-001", base_url=server.url, api_key=KEY)) as provider:
        server.reply(200, {})
        assert provider.find("mine") is None
        found = {"name": "batches/7", "metadata": {"displayName": "mine"}}
        server.replies = [(200, {"nextPageToken": "2"}, {}), (200, {"operations": [found]}, {})]
        job = provider.find("mine")
    assert job == JobRef(id="batches/7")
    assert "pageToken=2" in server.seen[-1].path


def test_an_answer_to_cancelling_may_be_empty(server: Scripted) -> None:
    """Nothing at all is a good answer there, and nothing more is asked."""
    server.reply(200, b"")
    with closing(open_provider("gemini:gemini-embedding-001", base_url=server.url, api_key=KEY)) as provider:
        provider.cancel(JOB)
    assert [(seen.method, seen.path.endswith("/batches/1:cancel")) for seen in server.seen] == [
        ("POST", True)
    ]


@gemini
def test_a_cancelled_job_has_no_rows(place: Place) -> None:
    """Nothing is kept of what was done by then: no rows, and no error of reading them."""
    job = place.provider.submit(items(10), work(place), tag=tag())
    place.emulator.advance(JOB_S * 0.6)
    place.provider.cancel(job)
    place.finish_jobs()
    assert place.provider.poll(job).state is JobState.CANCELLED
    assert list(place.provider.results(job)) == []


@gemini
def test_gemini_embedding_2_is_never_sent_a_task_type(place: Place) -> None:
    """It would ignore it in silence, and every vector would be of another kind than asked for."""
    provider = place.open("gemini-embedding-2")
    asked = EmbedWork(model="gemini-embedding-2", task="RETRIEVAL_QUERY")
    before = place.emulator.requests.total
    with pytest.raises(UsageError, match="task"):
        provider.call(["a"], asked, timeout_s=5)
    with pytest.raises(UsageError, match="task"):
        provider.submit([("k", "a")], asked, tag=tag())
    assert place.emulator.requests.total == before


def test_vectors_of_the_two_models_are_never_taken_for_each_other() -> None:
    """As long, of the same provider, and yet of two spaces: their fingerprints differ."""
    prints = {
        work_spec(facts_for(f"gemini:{name}"), EmbedWork(model=name, dimensions=768)).fingerprint
        for name in ("gemini-embedding-001", "gemini-embedding-2")
    }
    assert len(prints) == 2


def test_nothing_here_asks_for_a_tenacity_of_its_own() -> None:
    """The SDK takes only versions before the newest: a wish of ours could make both impossible to install."""
    assert not [wish for wish in requires("embatch") or () if wish.lower().startswith("tenacity")]
