"""`AsyncEmbedder`: tasks of a program that share batches."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest
from tests.doubles import FakeBackend, Faults, Gate

import embatch
from embatch.decisions.tuning import BudgetTuner
from embatch.engine.tuners import SharedTuner
from embatch.errors import (
    BackendClosedError,
    EmptyTextError,
    ExpiredError,
    ItemsFailedError,
    OverloadedError,
    UsageError,
)
from embatch.frontends.hosts import LocalHost
from embatch.serving import Ask

if TYPE_CHECKING:
    from pathlib import Path

    from embatch.types import BatchRecord


def opened(backend: FakeBackend, **options: object) -> embatch.AsyncEmbedder:
    """An AsyncEmbedder over a double."""
    embedder = embatch.Embedder(backend=backend, profiles=False, **options)  # type: ignore[arg-type]  # any
    return embatch.AsyncEmbedder(embedder=embedder)


def test_tasks_share_batches_and_get_their_own_vectors() -> None:
    """A hundred tasks with one text each need a handful of batches."""
    backend = FakeBackend(first_budget=4096)

    async def main() -> None:
        async with opened(backend) as model:
            results = await asyncio.gather(*(model.embed([f"text {i}"]) for i in range(100)))
            for number, result in enumerate(results):
                assert np.array_equal(result.vectors[0], backend.vector(f"text {number}"))
            assert model.snapshot().answered == 100

    asyncio.run(main())
    assert backend.calls < 20


def test_queries_get_the_query_prompt_and_outputs_their_type() -> None:
    """What `Embedder` was opened with holds for what is asked through it."""
    backend = FakeBackend()

    async def main() -> None:
        async with opened(backend, dimensions=4, output="float16") as model:
            query = await model.embed_query("text")
            cut = backend.vector("text", prompt="query: ")[:4]
            assert query.dtype == np.float16
            assert np.allclose(query, cut / np.linalg.norm(cut), atol=1e-3)
            assert (await model.embed([])).vectors.shape == (0, 4)
            assert (await model.embed(["a"], dimensions=2)).vectors.shape == (1, 2)

    asyncio.run(main())


def test_failures_are_raised_or_collected() -> None:
    """As with `Embedder`, one bad text ends the call, or is named beside the vectors."""
    backend = FakeBackend()

    async def main() -> None:
        async with opened(backend) as model:
            with pytest.raises(ItemsFailedError) as failed:
                await model.embed(["good", ""], keys=["a", "b"])
            assert failed.value.failures[0].key == "b"
            result = await model.embed(["good", ""], on_error="collect")
            assert np.isfinite(result.vectors[0]).all()
            assert [failure.row for failure in result.errors] == [1]
            with pytest.raises(EmptyTextError):
                await model.embed_query(" ")

    asyncio.run(main())


def test_a_cancelled_task_takes_its_ask_along() -> None:
    """What is not computed yet never will be."""
    gate = Gate()
    backend = FakeBackend(faults=Faults(before_embed=gate))

    async def main() -> None:
        async with opened(backend) as model:
            first = asyncio.create_task(model.embed(["first"]))
            await asyncio.to_thread(gate.held.wait)
            second = asyncio.create_task(model.embed(["second"]))
            await asyncio.sleep(0)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            gate.open.set()
            await first
            assert model.snapshot().cancelled == 1

    asyncio.run(main())
    assert backend.batches == [["first"]]


def test_time_limits_and_full_queues_are_told() -> None:
    """An ask that cannot be served in time, or finds no room, is refused with its own error."""
    gate = Gate()
    backend = FakeBackend(faults=Faults(before_embed=gate))

    async def main() -> None:
        embedder = embatch.Embedder(backend=backend, profiles=False)
        async with embatch.AsyncEmbedder(embedder=embedder, queue=2, timeout_s=0.05) as model:
            first = asyncio.create_task(model.ask(Ask(inputs=["first"], timeout_s=20)))
            await asyncio.to_thread(gate.held.wait)
            waiting = asyncio.create_task(model.embed(["one", "two"]))
            await asyncio.sleep(0)
            with pytest.raises(OverloadedError):
                await model.embed(["three"])
            with pytest.raises(ExpiredError):
                await waiting
            gate.open.set()
            assert np.isfinite((await first).vectors).all()

    asyncio.run(main())


def test_several_event_loops_may_use_one_model() -> None:
    """Threads with loops of their own share it."""
    backend = FakeBackend()
    model = opened(backend)
    wrong: list[int] = []

    def client(number: int) -> None:
        async def main() -> None:
            result = await model.embed([f"text {number}"])
            if not np.array_equal(result.vectors[0], backend.vector(f"text {number}")):
                wrong.append(number)

        asyncio.run(main())

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    model.close()
    assert not wrong
    assert model.snapshot().answered == 8


def test_a_closed_model_says_so() -> None:
    """Asking after closing is a named error, and an own embedder is closed with it."""

    async def main() -> None:
        model = embatch.AsyncEmbedder("hashing", profiles=False)
        await model.aclose()
        with pytest.raises(BackendClosedError):
            await model.embed(["text"])

    asyncio.run(main())


def test_known_vectors_come_from_the_cache_file(tmp_path: Path) -> None:
    """A cache file serves asks as it serves runs, and each sees what the other has put there."""
    file, backend = tmp_path / "cache.sqlite", FakeBackend()
    with embatch.Embedder(backend=backend, profiles=False, cache=file) as embedder:
        embedder.embed(["one"])

    async def main() -> None:
        again = FakeBackend()
        async with opened(again, cache=file) as model:
            assert (await model.embed(["one"])).report.cached == 1
            assert (await model.embed(["two"])).report.cached == 0
            await model.aclose(drain_s=1.0)
            model.embedder.close()
        assert again.batches == [["two"]]

    asyncio.run(main())
    with embatch.Embedder(backend=FakeBackend(), profiles=False, cache=file) as embedder:
        assert embedder.embed(["one", "two"]).report.cached == 2


def test_asks_learn_a_budget_of_their_own_which_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """They go on from what runs of the embedder have learned, and leave the tuner of runs alone."""
    saved: list[int] = []

    class Profiles:
        def load(self, _key: str) -> int | None:
            return None

        def save(self, _key: str, budget: int, _rate: float) -> None:
            saved.append(budget)

    class OfRuns(SharedTuner):
        def record(self, batch: BatchRecord) -> None:
            raise AssertionError(f"a batch of asks was told to the tuner of runs: {batch}")

    monkeypatch.setattr("embatch.storage.profiles.default_profiles", Profiles)
    with embatch.Embedder(backend=FakeBackend()) as embedder:
        assert isinstance(embedder.host, LocalHost)
        embedder.host.tuner = OfRuns(BudgetTuner(low=1, high=64, first=8, profile=16))
        model = embatch.AsyncEmbedder(embedder=embedder)
        asyncio.run(model.embed(["a", "b"]))
        assert model.snapshot().budget == 16
        model.close()
    assert saved == [16]


def test_options_beside_an_open_embedder_are_refused() -> None:
    """An option that could do nothing is an error."""
    with (
        embatch.Embedder(backend=FakeBackend(), profiles=False) as embedder,
        pytest.raises(UsageError, match="precision"),
    ):
        embatch.AsyncEmbedder(embedder=embedder, precision="fp32")


def test_loops_that_are_closed_are_not_kept() -> None:
    """A program that runs loop after loop over one model leaves none of them behind."""
    model, loops = opened(FakeBackend()), []

    async def main() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await model.embed(["text"])

    for _ in range(3):
        asyncio.run(main())
    gc.collect()
    model.close()
    assert [loop() is None for loop in loops[:2]] == [True, True]


def test_a_closed_model_is_gone_at_once(tmp_path: Path) -> None:
    """Nothing of it refers back to it, so that its memory does not wait for the garbage collector."""

    def used() -> list[weakref.ref[object]]:
        backend = FakeBackend()
        model = opened(backend, cache=tmp_path / "cache.db")
        asyncio.run(model.embed(["text"]))
        model.close()
        return [weakref.ref(backend), weakref.ref(model)]

    gc.collect()
    gc.disable()
    try:
        assert [one() for one in used()] == [None, None]
    finally:
        gc.enable()


def test_ever_new_dimensions_do_not_open_ever_new_stores(tmp_path: Path) -> None:
    """A cache holds so many files open; asks beyond that are answered all the same."""
    backend = FakeBackend(dim=48)

    async def main() -> None:
        async with opened(backend, cache=tmp_path / "cache.db") as model:
            for dimensions in [*range(1, 49), 48]:
                assert (await model.embed(["text"], dimensions=dimensions)).vectors.shape == (1, dimensions)
            files = psutil.Process().open_files()
            assert 0 < sum("cache.db" in file.path for file in files) <= 3 * 32

    asyncio.run(main())
