"""One job over a model on this machine: rows in, asks under way, lines out, in the order of the input.

However long the file is, memory holds the groups that are under way. What is written counts four times a second; a
process that is killed goes on after the last row that counts.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from embatch.frontends.server.jobs.reading import GroupReader
from embatch.frontends.server.jobs.rows import result_line, undone_line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence
    from typing import Any, TypeVar

    from embatch.frontends.server.jobs.asking import Asker
    from embatch.frontends.server.jobs.over_provider import ProviderRun
    from embatch.frontends.server.jobs.reading import Group, InputLines
    from embatch.frontends.server.jobs.room import Room
    from embatch.frontends.server.jobs.rows import Settled
    from embatch.frontends.server.settings import ServeSettings
    from embatch.storage.served_jobs import Ending, ServedJob
    from embatch.storage.served_output import JobOutput

    T = TypeVar("T")
    InThread = Callable[..., Awaitable[Any]]
    Entry = tuple[Group, int, asyncio.Task[list[Settled]]]

NOTE_S = 0.25
"""How often what was computed is made to count."""
_SLICE = 256  # lines that a thread takes in one go: it holds the interpreter for about a millisecond


class LocalRun:
    """Carries a job's rows through its model.

    Args:
        job: what it is.
        lines: its input, at the first row without a result.
        output: where its lines go.
        asker: asks its model.
        room: what all jobs of this model share.
        settings: limits of a request.
        in_thread: calls a function that may block.
    """

    def __init__(
        self,
        job: ServedJob,
        lines: InputLines,
        output: JobOutput,
        *,
        asker: Asker,
        room: Room,
        settings: ServeSettings,
        in_thread: InThread,
    ) -> None:
        self._job = job
        self._reader = GroupReader(lines, settings)
        self._output = output
        self._asker = asker
        self._room = room
        self._in_thread = in_thread
        self._entries: asyncio.Queue[Entry | None] = (
            asyncio.Queue()
        )  # as long as there is room: bounded by it
        self._tasks: set[asyncio.Task[list[Settled]]] = set()

    async def run(self) -> None:
        """All rows. When it is cancelled, what was written is still whole lines of whole rows.

        Raises:
            JobFailedError: nothing of this job can succeed.
            OutputError: the lines cannot be written.
        """
        feeding = asyncio.create_task(self._feed())
        try:
            await self._collect(feeding)
        finally:
            for task in (feeding, *self._tasks):
                task.cancel()
            await asyncio.gather(feeding, *self._tasks, return_exceptions=True)
            self._give_back()

    async def _feed(self) -> None:
        try:
            while (group := await self._in_thread(self._reader.next)) is not None:
                places = await self._room.take(group.weight)
                task = asyncio.create_task(self._asker.settle(group.inputs, group.wish))
                self._tasks.add(task)
                self._entries.put_nowait((group, places, task))
        finally:
            self._entries.put_nowait(None)

    async def _collect(self, feeding: asyncio.Task[None]) -> None:
        while (entry := await self._entries.get()) is not None:
            group, places, task = entry
            try:
                settled = await task
                await self._in_thread(write_group, self._output, self._job, group, settled)
            finally:
                self._tasks.discard(task)
                self._room.give(places)
        await feeding

    def _give_back(self) -> None:
        while not self._entries.empty():
            entry = self._entries.get_nowait()
            if entry is not None:
                self._room.give(entry[1])


def write_group(output: JobOutput, job: ServedJob, group: Group, settled: Sequence[Settled]) -> None:
    """Write the lines of a group of rows, whose inputs ended so."""
    good: list[bytes] = []
    bad: list[bytes] = []
    start = tokens = 0
    for row in group.rows:
        mine = settled[start : start + len(row.inputs)]
        start += len(row.inputs)
        went_well, line = result_line(row, mine, job=job.id, model=job.model or "")
        (good if went_well else bad).append(line)
        tokens += sum(each.tokens for each in mine)
    output.append(
        b"".join(good),
        b"".join(bad),
        upto=group.upto,
        lines=group.lines,
        completed=len(good),
        failed=len(bad),
        tokens=tokens,
    )


def write_undone(reader: GroupReader, output: JobOutput, job: ServedJob) -> bool:
    """Write the lines of some more rows whose turn never came; False at the end."""
    for _ in range(_SLICE // 64):
        group = reader.next()
        if group is None:
            return False
        lines = [undone_line(row, job=job.id, ending=str(job.ending)) for row in group.rows]
        output.append(b"", b"".join(lines), upto=group.upto, lines=group.lines)
    return True


async def driven(
    run: ProviderRun,
    *,
    cancelled: asyncio.Event,
    is_over: Callable[[], bool],
    note: Callable[[], Awaitable[Any]],
) -> Ending:
    """Run a job over a provider in a thread of its own, and end it early when it is to be, with what it has.

    Args:
        run: what blocks.
        cancelled: somebody wants it to end.
        is_over: its time is over.
        note: tells how far it has come; called every quarter of a second.
    """
    thread = ThreadPoolExecutor(1, "embatch-provider-job")
    work = asyncio.get_running_loop().run_in_executor(thread, run.run)
    asked = asyncio.create_task(cancelled.wait())
    try:
        while not work.done():
            first: set[asyncio.Future[Any]] = {work} if asked.done() else {work, asked}
            await asyncio.wait(first, timeout=NOTE_S, return_when=asyncio.FIRST_COMPLETED)
            if cancelled.is_set():
                run.stop("cancelled")
            elif is_over():
                run.stop("expired")
            elif not work.done():
                await note()
        return await work
    finally:
        asked.cancel()
        if not work.done():
            run.stop(None)
            await asyncio.wait({work})
            work.exception()  # which is that it was stopped
        thread.shutdown(wait=False)


async def watched(
    work: Coroutine[Any, Any, Any],
    *,
    cancelled: asyncio.Event,
    is_over: Callable[[], bool],
    note: Callable[[], Awaitable[Any]] | None = None,
) -> Ending:
    """Do the work, and end it early when it is to be.

    Args:
        work: what is to be done; cancelled if it is not over by then.
        cancelled: somebody wants it to end.
        is_over: its time is over.
        note: makes what the work has written count; called every quarter of a second, and at the end however it comes.
    """
    task = asyncio.create_task(work)
    asked = asyncio.create_task(cancelled.wait())
    try:
        while True:
            await asyncio.wait({task, asked}, timeout=NOTE_S, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
                return "completed"
            if cancelled.is_set():
                return "cancelled"
            if is_over():
                return "expired"
            if note is not None:
                await note()
    finally:
        for each in (task, asked):
            each.cancel()
        await asyncio.gather(task, asked, return_exceptions=True)
        if note is not None:
            await note()
