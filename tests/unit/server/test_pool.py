"""The pool of models: opened once, closed to make room, opened again when an engine has died."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from tests.doubles import FakeBackend, Faults

import embatch
from embatch.errors import (
    BackendClosedError,
    BackendError,
    EmbatchError,
    ExpiredError,
    ModelUnavailableError,
    UnknownModelError,
)
from embatch.frontends.server.pool import ModelPool, RestingModelError
from embatch.frontends.server.settings import ServedModel

if TYPE_CHECKING:
    from collections.abc import Coroutine

pytestmark = pytest.mark.serve


@dataclass
class FakeModel:
    """Stands where an AsyncEmbedder stands: only its life is looked at."""

    name: str
    alive: bool = True
    running: int = 0
    closed: bool = False
    drains: list[float] = field(default_factory=list)

    def snapshot(self) -> Any:
        return SimpleNamespace(alive=self.alive, waiting={}, running=self.running)

    async def aclose(self, *, drain_s: float = 0.0) -> None:
        await asyncio.sleep(0)
        self.closed = True
        self.drains.append(drain_s)


class Openings:
    """Opens fake models, counts, and fails or waits as told."""

    def __init__(self) -> None:
        self.opened: list[FakeModel] = []
        self.fails: list[Exception] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, served: ServedModel) -> Any:
        assert self.go.wait(10)
        if self.fails:
            raise self.fails.pop(0)
        self.opened.append(FakeModel(served.name))
        return self.opened[-1]

    @property
    def open_now(self) -> set[str]:
        return {model.name for model in self.opened if not model.closed}

    def names(self) -> list[str]:
        return [model.name for model in self.opened]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


MODELS = (
    ServedModel(name="a", model="minilm"),
    ServedModel(name="b", model="gemini:gemini-embedding-001"),
    ServedModel(name="c", model="hashing"),
)


def pool_of(openings: Openings, clock: Clock | None = None, **options: Any) -> ModelPool:
    return ModelPool(MODELS, openings, clock=clock or Clock(), **options)


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 20))


@pytest.mark.parametrize(
    ("called", "name"),
    [
        (None, "a"), ("a", "a"), ("minilm", "a"), ("sentence-transformers/all-MiniLM-L6-v2", "a"),
        ("gemini:gemini-embedding-001", "b"), ("gemini-embedding-001", "b"), ("hashing", "c"),
    ],
)  # fmt: skip
def test_a_model_answers_to_its_names(called: str | None, name: str) -> None:
    """The served name, what it stands for, the model's full name, and no name for the first."""
    assert pool_of(Openings()).name_of(called) == name


def test_a_served_name_goes_before_what_another_stands_for() -> None:
    """Whoever calls their model as another is called gets theirs."""
    models = (ServedModel(name="fast", model="minilm"), ServedModel(name="minilm", model="hashing"))
    pool = ModelPool(models, Openings())
    assert (pool.name_of("minilm"), pool.names()) == ("minilm", ["fast", "minilm"])
    assert pool.served("fast").model == "minilm"


def test_an_unknown_name_says_what_there_is() -> None:
    """The error lists the served names."""
    with pytest.raises(UnknownModelError, match="a, b, c"):
        pool_of(Openings()).using("gpt")


def test_many_first_requests_open_a_model_once() -> None:
    """Those that come while it is being opened get the same one."""

    async def check() -> None:
        openings = Openings()
        openings.go.clear()
        pool = pool_of(openings)
        asking = [asyncio.create_task(pool.get("a")) for _ in range(20)]
        await asyncio.sleep(0)
        assert pool.open_models() == {}
        openings.go.set()
        assert len({id(model) for model in await asyncio.gather(*asking)}) == 1
        assert openings.names() == ["a"]
        assert list(pool.open_models()) == ["a"]
        await pool.close()

    run(check())


def test_the_one_unused_for_longest_makes_room() -> None:
    """With room for two, a third closes the older of them, drained."""

    async def check() -> None:
        openings = Openings()
        pool = pool_of(openings, most_open=2, drain_s=7.0)
        for name in ("a", "b", "a", "c"):
            await pool.get(name)
        assert openings.open_now == {"a", "c"}
        assert openings.opened[1].drains == [7.0]
        await pool.close()

    run(check())


def test_one_in_use_is_not_closed_while_another_is_idle() -> None:
    """A lease, or work under way without one, protects a model that was unused for longer."""

    async def check() -> None:
        openings = Openings()
        pool = pool_of(openings, most_open=2)
        async with pool.using("a"):
            await pool.get("b")
            await pool.get("c")
            assert openings.open_now == {"a", "c"}
        openings.opened[0].running = 3
        await pool.get("b")
        assert openings.open_now == {"a", "b"}
        await pool.close()

    run(check())


def test_one_in_use_is_let_finish_and_gets_nothing_new_meanwhile() -> None:
    """With room for one, the newcomer waits for the lease, and who comes later for the newcomer: nobody starves."""

    async def check() -> None:
        openings = Openings()
        pool = pool_of(openings, most_open=1)
        order: list[str] = []

        async def use(name: str) -> None:
            async with pool.using(name):
                order.append(name)

        async with pool.using("a"):
            newcomer = asyncio.create_task(use("b"))
            for _ in range(5):
                await asyncio.sleep(0)
            late = asyncio.create_task(use("a"))
            for _ in range(5):
                await asyncio.sleep(0)
            assert openings.names() == ["a"]
            assert not openings.opened[0].closed
        await asyncio.gather(newcomer, late)
        assert order == ["b", "a"]
        assert openings.names() == ["a", "b", "a"]
        await pool.close()

    run(check())


def test_no_more_are_open_than_may_be_whatever_comes() -> None:
    """All models at once, with room for one, in any order: each is served, one at a time."""

    async def check() -> None:
        openings = Openings()
        pool = pool_of(openings, most_open=1)
        most = 0

        async def use(name: str) -> None:
            nonlocal most
            async with pool.using(name) as model:
                most = max(most, len(openings.open_now))
                await asyncio.sleep(0)
                assert not model.closed  # type: ignore[attr-defined]  # a FakeModel

        await asyncio.gather(*(use(name) for name in "abcacbbca" * 3))
        assert most == 1
        await pool.close()

    run(check())


def test_a_model_whose_engine_died_is_opened_again() -> None:
    """The first time at once, then after pauses that double and are told; other models are not touched."""

    async def check() -> None:
        openings, clock = Openings(), Clock()
        pool = pool_of(openings, clock)
        for pause in (0.0, 0.5, 1.0):
            await pool.get("a")
            openings.opened[-1].alive = False
            clock.now += 0.3
            if pause:
                with pytest.raises(RestingModelError, match="'a' failed") as caught:
                    await pool.get("a")
                assert caught.value.retry_after_s == pytest.approx(pause)
                await pool.get("b")
                clock.now += pause
        assert isinstance(await pool.get("a"), FakeModel)
        assert openings.names().count("a") == 4
        assert openings.names().count("b") == 1
        assert sum(not model.closed for model in openings.opened) == 2
        await pool.close()

    run(check())


def test_an_engine_is_looked_at_as_soon_as_an_ask_failed() -> None:
    """Between two looks a failure of the backend has the next request look at once."""

    async def check() -> None:
        openings = Openings()
        pool = pool_of(openings)

        async def ask() -> None:
            async with pool.using("a"):
                openings.opened[0].alive = False
                raise BackendError("it broke")

        with pytest.raises(BackendError):
            await ask()
        async with pool.using("a") as model:
            assert id(model) == id(openings.opened[1])
        await pool.close()

    run(check())


@pytest.mark.parametrize(
    "error", [ModelUnavailableError("no network"), RuntimeError("a bug with /secret/path")]
)
def test_a_model_that_cannot_be_opened_says_so_and_rests(error: Exception) -> None:
    """All who wait are told; the next may try after a pause; what a bug says stays in the log."""

    async def check() -> None:
        openings, clock = Openings(), Clock()
        openings.fails = [error]
        pool = pool_of(openings, clock)
        told = await asyncio.gather(pool.get("a"), pool.get("a"), return_exceptions=True)
        assert all(isinstance(each, RestingModelError) and each.retry_after_s == 0.5 for each in told)
        assert ("no network" in str(told[0])) is isinstance(error, EmbatchError)
        assert "secret" not in str(told[0])
        with pytest.raises(RestingModelError, match="tried again in"):
            await pool.get("a")
        clock.now += 0.5
        await pool.get("a")
        assert openings.names() == ["a"]
        await pool.close()

    run(check())


def test_whoever_waits_for_a_model_waits_no_longer_than_allowed() -> None:
    """A request's time ends its wait; the opening goes on for those that come later."""

    async def check() -> None:
        openings = Openings()
        openings.go.clear()
        pool = pool_of(openings)
        with pytest.raises(ExpiredError, match="'a' was not open within"):
            await pool.using("a", timeout_s=0.001).__aenter__()
        openings.go.set()
        await pool.get("a")
        assert openings.names() == ["a"]
        await pool.close()

    run(check())


def test_a_closed_pool_has_closed_everything() -> None:
    """Open models, and one that was being opened; who asks afterwards is told."""

    async def check() -> None:
        openings = Openings()
        pool = pool_of(openings)
        await pool.get("a")
        openings.go.clear()
        asking = asyncio.create_task(pool.get("b"))
        await asyncio.sleep(0)
        closing = asyncio.create_task(pool.close(3.0))
        await asyncio.sleep(0)
        openings.go.set()
        await closing
        assert openings.open_now == set()
        assert openings.opened[0].drains == [3.0]
        with pytest.raises(BackendClosedError):
            await asking
        with pytest.raises(BackendClosedError):
            await pool.get("a")

    run(check())


def test_memory_goes_back_whenever_a_model_comes_or_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a model is open, and once it is closed."""
    seen: list[tuple[int, int]] = []
    openings = Openings()

    def give_back() -> None:
        seen.append((len(openings.opened), len(openings.open_now)))

    monkeypatch.setattr("embatch.frontends.server.pool.give_back", give_back)

    async def check() -> None:
        pool = pool_of(openings)
        await pool.get("a")
        await pool.close()

    run(check())
    assert seen == [(1, 1), (1, 0)]


def test_nothing_of_a_dead_engine_outlives_it() -> None:
    """Its error remembers where it was raised, and the memory of the model with that."""
    backends: list[weakref.ref[FakeBackend]] = []

    def died(_texts: list[str]) -> None:
        raise BackendClosedError("the engine is gone")

    def open_model(_served: ServedModel) -> embatch.AsyncEmbedder:
        backend = FakeBackend(faults=Faults(before_embed=died))
        backends.append(weakref.ref(backend))
        return embatch.AsyncEmbedder(backend=backend, profiles=False)

    async def fail(pool: ModelPool) -> None:
        async with pool.using("a") as model:
            assert isinstance(model, embatch.AsyncEmbedder)
            await model.embed(["text"])

    async def check() -> None:
        pool = ModelPool(MODELS, open_model, most_open=2)
        with pytest.raises(EmbatchError):
            await fail(pool)
        async with pool.using("a"):
            pass
        assert len(backends) == 2
        assert backends[0]() is None
        await pool.close()

    gc.disable()
    try:
        run(check())
    finally:
        gc.enable()
