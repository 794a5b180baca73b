"""Batch jobs over a provider's model, against an emulator: they go through the provider's own jobs, once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from tests.served import FakePool, World, line_of, vectors_in, wait_for

from embatch.errors import UnknownModelError
from embatch.frontends.server.settings import ServedModel
from embatch.storage.spending import Purse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from embatch.emulator import Emulator
    from embatch.frontends.embedder import Embedder

pytestmark = [pytest.mark.serve, pytest.mark.remote]

MODEL = "openai:text-embedding-3-small"
SCALE = 200.0
SHORT_S, LONG_S = 40.0, 40_000.0
"""A fifth of a second of ours, and longer than any test."""


class ProviderPool:
    """One model of a provider's, called `small`; nothing is asked of it but through jobs."""

    def using(self, name: str | None = None) -> Any:
        raise AssertionError(f"{name} is to be asked through jobs")

    def name_of(self, name: str | None) -> str:
        return self.served(name).name

    def served(self, name: str | None) -> ServedModel:
        if name != "small":
            raise UnknownModelError(f"no model {name!r}")
        return ServedModel(name="small", model=MODEL)


@dataclass
class Place:
    """An emulator whose time runs fast, and a world of jobs over it."""

    emulator: Emulator
    folder: Path
    opened: list[Embedder] = field(default_factory=list)

    def open_embedder(self, served: ServedModel) -> Embedder:
        from embatch import Embedder
        from embatch.engine.lanes.clock import Clock
        from embatch.frontends.remote import RemoteModel
        from embatch.providers.registry import open_provider

        provider = open_provider(served.model, base_url=self.emulator.url, api_key="a-key")
        embedder = Embedder(backend=RemoteModel(provider, clock=Clock(SCALE)))
        self.opened.append(embedder)
        return embedder

    def play(self, story: Callable[[World], Awaitable[None]], **options: Any) -> None:
        """Tell a story in a world that is tidied up afterwards."""

        async def told() -> None:
            world = World(self.folder, open_embedder=self.open_embedder, **options)
            world.pool = ProviderPool()  # type: ignore[assignment]  # another double
            await world.again()
            try:
                await story(world)
            finally:
                await world.jobs.stop()

        asyncio.run(told())

    async def is_tidy(self) -> bool:
        return not list((self.folder / "state" / "runs").iterdir())

    async def has_jobs(self) -> bool:
        return bool(self.emulator.jobs())


@pytest.fixture(params=[SHORT_S])
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    pytest.importorskip("openai")
    from embatch.emulator import Emulator, EmulatorOptions, JobTimes, Latency

    monkeypatch.setenv("EMBATCH_CACHE", str(tmp_path / "cache"))
    options = EmulatorOptions(
        seed=5, time_scale=SCALE, jobs=JobTimes.fixed(request.param), latency=Latency.none(), tier="3"
    )
    with Emulator("openai", options=options) as emulator:
        yield Place(emulator, tmp_path)


def rows(count: int, **body: Any) -> list[bytes]:
    return [line_of(place, f"text {place}", model="small", **body) for place in range(count)]


def texts_billed(place: Place, count: int = 60) -> set[int]:
    return {place.emulator.billed(f"text {number}") for number in range(count)}


def test_a_job(place: Place) -> None:
    """A job's texts go through one job of the provider's, at its price, and come back under their rows' names."""

    async def story(world: World) -> None:
        lines = rows(60)
        lines[7] = line_of(7, "", model="small")
        lines[8] = line_of(8, [1, 2, 3], model="small")
        lines[9] = line_of(9, ["text 9", "more"], model="small", encoding_format="base64")
        name = await world.submit(lines)
        job = await world.wait(name)
        assert (job.status, job.done.completed, job.done.failed) == ("completed", 58, 2)
        assert job.done.tokens > 60
        good, bad = await world.outputs(name)
        assert [line["custom_id"] for line in bad] == ["7", "8"]
        assert [line["custom_id"] for line in good] == [str(each) for each in range(60) if each not in {7, 8}]
        vectors = [vectors_in(line)[0] for line in good if line["custom_id"] != "9"]
        assert len({tuple(vector[:8]) for vector in vectors}) == 57
        assert len(good[7]["response"]["body"]["data"]) == 2
        with place.open_embedder(world.pool.served("small")) as embedder:
            alone = embedder.embed(["text 0", "text 59"]).vectors
        assert vectors[0] == pytest.approx(alone[0].tolist(), abs=1e-5)
        assert vectors[-1] == pytest.approx(alone[1].tolist(), abs=1e-5)
        assert len(place.emulator.jobs()) == 1
        await wait_for(place.is_tidy)

    place.play(story)


def test_kinds_of_rows(place: Place) -> None:
    """Rows that want fewer dimensions are a run of their own; dimensions that the model lacks are row errors."""

    async def story(world: World) -> None:
        lines = rows(6)
        lines[1] = line_of(1, "text 1", model="small", dimensions=64)
        lines[2] = line_of(2, "text 2", model="small", dimensions=99_999)
        lines[3] = line_of(3, "text 3", model="small", dimensions=1536)  # which is what it has anyway
        name = await world.submit(lines)
        job = await world.wait(name)
        assert (job.status, job.done.completed, job.done.failed) == ("completed", 5, 1)
        good, bad = await world.outputs(name)
        assert {line["custom_id"]: len(vectors_in(line)[0]) for line in good} == {
            **dict.fromkeys("0345", 1536),
            "1": 64,
        }
        assert texts_billed(place, 6) == {0, 1}
        assert [line["response"]["status_code"] for line in bad] == [400]

    place.play(story)


def test_restart(place: Place) -> None:
    """A server that is stopped while the provider works finds the provider's job again, and pays once."""

    async def story(world: World) -> None:
        name = await world.submit(rows(60))
        await wait_for(place.has_jobs)
        await world.again()
        assert (await world.look(name)).status == "in_progress"
        job = await world.wait(name)
        assert (job.status, job.done.completed) == ("completed", 60)
        assert len(place.emulator.jobs()) == 1
        assert texts_billed(place) == {1}
        assert len(place.opened) == 2

    place.play(story)


@pytest.mark.parametrize("place", [LONG_S], indirect=True)
def test_cancelling(place: Place) -> None:
    """Cancelling cancels the provider's job too; every row is told what became of it."""

    async def story(world: World) -> None:
        name = await world.submit(rows(60))
        await wait_for(place.has_jobs)
        assert await world.jobs.cancel(name)
        job = await world.wait(name)
        assert job.status == "cancelled"
        good, bad = await world.outputs(name)
        assert len(good) + len(bad) == 60
        assert {line["error"]["code"] for line in bad} <= {"batch_cancelled"}
        assert {each.state for each in place.emulator.jobs()} <= {"cancelling", "cancelled"}

    place.play(story)


@pytest.mark.parametrize("place", [LONG_S], indirect=True)
def test_cancelled_before_a_restart(place: Place) -> None:
    """A cancel that a kill came after is carried out by the next server, at the provider too."""

    async def story(world: World) -> None:
        name = await world.submit(rows(60))
        await wait_for(place.has_jobs)
        await world.jobs.stop()
        world.jobs = world._jobs()
        served = await world.jobs.opened()
        served.jobs.cancel(name, world.now)
        await world.again()
        assert (await world.wait(name)).status == "cancelled"
        assert {each.state for each in place.emulator.jobs()} <= {"cancelling", "cancelled"}

    place.play(story)


@pytest.mark.parametrize("place", [LONG_S], indirect=True)
def test_expiry(place: Place) -> None:
    """A job whose window is over ends with what it has, and gives the rest up at the provider."""

    async def story(world: World) -> None:
        name = await world.submit(rows(60))
        await wait_for(place.has_jobs)
        world.now += 24 * 3600
        job = await world.wait(name)
        assert job.status == "expired"
        good, bad = await world.outputs(name)
        assert len(good) + len(bad) == 60
        assert {line["error"]["code"] for line in bad} <= {"batch_expired"}

    place.play(story)


def test_wrong_key(place: Place) -> None:
    """Where the provider refuses the key, the job fails and says why."""
    from embatch.emulator import Fault

    place.emulator.fault(Fault(kind="unauthenticated", times=1000))

    async def story(world: World) -> None:
        name = await world.submit(rows(5))
        job = await world.wait(name)
        assert job.status == "failed"
        assert [each["code"] for each in job.errors or []] == ["provider_failed"]
        good, bad = await world.outputs(name)
        assert (len(good), len(bad)) == (0, 5)

    place.play(story)


def test_provider_without_jobs(place: Place) -> None:
    """Where a provider has no jobs of its own, the rows go by calls, as those of a model on this machine."""
    pool = FakePool()
    pool.served = lambda name: ServedModel(  # type: ignore[method-assign]  # a pool that serves another model
        name=pool.name_of(name), model=MODEL.replace("openai", "compatible")
    )

    async def story(world: World) -> None:
        world.pool = pool
        await world.again()
        name = await world.submit([line_of(number, f"text {number}") for number in range(70)])
        job = await world.wait(name)
        assert (job.status, job.done.completed) == ("completed", 70)
        assert pool.embedder.asks
        assert len(place.opened) == 1
        assert place.emulator.jobs() == []

    place.play(story)


def test_money(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """A day's dollars bound jobs as well: what a job may cost is set aside first, and what it did cost is booked."""
    poor = Purse(place.folder / "poor.sqlite", per_day=1e-9)
    rich = Purse(place.folder / "rich.sqlite", per_day=5.0)

    async def waits(world: World) -> None:
        name = await world.submit(rows(60))

        async def told() -> bool:
            return "waits: the limit of all clients" in caplog.text

        await wait_for(told)
        assert place.emulator.jobs() == []
        await world.jobs.cancel(name)
        await world.wait(name)

    place.play(waits, purse=poor)
    assert sum(poor.spent_today().values()) == 0

    async def pays(world: World) -> None:
        await world.wait(await world.submit(rows(60)))

    place.play(pays, purse=rich)
    billed = sum(total.dollars for total in place.emulator.billing().totals)
    assert 0 < billed == pytest.approx(sum(rich.spent_today().values()), rel=0.01)
    poor.close()
    rich.close()
