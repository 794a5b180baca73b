"""Clients that the user brings: used as they are, but for their retries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from embatch.errors import ProviderError, UsageError
from embatch.frontends.embedder import Embedder
from embatch.gemini import EmbeddingRequest, GeminiBatchClient, SmartGeminiClient
from embatch.providers.registry import open_provider
from embatch.remote import EmbedWork, Generated, GenerateWork

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.integration.providers.conftest import Scripted

pytestmark = pytest.mark.remote
genai = pytest.importorskip("google.genai")
openai = pytest.importorskip("openai")

KEY = "topsecret-0123456789"
UNIT = [1.0] + [0.0] * 3071
BUSY = {"error": {"code": 503, "status": "UNAVAILABLE", "message": "overloaded"}}


def gemini_client(server: Scripted, **others: Any) -> Any:
    """One that would repeat everything five times, without waiting."""
    retry = genai.types.HttpRetryOptions(attempts=5, initial_delay=0.0, max_delay=0.0, jitter=0.0)
    options = genai.types.HttpOptions(base_url=server.url, retry_options=retry, headers={"x-mine": "yes"})
    return genai.Client(api_key=KEY, http_options=options, **others)


def test_a_gemini_client_keeps_its_headers_and_loses_its_retries(server: Scripted) -> None:
    """Its address, key and headers are used for calls, generation and jobs; a refusal is answered once."""
    server.reply(503, BUSY)
    client = gemini_client(server)
    embedding = open_provider("gemini:gemini-embedding-001", client=client)
    generating = open_provider("gemini:gemini-2.5-flash", client=client)
    asks: list[Callable[[], object]] = [
        lambda: embedding.call(["a"], EmbedWork(model="gemini-embedding-001"), timeout_s=5),
        lambda: generating.call(["a"], GenerateWork(model="gemini-2.5-flash"), timeout_s=5),
        lambda: list(generating.stream("a", GenerateWork(model="gemini-2.5-flash"), timeout_s=5)),
        lambda: embedding.find("tag"),
        lambda: embedding.submit([("k", "a")], EmbedWork(model="gemini-embedding-001"), tag="t"),
    ]
    for count, ask in enumerate(asks, 1):
        with pytest.raises(ProviderError) as error:
            ask()
        assert error.value.kind == "overloaded"
        assert len(server.seen) == count
    assert all(seen.headers["x-goog-api-key"] == KEY for seen in server.seen)
    assert all(seen.headers["x-mine"] == "yes" for seen in server.seen)
    embedding.close()
    generating.close()
    client.close()


def test_vertex_ai_through_its_own_client(server: Scripted) -> None:
    """Texts are not fused, tokens are added up, vectors of one call are counted; retries are off."""
    server.reply(503, BUSY)
    values = {
        "embeddings": [{"values": UNIT}, {"values": UNIT[::-1]}],
        "usageMetadata": {"promptTokenCount": 7},
    }
    server.reply(200, values)
    server.reply(200, {"embeddings": [{"values": UNIT}]})
    with gemini_client(server, vertexai=True) as client:
        provider = open_provider("gemini:gemini-embedding-001", client=client)
        work = EmbedWork(model="gemini-embedding-001", task="RETRIEVAL_DOCUMENT")
        with pytest.raises(ProviderError) as error:
            provider.call(["a", "b"], work, timeout_s=5)
        assert error.value.kind == "overloaded"
        assert len(server.seen) == 1
        answer = provider.call(["a", "b"], work, timeout_s=5)
        assert answer.tokens == 7
        assert [np.asarray(vector).argmax() for vector in answer.results] == [0, 3071]
        request = server.seen[-1]
        assert "publishers/google/models/gemini-embedding-001" in request.path
        assert [each["content"]["parts"] for each in request.body["requests"]] == [
            [{"text": "a"}],
            [{"text": "b"}],
        ]
        with pytest.raises(ProviderError) as error:
            provider.call(["a", "b"], work, timeout_s=5)
        assert error.value.kind == "protocol"


@pytest.mark.parametrize("vertexai", [False, True])
def test_gemini_generates_in_one_request(server: Scripted, vertexai: bool) -> None:
    """The SDK would go on by itself when an answer says that it is not finished: each further request is paid."""
    candidate = {"content": {"parts": [{"text": "half"}], "role": "model"}, "finishReason": "CONTINUATION"}
    server.reply(200, {"candidates": [candidate], "continuationToken": "bW9yZQ=="})
    with gemini_client(server, vertexai=vertexai) as client:
        provider = open_provider("gemini:gemini-2.5-flash", client=client)
        answer = provider.call(["a"], GenerateWork(model="gemini-2.5-flash"), timeout_s=5)
    (result,) = answer.results
    assert isinstance(result, Generated)
    assert result.text == "half"
    assert len(server.seen) == 1


def test_an_openai_client_keeps_its_headers_and_loses_its_retries(server: Scripted) -> None:
    """Five retries become none, for calls and for jobs; its headers stay."""
    server.reply(503, {"error": {"message": "busy"}}, retry_after_ms="1")
    headers = {"x-mine": "yes"}
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key=KEY, max_retries=5, default_headers=headers
    ) as client:
        provider = open_provider("openai:text-embedding-3-small", client=client)
        asks: list[Callable[[], object]] = [
            lambda: provider.call(["a"], EmbedWork(model="text-embedding-3-small"), timeout_s=5),
            lambda: provider.find("tag"),
            lambda: provider.submit([("k", "a")], EmbedWork(model="text-embedding-3-small"), tag="t"),
        ]
        for count, ask in enumerate(asks, 1):
            with pytest.raises(ProviderError) as error:
                ask()
            assert error.value.kind == "overloaded"
            assert error.value.retry_after_s == 0.001
            assert len(server.seen) == count
        assert all(seen.headers["x-mine"] == "yes" for seen in server.seen)
        assert all(seen.headers["authorization"] == f"Bearer {KEY}" for seen in server.seen)


def test_azure(server: Scripted) -> None:
    """A deployment is reached at its own path, with the key in its own header."""
    server.reply(200, {"data": [{"index": 0, "embedding": [1.0] + [0.0] * 1535}]})
    with openai.AzureOpenAI(azure_endpoint=server.url, api_key=KEY, api_version="2024-10-21") as client:
        provider = open_provider("openai:text-embedding-3-small", client=client)
        answer = provider.call(["a"], EmbedWork(model="text-embedding-3-small"), timeout_s=5)
    assert len(answer.results) == 1
    assert answer.tokens is None
    assert "/openai/deployments/text-embedding-3-small/embeddings" in server.seen[0].path
    assert server.seen[0].headers["api-key"] == KEY


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is learned and what is under way stays in the test's own folder."""
    monkeypatch.setenv("EMBATCH_CACHE", str(tmp_path))


def vertex(server: Scripted) -> tuple[str, Any]:
    server.reply(200, {"embeddings": [{"values": UNIT}] * 30, "usageMetadata": {"promptTokenCount": 90}})
    return "gemini:gemini-embedding-001", gemini_client(server, vertexai=True)


def azure(server: Scripted) -> tuple[str, Any]:
    vector = [1.0] + [0.0] * 1535
    rows = [{"index": index, "embedding": vector} for index in range(30)]
    server.reply(200, {"data": rows, "usage": {"prompt_tokens": 90, "total_tokens": 90}})
    client = openai.AzureOpenAI(azure_endpoint=server.url, api_key=KEY, api_version="2024-10-21")
    return "openai:text-embedding-3-small", client


@pytest.mark.usefixtures("own_folder")
@pytest.mark.parametrize("where", [vertex, azure])
@pytest.mark.parametrize("strategy", ["auto", "hybrid"])
def test_where_there_are_no_jobs_calls_do_it(
    server: Scripted, where: Callable[[Scripted], tuple[str, Any]], strategy: Any
) -> None:
    """Half an hour's worth of patience or not: on Vertex AI and Azure everything goes by calls, and that is said."""
    model, client = where(server)
    with client, Embedder(model, client=client, strategy=strategy, hour_worth=0.0) as embedder:
        lanes = embedder.embed([f"text {n}" for n in range(30)]).report.lanes
    assert lanes is not None
    assert (lanes.calls, lanes.jobs, lanes.call_items) == (1, 0, 30)
    assert any("has no jobs: 30 items go by calls" in decision for decision in lanes.decisions)


@pytest.mark.usefixtures("own_folder")
@pytest.mark.parametrize("where", [vertex, azure])
def test_where_there_are_no_jobs_none_can_be_asked_for(
    server: Scripted, where: Callable[[Scripted], tuple[str, Any]]
) -> None:
    """`batch` by name is refused before anything is sent, with the way out: it would cost twice as much by calls."""
    model, client = where(server)
    with client, pytest.raises(UsageError, match="no batch jobs here") as error:
        Embedder(model, client=client, strategy="batch")
    assert "individual" in error.value.hint
    assert not server.seen


@pytest.mark.usefixtures("own_folder")
def test_smart_clients_on_vertex(server: Scripted) -> None:
    """The smart client makes calls of however many requests; jobs asked for by name are refused."""
    _, client = vertex(server)
    requests = [EmbeddingRequest(text=f"text {n}", tag=str(n)) for n in range(30)]
    with client:
        smart = SmartGeminiClient(client, "models/gemini-embedding-001")
        assert [result.tag for result in smart.embed_content(requests) if result.embedding] == [
            str(n) for n in range(30)
        ]
        with pytest.raises(UsageError, match="no batch jobs here"):
            smart.embed_content(requests, force_batch=True)
        with pytest.raises(UsageError, match="no batch jobs here"):
            GeminiBatchClient(client, "models/gemini-embedding-001").embed_content(requests)
        smart.close()
