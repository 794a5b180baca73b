"""Clients that the user brings: used as they are, but for their retries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from embatch.errors import ProviderError
from embatch.providers.registry import open_provider
from embatch.remote import EmbedWork, Generated, GenerateWork

if TYPE_CHECKING:
    from collections.abc import Callable

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
