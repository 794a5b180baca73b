"""Batch jobs from their start to their end, stopped in between, with a double for the model."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest
from tests.served import POISON, World, line_of, no_more_than, vector_of, vectors_in, wait_for

from embatch.errors import OverloadedError
from embatch.frontends.server.jobs.carrying import IN_FLIGHT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from embatch.storage.served_jobs import ServedJob

pytestmark = pytest.mark.serve


def play(folder: Path, story: Callable[[World], Awaitable[None]], **options: Any) -> None:
    """Tell a story in a world that is tidied up afterwards."""

    async def told() -> None:
        world = World(folder, **options)
        await world.jobs.start()
        try:
            await story(world)
        finally:
            await world.jobs.stop()

    asyncio.run(told())


def rows(count: int, **body: Any) -> list[bytes]:
    return [line_of(place, f"text {place}", **body) for place in range(count)]


def begun(job: ServedJob) -> bool:
    return job.done.completed > 0


def check(lines: list[dict[str, Any]], places: range | list[int]) -> None:
    """Whether an output has these rows, in order, with their vectors."""
    assert [line["custom_id"] for line in lines] == [str(place) for place in places]
    for line in lines:
        assert vectors_in(line) == [pytest.approx(vector_of(f"text {line['custom_id']}"))]


def test_a_job(tmp_path: Path) -> None:
    """A job goes through its states, counts its rows, and its output has them in the order of the input."""

    async def story(world: World) -> None:
        world.pool.embedder.gate.clear()
        name = await world.submit(rows(500))
        job = await world.wait(name, lambda job: job.status == "in_progress")
        assert (job.total, job.model) == (500, "double")
        world.now += 5
        world.pool.embedder.gate.set()
        job = await world.wait(name)
        assert job.status == "completed"
        assert (job.begun, job.finalizing, job.ended) == (world.now - 5, world.now, world.now)
        assert (job.done.completed, job.done.failed) == (500, 0)
        assert job.done.tokens == sum(len(f"text {place}") for place in range(500))
        good, bad = await world.outputs(name)
        check(good, range(500))
        assert bad == []
        assert world.jobs.counts()["completed"] == 1
        assert len(world.pool.embedder.asks) < 20  # rows are asked together

    play(tmp_path, story)


def test_rows_of_all_kinds(tmp_path: Path) -> None:
    """Rows with several inputs, token ids, dimensions and base64 get what they ask for, side by side."""

    async def story(world: World) -> None:
        name = await world.submit(
            [
                line_of(0, ["a", "b", "c"]),
                line_of(1, [5, 6, 7]),
                line_of(2, [[1], [2, 3]], dimensions=2),
                line_of(3, "d", encoding_format="base64"),
                line_of(4, "e", dimensions=2),
            ]
        )
        await world.wait(name)
        good, _ = await world.outputs(name)
        assert [len(line["response"]["body"]["data"]) for line in good] == [3, 1, 2, 1, 1]
        assert vectors_in(good[0]) == [pytest.approx(vector_of(text)) for text in "abc"]
        assert vectors_in(good[2])[1] == pytest.approx(vector_of([2, 3], 2))
        assert isinstance(vectors_in(good[3])[0], str)
        assert len(vectors_in(good[4])[0]) == 2

    play(tmp_path, story)


def test_poisoned_rows(tmp_path: Path) -> None:
    """A row that cannot be computed, or asks for nonsense, is an error row; all others have their vectors."""

    async def story(world: World) -> None:
        lines = rows(200)
        lines[70] = line_of(70, f"{POISON}")
        lines[100] = line_of(100, ["fine", f"{POISON} too"])
        lines[130] = line_of(130, "")
        lines[199] = line_of(199, "text", encoding_format="hex")
        name = await world.submit(lines)
        job = await world.wait(name)
        assert (job.status, job.done.completed, job.done.failed) == ("completed", 196, 4)
        good, bad = await world.outputs(name)
        check(good, [place for place in range(200) if place not in {70, 100, 130, 199}])
        assert [(line["custom_id"], line["response"]["status_code"]) for line in bad] == [
            ("70", 500),
            ("100", 500),
            ("130", 400),
            ("199", 400),
        ]

    play(tmp_path, story)


def test_invalid_files(tmp_path: Path) -> None:
    """A file with invalid lines fails as a whole, with the numbers of its lines; nothing is computed."""

    async def story(world: World) -> None:
        name = await world.submit([*rows(3), b"\n", b"{nonsense\n", line_of(1, "again")])
        job = await world.wait(name)
        assert job.status == "failed"
        assert [(each["code"], each["line"]) for each in job.errors or []] == [
            ("invalid_json_line", 5),
            ("duplicate_custom_id", 6),
        ]
        assert world.pool.embedder.asks == []

    play(tmp_path, story)


def test_too_many_rows(tmp_path: Path) -> None:
    """A job has so many rows and no more."""

    async def story(world: World) -> None:
        job = await world.wait(await world.submit(rows(400)))
        assert [each["code"] for each in job.errors or []] == ["too_many_tasks"]

    play(tmp_path, story, most_rows=399)


def test_restart(tmp_path: Path) -> None:
    """A job goes on after a restart with the rows that have no result; no row is computed twice that has one."""

    async def story(world: World) -> None:
        embedder = world.pool.embedder
        count = 1500
        asked = 0

        def close_after_some(ask: object) -> None:
            nonlocal asked
            asked += 1
            if asked == 6:
                embedder.gate.clear()

        embedder.fails = close_after_some
        name = await world.submit(rows(count))
        job = await world.wait(name, begun)
        done = job.done.completed
        assert 0 < done < count
        before = dict(embedder.seen)
        await world.again()
        assert (await world.look(name)).status == "in_progress"
        embedder.gate.set()
        job = await world.wait(name)
        assert (job.status, job.done.completed) == ("completed", count)
        check((await world.outputs(name))[0], range(count))
        twice = sum(embedder.seen[text] > 1 for text in before)
        assert twice <= len(before) - done

    play(tmp_path, story)


@pytest.mark.parametrize("at", ["validating", "in_progress", "finalizing", "cancelling"])
def test_taken_up_in_every_state(tmp_path: Path, at: str) -> None:
    """Whatever a job was at when its server went down, it is brought to its end."""

    async def story(world: World) -> None:
        embedder = world.pool.embedder
        embedder.gate.clear()
        name = await world.submit(rows(100))
        if at != "validating":
            await world.wait(name, lambda job: job.status == "in_progress")
        served = await world.jobs.opened()
        if at == "finalizing":
            served.jobs.finalize(name, "expired", world.now)
        if at == "cancelling":
            served.jobs.cancel(name, world.now)
        await world.again()
        embedder.gate.set()
        job = await world.wait(name)
        assert job.status == {"finalizing": "expired", "cancelling": "cancelled"}.get(at, "completed")
        good, bad = await world.outputs(name)
        assert len(good) + len(bad) == 100

    play(tmp_path, story)


def test_cancelling(tmp_path: Path) -> None:
    """A cancelled job keeps its results; the rows whose turn never came are named with `batch_cancelled`."""

    async def story(world: World) -> None:
        embedder = world.pool.embedder
        embedder.fails = lambda ask: embedder.gate.clear() if len(embedder.asks) > 3 else None
        name = await world.submit(rows(2000))
        await world.wait(name, begun)
        assert await world.jobs.cancel(name)
        job = await world.wait(name)
        assert job.status == "cancelled"
        good, bad = await world.outputs(name)
        check(good, range(len(good)))
        assert 0 < len(good) == job.done.completed
        assert len(good) + len(bad) == 2000
        assert {line["error"]["code"] for line in bad} == {"batch_cancelled"}
        assert not await world.jobs.cancel(name)
        assert embedder.under_way == 0  # what nobody waits for is taken back

    play(tmp_path, story)


def test_expiry(tmp_path: Path) -> None:
    """A job whose window is over expires, keeps its results, and names the rows it did not come to."""

    async def story(world: World) -> None:
        embedder = world.pool.embedder
        embedder.fails = lambda ask: embedder.gate.clear() if len(embedder.asks) > 3 else None
        name = await world.submit(rows(1000))
        await world.wait(name, begun)
        world.now += 24 * 3600
        job = await world.wait(name)
        assert (job.status, job.ended) == ("expired", world.now)
        good, bad = await world.outputs(name)
        assert 0 < len(good) == job.done.completed
        assert len(good) + len(bad) == 1000
        assert {line["error"]["code"] for line in bad} == {"batch_expired"}

    play(tmp_path, story)


def test_expired_while_the_server_was_down(tmp_path: Path) -> None:
    """A job whose window ended while no server ran is expired by the next one."""

    async def story(world: World) -> None:
        world.pool.embedder.gate.clear()
        name = await world.submit(rows(10))
        await world.wait(name, lambda job: job.status == "in_progress")
        world.now += 48 * 3600
        await world.again()
        assert (await world.wait(name)).status == "expired"

    play(tmp_path, story)


def test_overload(tmp_path: Path) -> None:
    """A job waits while there is no room for it, and loses nothing."""

    async def story(world: World) -> None:
        world.pool.embedder.troubles = [OverloadedError("full", retry_after_s=0.001) for _ in range(4)]
        name = await world.submit(rows(300))
        await world.wait(name)
        check((await world.outputs(name))[0], range(300))

    play(tmp_path, story)


def test_bounds(tmp_path: Path) -> None:
    """However large jobs are, no more inputs are under way than there is room for, all jobs together."""

    async def story(world: World) -> None:
        names = [await world.submit(rows(1500)) for _ in range(3)]
        for name in names:
            assert (await world.wait(name)).status == "completed"
        assert world.pool.embedder.most_under_way <= IN_FLIGHT

    play(tmp_path, story)


def test_jobs_take_turns(tmp_path: Path) -> None:
    """A small job that comes later does not wait for the end of a large one."""

    async def story(world: World) -> None:
        large = await world.submit(rows(6000))
        await world.wait(large, lambda job: job.status == "in_progress")
        small = await world.submit(rows(100))
        await world.wait(small)
        assert (await world.look(large)).ended is None
        await world.wait(large)

    play(tmp_path, story)


def test_model_that_is_gone(tmp_path: Path) -> None:
    """A job whose model is not served any more after a restart fails, and keeps the results that it has."""

    async def story(world: World) -> None:
        embedder = world.pool.embedder
        embedder.fails = lambda ask: embedder.gate.clear() if len(embedder.asks) > 3 else None
        name = await world.submit(rows(1000))
        await world.wait(name, begun)

        def nothing(name: str | None) -> str:
            from embatch.errors import UnknownModelError

            raise UnknownModelError(f"no model {name!r}")

        world.pool.name_of = nothing  # type: ignore[method-assign]  # another server's pool
        await world.again()
        job = await world.wait(name)
        assert job.status == "failed"
        assert [each["code"] for each in job.errors or []] == ["model_not_found"]
        good, bad = await world.outputs(name)
        assert 0 < len(good) == job.done.completed
        assert {line["error"]["code"] for line in bad} == {"batch_failed"}
        assert len(good) + len(bad) == 1000

    play(tmp_path, story)


def test_outputs_that_are_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A job whose outputs somebody deleted while the server was down starts over, and says so."""

    async def story(world: World) -> None:
        embedder = world.pool.embedder
        embedder.fails = lambda ask: embedder.gate.clear() if len(embedder.asks) > 3 else None
        name = await world.submit(rows(500))
        job = await world.wait(name, begun)
        await world.jobs.stop()
        (world.settings.state / "parts" / job.part_names[0]).unlink()  # type: ignore[operator]  # there is one
        embedder.fails = lambda ask: None
        embedder.gate.set()
        await world.again()
        await world.wait(name)
        check((await world.outputs(name))[0], range(500))

    play(tmp_path, story)
    assert "starts over" in caplog.text


def test_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A job waits for a disk that is full, and goes on when there is room: no row is lost, none is there twice."""

    async def told() -> bool:
        return "waits for its folder" in caplog.text

    async def story(world: World) -> None:
        name = await world.submit(rows(3000))
        with no_more_than(300_000):
            await wait_for(told)
        job = await world.wait(name)
        assert job.status == "completed"
        check((await world.outputs(name))[0], range(3000))

    with caplog.at_level(logging.WARNING):
        play(tmp_path, story)


def test_faults_of_the_server(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A fault that nobody foresaw is logged, and costs the job no result."""

    async def story(world: World) -> None:
        embedder = world.pool.embedder
        fault = iter([RuntimeError("nobody expects this")])

        def once(ask: object) -> None:
            for error in fault:
                raise error

        embedder.fails = once
        name = await world.submit(rows(100))
        await world.wait(name)
        check((await world.outputs(name))[0], range(100))

    play(tmp_path, story)
    assert "nobody expects this" in caplog.text
