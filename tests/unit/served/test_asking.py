"""One job's inputs against its model: what waits, what is tried again, and what stands alone in the end."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.served import POISON, FakePool, vector_of

from embatch.errors import (
    BackendClosedError,
    BackendError,
    CorruptModelError,
    EmbatchError,
    ExpiredError,
    GoalError,
    ModelUnavailableError,
    NotSentError,
    OutOfMemoryError,
    OverloadedError,
    ProviderError,
    UsageError,
)
from embatch.frontends.server.jobs.asking import LONGEST_PAUSE_S, Asker, JobFailedError
from embatch.frontends.server.jobs.rows import Settled, Wish
from embatch.remote import ErrorKind
from embatch.types import ItemFailure


class World:
    """A pool, and how long was waited."""

    def __init__(self) -> None:
        self.pool = FakePool()
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)

    def settle(self, texts: list[str], wish: Wish = Wish(), most: int = 8) -> list[Settled]:  # noqa: B008  # frozen
        asker = Asker(self.pool, "double", most_inputs=most, sleep=self.sleep)
        return asyncio.run(asker.settle(texts, wish))


def good(settled: list[Settled], texts: list[str]) -> bool:
    return all(
        each.vector is not None and np.array_equal(each.vector, vector_of(text))
        for each, text in zip(settled, texts, strict=True)
    )


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 9), st.booleans())
def test_poison(poisoned: list[bool], most: int, singly: bool) -> None:
    """Whichever inputs are bad, they alone fail, whether the model names them or fails as a whole."""
    texts = [f"{POISON * bad} {place}" for place, bad in enumerate(poisoned)]
    world = World()
    world.pool.embedder.singly = singly
    settled = world.settle(texts, most=most)
    assert [each.vector is None for each in settled] == poisoned
    assert all((each.problem is not None) == (each.vector is None) for each in settled)
    fine = [place for place, bad in enumerate(poisoned) if not bad]
    assert good([settled[place] for place in fine], [texts[place] for place in fine])
    assert max(len(ask.inputs) for ask in world.pool.embedder.asks) <= most
    assert max(world.pool.embedder.seen.values(), default=1) == 1


@pytest.mark.parametrize(
    "error",
    [
        OverloadedError("full", retry_after_s=7.5),
        ExpiredError("late"),
        GoalError("today's dollars are spent"),
        BackendClosedError("makes room"),
        ProviderError("busy", kind=ErrorKind.OVERLOADED, retry_after_s=7.5),
    ],
)
def test_waits(error: EmbatchError) -> None:
    """What is nobody's fault is waited out, however often, at least as long as was asked for; nothing is split."""
    world = World()
    world.pool.embedder.troubles = [error] * 12
    assert good(world.settle(["a", "b"]), ["a", "b"])
    assert len(world.slept) == 12
    assert {len(ask.inputs) for ask in world.pool.embedder.asks} == {2}
    asked_s = getattr(error, "retry_after_s", None) or 0.0
    assert min(world.slept) >= asked_s
    assert world.slept == sorted(world.slept)
    assert world.slept[-1] == LONGEST_PAUSE_S


def test_waits_for_a_model() -> None:
    """A model that cannot be opened now is waited for."""
    world = World()
    world.pool.troubles = [ModelUnavailableError("resting")] * 3
    assert good(world.settle(["a"]), ["a"])
    assert len(world.slept) == 3


def test_a_dead_engine_is_not_the_inputs_fault() -> None:
    """While the engine is dead nothing is split and nobody blamed."""
    world = World()
    embedder = world.pool.embedder
    embedder.alive = False
    embedder.troubles = [BackendError("engine died")] * 3
    assert good(world.settle(["a", "b", "c"]), ["a", "b", "c"])
    assert {len(ask.inputs) for ask in embedder.asks} == {3}


def test_too_much_at_once() -> None:
    """What does not fit into memory together is asked in halves."""
    world = World()
    world.pool.embedder.fails = lambda ask: OutOfMemoryError("no room") if len(ask.inputs) > 2 else None
    texts = [f"text {place}" for place in range(7)]
    assert good(world.settle(texts), texts)


def test_alone_and_still_too_much() -> None:
    """An input that does not fit alone is tried a few times, and then is an error."""
    world = World()
    world.pool.embedder.fails = lambda ask: OutOfMemoryError("no room")
    (settled,) = world.settle(["a"])
    assert settled.problem is not None
    assert settled.problem.status == 503
    assert 1 < len(world.pool.embedder.asks) < 6


def test_usage() -> None:
    """What the model does not offer is the row's own error."""
    world = World()
    world.pool.embedder.fails = lambda ask: UsageError("no such dimensions") if ask.dimensions else None
    (settled,) = world.settle(["a"], Wish(dimensions=9000))
    assert settled.problem is not None
    assert settled.problem.status == 400


@pytest.mark.parametrize(
    "error", [CorruptModelError("broken files"), ProviderError("bad key", kind=ErrorKind.AUTH)]
)
def test_hopeless(error: EmbatchError) -> None:
    """Where nothing can succeed any more, the job fails."""
    world = World()
    world.pool.embedder.troubles = [error]
    with pytest.raises(JobFailedError):
        world.settle(["a"])


def test_failures_that_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """An input that failed with an error that may pass is tried again, alone."""
    world = World()
    embedder = world.pool.embedder
    answer = embedder.ask

    async def flaky(ask: Any) -> Any:
        told = await answer(ask)
        if len(embedder.asks) == 1:
            object.__setattr__(told, "failures", [ItemFailure(row=1, key="1", error=NotSentError("later"))])
        return told

    monkeypatch.setattr(embedder, "ask", flaky)
    assert good(world.settle(["a", "b", "c"]), ["a", "b", "c"])
    assert [list(ask.inputs) for ask in embedder.asks] == [["a", "b", "c"], ["b"]]


def test_answers_are_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN that no failure names is an error of its input; so is an answer of another length of all of them."""
    world = World()
    embedder = world.pool.embedder
    answer = embedder.ask

    async def nan(ask: Any) -> Any:
        told = await answer(ask)
        told.vectors[0, 2] = np.nan
        return told

    monkeypatch.setattr(embedder, "ask", nan)
    assert [each.problem is None for each in world.settle(["a", "b"])] == [False, True]

    async def short(ask: Any) -> Any:
        told = await answer(ask)
        object.__setattr__(told, "vectors", told.vectors[:-1])
        return told

    monkeypatch.setattr(embedder, "ask", short)
    assert all(each.problem is not None for each in world.settle(["a", "b"]))
