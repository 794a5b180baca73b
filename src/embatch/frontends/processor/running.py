"""A run as its caller's event loop sees it: the engine works in a thread, and is looked at while it does.

Between a `Drive` and `BatchEmbeddingProcessor`. However a run ends (used up, left, cancelled, broken), nothing of it is
left in the loop or in a thread, and what was finished is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from embatch.decisions.progress import Meter, Progress
from embatch.frontends.processor.records import BatchProgress, ChunkResult, Collected, ProcessResult

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from embatch.frontends.processor.drives import Drive
    from embatch.frontends.processor.intake import Rows
    from embatch.types import Block

_LOOK_S = 0.05  # between two looks at a run that says nothing
_STOP_S, _STOPS = (
    0.05,
    400,
)  # between two requests to stop, and how many: a source that hangs cannot be interrupted

_log = logging.getLogger(__name__)


class Wake:
    """Lets any thread wake whoever waits in the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Something has changed. From any thread; after the loop's end, nobody waits."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, task: asyncio.Future[Block | None]) -> None:
        """Until the task is done, something has changed, or it is time to look."""
        waiting: asyncio.Future[Any] = asyncio.ensure_future(self._event.wait())
        both: set[asyncio.Future[Any]] = {task, waiting}
        try:
            await asyncio.wait(both, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        self._event.clear()


class Run:
    """One run.

    Args:
        drive: the engine.
        rows: what it is given.
        wake: what it notifies.
        keep: whether all vectors are kept for `result`.
    """

    def __init__(self, drive: Drive, rows: Rows, wake: Wake, *, keep: bool) -> None:
        self._drive = drive
        self._rows = rows
        self._wake = wake
        self._collected = Collected() if keep else None
        self._started = time.monotonic()
        self._meter = Meter(self._started)
        self._ended_s: float | None = None
        self._handed = self._failed = 0  # rows
        self._shown = (0, 0, 0)  # completed, failed, batches
        self._new: list[ChunkResult] = []

    async def progresses(self) -> AsyncGenerator[BatchProgress]:
        """Progress whenever something has changed; the last one is complete.

        Raises:
            EmbatchError: the engine as a whole failed.
            BaseException: what the source of the chunks raised, after the last progress.
        """
        blocks = self._drive.blocks(self._rows)
        task = self._next(blocks)
        ended = False
        try:
            while not ended:
                while not task.done():
                    await self._wake.wait(task)
                    if not task.done() and (progress := self._look()) is not None:
                        yield progress
                ended = (block := task.result()) is None
                if block is not None:
                    self._take(block)
                    task = self._next(blocks)
                    if (progress := self._look()) is not None:
                        yield progress
        finally:
            await self._end(task, blocks)
        yield self._last()
        if self._rows.error is not None:
            raise self._rows.error

    def result(self) -> ProcessResult | None:
        """Everything that was finished so far; None if it was not to be kept."""
        if self._collected is None:
            return None
        seconds = self._ended_s if self._ended_s is not None else time.monotonic() - self._started
        return self._collected.result(batches=self._drive.batches, seconds=seconds, spent=self._drive.spent())

    # --- inside -----------------------------------------------------------------------------------------------

    def _take(self, block: Block) -> None:
        failures = {failure.row - block.first_row: failure for failure in block.failures}
        for i, item in enumerate(block.items):
            failure = failures.get(i)
            self._new.append(
                ChunkResult(
                    row=block.first_row + i,
                    key=item.key,
                    chunk=self._rows.finished(),
                    vector=block.vectors[i] if failure is None else None,
                    error=None if failure is None else failure.error,
                )
            )
        self._handed += len(block.items)
        self._failed += len(failures)
        if self._collected is not None:
            self._collected.add([item.key for item in block.items], block.vectors, block.failures)

    def _look(self) -> BatchProgress | None:
        """Progress, if anything has changed since the last."""
        completed = max(self._shown[0], self._handed, self._drive.completed)
        failed = min(completed, max(self._shown[1], self._failed, self._drive.failed))
        now = (completed, failed, self._drive.batches)
        if now == self._shown and not self._new:
            return None
        return self._show(*now)

    def _last(self) -> BatchProgress:
        self._ended_s = time.monotonic() - self._started
        return self._show(self._handed, self._failed, self._drive.batches)

    def _show(self, completed: int, failed: int, batches: int) -> BatchProgress:
        self._shown = (completed, failed, batches)
        results, self._new = self._new, []
        look = self._meter.look(time.monotonic(), completed=completed, failed=failed, total=self._rows.total)
        values = {field.name: getattr(look, field.name) for field in fields(Progress)}
        return BatchProgress(**values, batches_processed=batches, results=results)

    def _next(self, blocks: Iterator[Block]) -> asyncio.Future[Block | None]:
        return asyncio.ensure_future(asyncio.to_thread(next, blocks, None))

    async def _end(self, task: asyncio.Future[Block | None], blocks: Iterator[Block]) -> None:
        """Stop what is under way, and wait for its end."""
        for _ in range(_STOPS):
            self._rows.stop()
            self._drive.stop()
            if task.done():
                break
            await asyncio.wait({task}, timeout=_STOP_S)
        if task.done():
            await self._rest(task, blocks)
            await asyncio.to_thread(blocks.close)  # type: ignore[attr-defined]  # a generator
        else:
            _log.warning("the iterable of chunks hangs: its thread is left behind")
        await self._drive.ended()

    async def _rest(self, task: asyncio.Future[Block | None], blocks: Iterator[Block]) -> None:
        """Keep what a run that was left has finished: it may have been paid for. A run that has ended has no more."""
        with contextlib.suppress(Exception):  # what ended the run is what is told
            while (block := task.result()) is not None:
                self._take(block)
                task = self._next(blocks)
                await asyncio.wait({task})
