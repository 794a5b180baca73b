"""Brings the records of a task file to another model: their vectors change, and nothing else of them.

Vectors are computed without holding the file; it is written anew and put in place in one step, with what was appended
meanwhile behind it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from embatch.errors import RowError
from embatch.frontends.tasks import records
from embatch.frontends.tasks.records import FINGERPRINT, MODEL, TaskFailure
from embatch.storage.task_file import free_backup
from embatch.storage.task_lines import read_object, vectors_as_text, write_line

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from embatch.frontends.tasks.backends import TaskEmbedder
    from embatch.frontends.tasks.texts import Task
    from embatch.storage.task_file import Snapshot, TaskFile
    from embatch.storage.task_lines import LineProblem
    from embatch.types import FloatArray

_TOGETHER = 1024  # records that are put into digits at once


@dataclass(slots=True, kw_only=True)
class ReindexReport:
    """What reindexing did, or would do."""

    total: int = 0
    """Tasks in the file, each counted once."""
    stale: int = 0
    """Of these, with a vector of another model before."""
    reindexed: int = 0
    left: int = 0
    """Tasks beyond the limit: as they were."""
    failed: list[TaskFailure] = field(default_factory=list)
    """Tasks whose vector stays as it was, and why."""
    problems: list[LineProblem] = field(default_factory=list)
    """Lines that are no records; they stay."""
    model: str = ""
    seconds: float = 0.0
    output: Path | None = None
    """The file that was written."""
    backup: Path | None = None


class Reindexing:
    """One reindex of a task file.

    Args:
        file: the task file.
        embedder: makes the new vectors.
        listed: what else is known of tasks, by id, for records that hold no text.
    """

    def __init__(self, file: TaskFile, embedder: TaskEmbedder, listed: Mapping[str, Task]) -> None:
        self._file = file
        self._embedder = embedder
        self._listed = listed

    def run(  # see `TaskMemory.reindex`
        self,
        *,
        limit: int | None,
        dry_run: bool,
        backup: bool,
        output: Path | None,
        batch_size: int,
        show_progress: bool,
    ) -> ReindexReport:
        """See `TaskMemory.reindex`."""
        seen = self._file.read(dimensions=self._embedder.target_dims)
        report = ReindexReport(model=self._embedder.model, problems=seen.content.problems)
        started = time.perf_counter()
        places = self._chosen(seen, report, limit)
        tasks, places = self._with_text(seen, places, report)
        if dry_run or not seen.size:
            report.reindexed = len(places)
            return report
        vectors, failures = self._embedder.embed_tasks(tasks, batch_size, show_progress=show_progress)
        report.failed += [TaskFailure(task=bad.key, error=bad.error) for bad in failures]
        bad = {failure.row for failure in failures}
        good = [row for row in range(len(places)) if row not in bad]
        signature = {MODEL: self._embedder.model, FINGERPRINT: self._embedder.fingerprint}
        lines = [seen.content.lines[places[row]] for row in good]
        report.backup = free_backup(self._file.path) if backup else None
        report.output = output or self._file.path
        self._file.replace(
            seen, _Rewriter(lines, vectors[good], signature).line, output=output, backup=report.backup
        )
        report.reindexed = len(good)
        report.seconds = time.perf_counter() - started
        return report

    def _chosen(self, seen: Snapshot, report: ReindexReport, limit: int | None) -> list[int]:
        """Places of the records to do, those of other models first if not all are done."""
        content, own = seen.content, self._embedder.fingerprint
        last = records.last_of_each(content.records)
        stale = [place for place in last if content.records[place].get(FINGERPRINT) != own]
        report.total, report.stale = len(last), len(stale)
        if limit is None or limit >= len(last):
            return last
        done = set(stale)
        report.left = len(last) - limit
        return sorted([*stale, *(place for place in last if place not in done)][:limit])

    def _with_text(
        self, seen: Snapshot, places: list[int], report: ReindexReport
    ) -> tuple[list[dict[str, Any]], list[int]]:
        """The tasks whose text is known, and their places."""
        tasks, kept = [], []
        for place in places:
            record = seen.content.records[place]
            try:
                tasks.append(records.completed(record, self._listed.get(record["task_id"])))
            except RowError as error:
                report.failed.append(TaskFailure(task=record["task_id"], error=error))
            else:
                kept.append(place)
        return tasks, kept


class _Rewriter:
    """Gives each line its new form; numbers are put into digits many lines at a time.

    Args:
        lines: numbers of the lines that change, ascending.
        vectors: `(len(lines), dimensions)` float32, their new vectors.
        signature: keys that say how these were made.
    """

    def __init__(self, lines: list[int], vectors: FloatArray, signature: Mapping[str, str]) -> None:
        self._row = {line: row for row, line in enumerate(lines)}
        self._vectors = vectors
        self._signature = signature
        self._digits: list[bytes] = []
        self._first = 0  # row of the first digits

    def line(self, number: int, line: bytes) -> bytes:
        """The line to write in place of a line, both without their line feed; asked for in order."""
        row = self._row.get(number)
        if row is None:
            return line
        if row >= self._first + len(self._digits):
            self._first = row
            self._digits = vectors_as_text(self._vectors[row : row + _TOGETHER])
        record = {**read_object(line), **self._signature}
        return write_line(record, self._digits[row - self._first])
