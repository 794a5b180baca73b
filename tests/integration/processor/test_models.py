"""A processor over models instead of services: on this machine, and behind a provider's API."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.fake_provider import FakeProvider, vector

from embatch import Embedder
from embatch.frontends.processor.processor import BatchEmbeddingProcessor
from embatch.frontends.remote import LaneSettings, RemoteModel
from embatch.storage.cache import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.doubles import FakeBackend

    from embatch.frontends.processor.records import BatchProgress

TEXTS = [f"text number {i}" for i in range(300)]


@pytest.fixture(autouse=True)
def _nothing_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test learns from another."""
    monkeypatch.setenv("EMBATCH_CACHE", str(tmp_path / "cache"))


def remote(provider: FakeProvider, **options: Any) -> Embedder:
    """An Embedder over a provider in memory."""
    settings = LaneSettings(strategy="individual")
    return Embedder(backend=RemoteModel(provider, settings=settings), **options)


def test_a_model_on_this_machine(fake_backend: type[FakeBackend]) -> None:
    """Vectors are those of the Embedder; batches hold no more texts than asked for."""
    backend = fake_backend()
    with Embedder(backend=backend, profiles=False) as embedder:
        wanted = embedder.embed(TEXTS).vectors
        backend.batches.clear()
        result = asyncio.run(BatchEmbeddingProcessor(embedder, batch_size=7).process_chunks(TEXTS))
    assert np.array_equal(result.embeddings, wanted)
    assert max(map(len, backend.batches)) <= 7
    assert result.batches_processed == len(backend.batches)
    assert (result.model, result.cost, result.failures) == (backend.spec.model, 0.0, [])
    assert result.spent.tokens > 0


def test_failures_on_this_machine(faulty_backend: Callable[..., FakeBackend]) -> None:
    """A text without a vector is named, its neighbours have theirs."""
    with Embedder(backend=faulty_backend(nan_for=["number 17"]), profiles=False) as embedder:
        result = asyncio.run(BatchEmbeddingProcessor(embedder).process_chunks([*TEXTS, ""]))
    assert [failure.row for failure in result.failures] == [17, *range(170, 180), 300]
    assert result.vector(17) is None
    assert result.vector(18) is not None


def test_cancelling_a_model_on_this_machine(faulty_backend: Callable[..., FakeBackend]) -> None:
    """The run ends before the next batch."""
    held, entered = threading.Event(), threading.Event()

    def hold(texts: list[str]) -> None:
        del texts
        entered.set()
        held.wait(5)

    async def go() -> None:
        with Embedder(backend=backend, profiles=False) as embedder:
            task = asyncio.create_task(BatchEmbeddingProcessor(embedder, batch_size=5).process_chunks(TEXTS))
            await asyncio.to_thread(entered.wait, 5)
            task.cancel()
            await asyncio.sleep(0)
            held.set()
            with pytest.raises(asyncio.CancelledError):
                await task

    backend = faulty_backend(before_embed=hold)
    asyncio.run(go())
    assert len(backend.batches) < len(TEXTS) // 5


def test_a_provider_s_model() -> None:
    """Calls go through its lanes; tokens and dollars are the provider's."""
    provider = FakeProvider()

    async def go() -> list[BatchProgress]:
        with remote(provider) as embedder:
            one = BatchEmbeddingProcessor(embedder)
            seen = [progress async for progress in one.process_with_progress([*TEXTS, *TEXTS])]
            assert one.result is not None
            assert np.allclose(one.result.embeddings, np.array([vector(text) for text in [*TEXTS, *TEXTS]]))
            assert (one.result.spent.repeated, one.result.model) == (300, "fake")
            assert one.result.cost is not None
            assert one.result.cost > 0
            return seen

    last = asyncio.run(go())[-1]
    assert (last.completed, last.failed, last.batches_processed) == (600, 0, len(provider.calls))
    assert max(provider.billed().values()) == 1


def test_an_embedder_s_cache_is_used() -> None:
    """What an Embedder's cache holds is not paid for again."""
    provider, cache = FakeProvider(), MemoryStore()

    async def go(texts: list[str]) -> int:
        with remote(provider, cache=cache) as embedder:
            result = await BatchEmbeddingProcessor(embedder).process_chunks(texts)
            return result.spent.cached

    assert asyncio.run(go(TEXTS)) == 0
    assert asyncio.run(go([*TEXTS, "new"])) == 300
    assert max(provider.billed().values()) == 1


def test_cancelling_a_provider_s_model() -> None:
    """Nothing more is sent, and what was answered is in the result."""
    answered = threading.Event()
    release = threading.Event()

    def hold(texts: Sequence[str]) -> None:
        if len(provider.calls) >= 3:
            answered.set()
            release.wait(5)

    provider = FakeProvider(before_call=hold)

    async def go() -> int:
        settings = LaneSettings(strategy="individual", parallel=1)
        with Embedder(backend=RemoteModel(provider, settings=settings)) as embedder:
            one = BatchEmbeddingProcessor(embedder)
            task = asyncio.create_task(one.process_chunks(TEXTS))
            await asyncio.to_thread(answered.wait, 5)
            task.cancel()
            await asyncio.sleep(0)
            release.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert one.result is not None
            return int(np.isfinite(one.result.embeddings[:, 0]).sum())

    assert asyncio.run(go()) == 10 * len(provider.calls) < 300


@pytest.mark.model
def test_the_default_model() -> None:
    """Without a service, the default model embeds, opened once for all runs and closed at the end."""

    async def go() -> None:
        async with BatchEmbeddingProcessor() as one:
            first = await one.process_chunks(TEXTS[:40])
            second = await one.process_chunks(TEXTS[:40])
        assert first.embeddings.shape == (40, 384)
        assert np.allclose(first.embeddings, second.embeddings, atol=1e-3)
        await one.aclose()

    asyncio.run(go())
