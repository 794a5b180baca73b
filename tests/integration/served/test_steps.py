"""Batch jobs killed at every step: wherever a server dies, the next one finds all it needs."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from tests.served import World, line_of, wait_for

from embatch.frontends.server.jobs import Jobs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.serve

COUNT = 150
LINES = [line_of(place, f"text {place}" if place != 100 else "") for place in range(COUNT)]


class DyingJobs(Jobs):
    """Jobs whose process dies at the n-th thing that it wants done in a thread."""

    dies_at = 1_000_000
    steps = 0

    async def in_thread(self, function: Callable[..., Any], *values: object, **named: object) -> Any:
        self.steps += 1
        if self.steps < self.dies_at:
            return await super().in_thread(function, *values, **named)
        raise asyncio.CancelledError


class Story:
    """One job that is to end in some way, and the server that dies on its way there."""

    def __init__(self, folder: Path, ending: str) -> None:
        self.world = World(folder)
        self.ending = ending
        self.world.pool.embedder.fails = self._look

    def _look(self, ask: object) -> None:
        """After the second ask it is time for the job to end."""
        if len(self.world.pool.embedder.asks) == 2 and self.ending == "cancelled":
            self._cancelling = asyncio.create_task(self._cancel())

    async def _cancel(self) -> None:
        with suppress(asyncio.CancelledError):
            await self.world.jobs.cancel(self.name)

    async def die(self, at: int) -> bool:
        """Carry the job on until the server dies; False if it came to the end first."""
        world = self.world
        name = await world.put(LINES)
        served = await world.jobs.opened()
        job = served.jobs.create(
            owner="",
            endpoint="/v1/embeddings",
            input_file=name,
            metadata=None,
            output_expires_s=None,
            created=world.now,
            expires=world.now + 24 * 3600,
        )
        self.name = job.id
        await world.jobs.stop()
        jobs = DyingJobs(world.settings, world.pool, clock=lambda: world.now)
        jobs.dies_at = at
        world.jobs = jobs
        folder = None
        with suppress(asyncio.CancelledError):
            folder = (await jobs.opened()).folder
            await self._until_dead_or_done(jobs)
        if folder is not None:
            folder.close()
        with suppress(asyncio.CancelledError):
            await jobs.stop()
        return jobs.steps >= at

    @staticmethod
    async def _until_dead_or_done(jobs: DyingJobs) -> None:
        async def there() -> bool:
            counts = jobs.counts()
            ended = sum(counts[status] for status in ("completed", "cancelled", "expired"))
            return bool(ended) or jobs.steps >= jobs.dies_at

        await wait_for(there)

    async def end(self) -> None:
        """The next server: the job ends, and each row is told once, in order."""
        world = self.world
        await world.anew()
        job = await world.wait(self.name)
        assert job.status in {self.ending, "completed"}  # it may have been faster
        told = [[int(line["custom_id"]) for line in lines] for lines in await world.outputs(self.name)]
        assert sorted(told[0] + told[1]) == list(range(COUNT))
        assert told == [sorted(numbers) for numbers in told]
        assert len(told[0]) == job.done.completed
        assert 100 in told[1]
        await world.jobs.stop()


@pytest.mark.parametrize("ending", ["completed", "cancelled"])
def test_killed_at_every_step(tmp_path: Path, ending: str) -> None:
    """Wherever a server dies, the next one brings the job to its end, with each row told once."""

    async def all_steps() -> int:
        for step in range(2, 200):  # before the second one it does not know the job
            story = Story(tmp_path / str(step), ending)
            died = await story.die(step)
            await story.end()
            if not died:
                return step
        raise AssertionError("it never came to its end")

    assert asyncio.run(all_steps()) > 15
