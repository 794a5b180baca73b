"""`MonitorRunner`: takes finished tasks as they come, and records them in batches with one warm model.

A batch is what has arrived, up to a size, after a short wait. A task leaves its spool, or is confirmed, only when its
record is durable: a crash loses none, and a task that is recorded twice counts once.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from embatch.errors import RowError, SourceUnreadableError
from embatch.frontends.arguments import positive
from embatch.frontends.tasks.backends import BATCH_SIZE
from embatch.frontends.tasks.records import Entry, TaskFailure, read_entry
from embatch.frontends.tasks.spool import SETTLED_S, Dropped, Spool
from embatch.frontends.tasks.workspace import FOLDER, RecordReport, TaskMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType

    from embatch.errors import EmbatchError
    from embatch.frontends.tasks.backends import TaskEmbedder
    from embatch.frontends.tasks.texts import Task

SPOOL = "spool"
WAIT_S = 0.05
POLL_S = 0.2
_Arrival = (
    tuple[int, bytes] | Exception | None
)  # a line and its number, or the end, with what brought it about
_READER = "embatch-read"  # the name under which the command line knows a thread that may never end


@dataclass(slots=True, kw_only=True)
class Totals:
    """What a monitor has done so far."""

    recorded: int = 0
    failed: int = 0
    batches: int = 0
    seconds: float = 0.0
    """Of embedding and writing."""


def submit_task(workspace: str | Path, task: Task) -> Path:
    """Hand a finished task to whatever monitor runs on this workspace, now or later. Durable when it returns.

    Args:
        workspace: the workspace's folder.
        task: `task_id`, a text, and whatever else is to be kept.

    Returns:
        The file that holds it until it is recorded.

    Raises:
        RowError: it has no id, or holds something that JSON cannot say.
        OutputError: the folder cannot be written.
    """
    return Spool(Path(workspace) / FOLDER / SPOOL).drop(task)


class MonitorRunner:
    """Records finished tasks of a workspace. A context manager; `stop` may be called from any thread.

    Args:
        workspace: a folder that exists.
        mode: as for `TaskEmbedder`.
        batch_size: most tasks in a batch.
        wait_s: how long a batch that is not full waits for more tasks.
        embedder: the embedder to use, instead of one by mode.
        on_batch: called with what each batch did, once it is durable.
        settled_s: how old a file of a spool must be to be judged as broken.

    Raises:
        SourceNotFoundError: there is no such folder.
    """

    def __init__(
        self,
        workspace: str | Path,
        mode: str | None = None,
        *,
        batch_size: int = BATCH_SIZE,
        wait_s: float = WAIT_S,
        embedder: TaskEmbedder | None = None,
        on_batch: Callable[[RecordReport], None] | None = None,
        settled_s: float = SETTLED_S,
    ) -> None:
        positive(batch_size=batch_size)
        self.memory = TaskMemory(workspace, mode, embedder=embedder)
        self.total = Totals()
        """Everything recorded so far."""
        self._batch_size = batch_size
        self._wait_s = wait_s
        self._settled_s = settled_s
        self._on_batch = on_batch
        self._stopped = threading.Event()
        self._broken: Exception | None = None

    @property
    def spool_folder(self) -> Path:
        """Where `submit` puts tasks, and where `run_spool` takes them from unless told otherwise."""
        return self.memory.folder / SPOOL

    def submit(self, task: Task) -> Path:
        """See `submit_task`. Any process may do so, whether or not a monitor runs."""
        return Spool(self.spool_folder).drop(task)

    def record(self, tasks: Sequence[Task | Entry]) -> RecordReport:
        """Record one batch now. When this returns, it is durable.

        Raises:
            EmbatchError: nothing of it was recorded.
        """
        report = self.memory.record(tasks, batch_size=self._batch_size)
        self._note(report)
        return report

    def run_spool(self, folder: Path | None = None, *, once: bool = False, keep: bool = False) -> Totals:
        """Record the tasks that lie in a folder, one JSON file each, and those that come, until `stop`.

        Files that are no tasks are put aside into `failed/`, with the reason beside each.

        Args:
            folder: the spool; `spool_folder` otherwise.
            once: end when the folder is empty.
            keep: move recorded files to `done/` instead of removing them.

        Raises:
            EmbatchError: recording is not possible; files stay, and the next run takes them.
        """
        spool = Spool(folder or self.spool_folder, keep=keep, settled_s=self._settled_s)
        with spool.claimed():
            self.memory.embedder.fingerprint  # noqa: B018  # opens the model before the first task waits for it
            while not self._stopped.is_set():
                names = spool.waiting()
                if 0 < len(names) < self._batch_size and not once:
                    self._stopped.wait(self._wait_s)
                    names = spool.waiting()
                done = self._take(spool, names)
                if once and not names:
                    break
                if not done:
                    self._stopped.wait(POLL_S)
        return self.total

    def run_lines(self, lines: Iterable[bytes]) -> Totals:
        """Record the tasks that lines name or hold, as they come, until there are no more or `stop`.

        Lines are read ahead by four batches at most. What was read and not recorded is lost with the process:
        `on_batch` confirms what is durable.

        Args:
            lines: a JSON object or a task id each.

        Raises:
            EmbatchError: recording is not possible.
        """
        arrived: queue.Queue[_Arrival] = queue.Queue(4 * self._batch_size)
        threading.Thread(
            target=_read, args=(lines, arrived, self._stopped), name=_READER, daemon=True
        ).start()
        ended = False
        while not ended and not self._stopped.is_set():
            batch, ended = self._gather(arrived)
            self._record_lines(batch)
        if self._broken is not None:
            raise SourceUnreadableError(
                f"the tasks cannot be read any further: {self._broken}"
            ) from self._broken
        return self.total

    def stop(self) -> None:
        """End what runs after the batch at hand."""
        self._stopped.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # --- inside -----------------------------------------------------------------------------------------------

    def _take(self, spool: Spool, names: list[str]) -> int:
        """Record what these files hold, a batch at a time; how many files are done with."""
        done = 0
        for start in range(0, len(names), self._batch_size):
            if self._stopped.is_set():
                break
            taken = spool.take(names[start : start + self._batch_size])
            done += len(taken)
            for one in taken:
                if one.error is not None:
                    self._refuse(spool, one, one.error)
            self._record_files(spool, [one for one in taken if one.entry is not None])
        return done

    def _refuse(self, spool: Spool, one: Dropped, error: EmbatchError) -> None:
        place = spool.refuse(one, error)
        self._note(RecordReport(failed=[TaskFailure(task=f"{place.parent.name}/{place.name}", error=error)]))

    def _record_files(self, spool: Spool, files: list[Dropped]) -> None:
        if not files:
            return
        # Named by their file: two files may be about one task.
        entries = [Entry(name=one.path.name, task=one.entry.task) for one in files if one.entry is not None]
        report = self.memory.record(entries, batch_size=self._batch_size)
        errors = {failure.task: failure.error for failure in report.failed}
        self._note(replace(report, failed=[]))
        for one in files:
            if one.path.name in errors:
                self._refuse(spool, one, errors[one.path.name])
            else:
                spool.finish(one)

    def _gather(self, arrived: queue.Queue[_Arrival]) -> tuple[list[tuple[int, bytes]], bool]:
        """What has come, up to a batch, and whether it was the last."""
        batch: list[tuple[int, bytes]] = []
        until = 0.0
        while len(batch) < self._batch_size:
            try:
                one = arrived.get(timeout=max(0.0, until - time.monotonic()) if batch else POLL_S)
            except queue.Empty:
                if batch or self._stopped.is_set():
                    break
                continue
            if not isinstance(one, tuple):
                self._broken = one
                return batch, True
            until = until or time.monotonic() + self._wait_s
            batch.append(one)
        return batch, False

    def _record_lines(self, batch: list[tuple[int, bytes]]) -> None:
        entries, failed = [], []
        for number, line in batch:
            try:
                entry = read_entry(line, number)
            except RowError as error:
                failed.append(TaskFailure(task=f"line {number}", error=error))
                continue
            if entry is not None:
                entries.append(entry)
        if entries or failed:
            report = self.memory.record(entries, batch_size=self._batch_size)
            self._note(replace(report, failed=[*failed, *report.failed]))

    def _note(self, report: RecordReport) -> None:
        if not report.recorded and not report.failed:
            return
        self.total.batches += bool(report.recorded)
        self.total.recorded += len(report.recorded)
        self.total.failed += len(report.failed)
        self.total.seconds += report.seconds
        if self._on_batch is not None:
            self._on_batch(report)


def _read(
    lines: Iterable[bytes],
    arrived: queue.Queue[_Arrival],
    stopped: threading.Event,
) -> None:
    """Put lines into the queue, then None or the error that ended them."""
    end: _Arrival = None
    try:
        for number, line in enumerate(lines, start=1):
            _put(arrived, (number, line), stopped)
            if stopped.is_set():
                return
    except Exception as error:  # noqa: BLE001  # raised by the thread that takes
        end = error
    _put(arrived, end, stopped)


def _put(arrived: queue.Queue[_Arrival], one: _Arrival, stopped: threading.Event) -> None:
    while not stopped.is_set():
        try:
            arrived.put(one, timeout=POLL_S)
        except queue.Full:
            continue
        return
