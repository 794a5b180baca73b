"""`TaskMemory`: the tasks of a workspace, recorded, found again, and brought to another model.

It wires the backends to the task file under `state/quality_graph`. The last record of a task counts. Vectors of two
models are never compared: what was made otherwise is left out, counted, and said.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embatch.decisions.vectors import normalized
from embatch.errors import RowError, SourceNotFoundError
from embatch.frontends.tasks import records
from embatch.frontends.tasks.backends import BATCH_SIZE, TaskEmbedder
from embatch.frontends.tasks.lists import read_task_list
from embatch.frontends.tasks.records import FINGERPRINT, MODEL, Entry, TaskFailure
from embatch.frontends.tasks.reindexing import Reindexing
from embatch.frontends.tasks.texts import has_text
from embatch.storage.task_file import TaskFile
from embatch.storage.task_lines import read_object, write_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

    from embatch.frontends.tasks.reindexing import ReindexReport
    from embatch.frontends.tasks.texts import Task
    from embatch.storage.task_file import Snapshot
    from embatch.storage.task_lines import LineProblem
    from embatch.types import FloatArray

FOLDER = Path("state") / "quality_graph"
VECTORS = "task_vectors.jsonl"
TASKS = "tasks.jsonl"
CONFIDENT_ABOVE = 0.5
AT_ONCE = 1024
"""Tasks that are recorded in one step: what a crash of a large run can cost to compute again."""
_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class RecordReport:
    """What recording did. `recorded` is durable."""

    recorded: list[str] = field(default_factory=list)
    """Ids, in order."""
    failed: list[TaskFailure] = field(default_factory=list)
    seconds: float = 0.0
    """Of embedding and writing, opening the model not counted."""
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """The records that count. Row `i` of `vectors` belongs to `records[i]`."""

    records: list[dict[str, Any]]
    """Those of this model, the last one of each task."""
    vectors: FloatArray
    """`(n, dimensions)` float32, at unit length."""
    other_models: dict[str, int]
    """Records that count but were made with another model, by its name; empty for records that do not say."""
    problems: list[LineProblem]
    """Lines that are no records; they stay in the file."""
    torn: bool
    """Whether the file ends in something unfinished."""


class TaskMemory:
    """The tasks of one workspace.

    Args:
        workspace: a folder that exists.
        mode: as for `TaskEmbedder`.
        embedder: the embedder to use, instead of one by mode.

    Raises:
        SourceNotFoundError: there is no such folder.
    """

    def __init__(
        self, workspace: str | Path, mode: str | None = None, *, embedder: TaskEmbedder | None = None
    ) -> None:
        self.workspace = Path(workspace)
        if not self.workspace.is_dir():
            raise SourceNotFoundError(
                f"there is no workspace folder {str(workspace)!r}",
                hint="Name an existing folder; task vectors are kept below it, in state/quality_graph.",
            )
        self.folder = self.workspace / FOLDER
        self.file = TaskFile(self.folder / VECTORS)
        self.embedder = embedder or TaskEmbedder(mode)
        self._seen: tuple[tuple[int, int, int], Snapshot] | None = None
        self._by_id: tuple[Snapshot, dict[str, dict[str, Any]]] | None = None
        self._listed: dict[str, dict[str, Any]] | None = None

    # --- recording --------------------------------------------------------------------------------------------

    def record(
        self,
        tasks: Iterable[Task | Entry],
        *,
        outcome: str | Mapping[str, Any] | None = None,
        batch_size: int = BATCH_SIZE,
        show_progress: bool = False,
    ) -> RecordReport:
        """Record finished tasks: their vectors are computed together and appended to the file, durably.

        Args:
            tasks: mappings with a `task_id`, a text (or an id that is known here), and whatever else is to be kept.
            outcome: instead of the tasks' own; a task without any is a success.
            batch_size: tasks that the model computes at once.
            show_progress: draw a bar on standard error.

        Returns:
            What was recorded, and which tasks were not and why; these do not hold up the others.

        Raises:
            OutputError: nothing of the step at hand was written; earlier steps stay.
            ModelError: the model cannot be had.
        """
        report = RecordReport(model=self.embedder.model)
        started = time.perf_counter()
        made = []
        for entry in map(_entry, tasks):
            try:
                task = records.completed(entry.task, self._known(entry))
                made.append((entry.name, records.make_record(task, now=_now(), outcome=outcome)))
            except records.TASK_ERRORS as error:
                report.failed.append(TaskFailure(task=entry.name, error=error))
        for start in range(0, len(made), AT_ONCE):
            self._append(made[start : start + AT_ONCE], report, batch_size, show_progress=show_progress)
        report.seconds = time.perf_counter() - started
        return report

    def _append(
        self,
        made: list[tuple[str, dict[str, Any]]],
        report: RecordReport,
        batch_size: int,
        *,
        show_progress: bool,
    ) -> None:
        tasks = [record for _, record in made]
        vectors, failures = self.embedder.embed_tasks(tasks, batch_size, show_progress=show_progress)
        report.failed += [TaskFailure(task=made[bad.row][0], error=bad.error) for bad in failures]
        bad = {failure.row for failure in failures}
        good = [row for row in range(len(made)) if row not in bad]
        signature = {MODEL: self.embedder.model, FINGERPRINT: self.embedder.fingerprint}
        self.file.append(write_lines([{**tasks[row], **signature} for row in good], vectors[good]))
        report.recorded += [tasks[row]["task_id"] for row in good]

    # --- finding ----------------------------------------------------------------------------------------------

    def similar(
        self,
        tasks: Iterable[Task | Entry],
        *,
        k: int = 5,
        min_similarity: float = 0.3,
        success_only: bool = False,
        exclude_abandoned: bool = True,
        batch_size: int = BATCH_SIZE,
    ) -> tuple[dict[str, list[dict[str, Any]]], list[TaskFailure]]:
        """Past tasks like these, the most similar first, never a task itself.

        Args:
            tasks: with a text each, or an id that is known here.
            k: at most so many for each.
            min_similarity: the least cosine.
            success_only: leave out what did not succeed.
            exclude_abandoned: leave out what was abandoned.
            batch_size: tasks that the model computes at once.

        Returns:
            By task id, or the line a task stands on: records without their vectors, with `similarity` and
            `is_confident`; and the tasks that could not be asked for.
        """
        asked, failed = [], []
        for entry in map(_entry, tasks):
            try:
                asked.append((entry.name, records.completed(entry.task, self._known(entry))))
            except records.TASK_ERRORS as error:
                failed.append(TaskFailure(task=entry.name, error=error))
        vectors, failures = self.embedder.embed_tasks([task for _, task in asked], batch_size)
        failed += [TaskFailure(task=asked[bad.row][0], error=bad.error) for bad in failures]
        corpus = self.corpus()
        wanted = _wanted(corpus.records, success_only=success_only, exclude_abandoned=exclude_abandoned)
        found = {}
        bad = {failure.row for failure in failures}
        for row, (name, task) in enumerate(asked):
            if row not in bad:
                found[name] = _nearest(
                    corpus, vectors[row], wanted, k, min_similarity, but=task.get("task_id")
                )
        return found, failed

    def corpus(self) -> Corpus:
        """The records that count and may be compared with this model's vectors.

        Raises:
            SourceError: the file cannot be read, or is no task file.
        """
        content = self._snapshot().content
        last = records.last_of_each(content.records)
        own = self.embedder.fingerprint
        ours = [place for place in last if content.records[place].get(FINGERPRINT) == own]
        others: dict[str, int] = {}
        for place in last:
            record = content.records[place]
            if record.get(FINGERPRINT) != own:
                name = str(record.get(MODEL) or "")
                others[name] = others.get(name, 0) + 1
        return Corpus(
            records=[content.records[place] for place in ours],
            vectors=normalized(content.vectors[ours]),
            other_models=others,
            problems=content.problems,
            torn=self._snapshot().torn,
        )

    # --- reindexing -------------------------------------------------------------------------------------------

    def reindex(
        self,
        *,
        limit: int | None = None,
        dry_run: bool = False,
        backup: bool = False,
        output: Path | None = None,
        batch_size: int = BATCH_SIZE,
        show_progress: bool = False,
    ) -> ReindexReport:
        """Compute the vectors of the records that count anew, with this model, and put the file in place in one step.

        All other keys stay, and so do lines that are no records, and records that another process appends meanwhile.

        Args:
            limit: at most so many, those of other models first; the rest stays as it is.
            dry_run: change nothing, only say what would be done.
            backup: keep a copy of the old file beside it.
            output: write there, and leave the file alone.
            batch_size: tasks that the model computes at once.
            show_progress: draw a bar on standard error.

        Raises:
            OutputError: and the file is as it was.
        """
        work = Reindexing(self.file, self.embedder, self._listed_tasks())
        return work.run(
            limit=limit,
            dry_run=dry_run,
            backup=backup,
            output=output,
            batch_size=batch_size,
            show_progress=show_progress,
        )

    # --- inside -----------------------------------------------------------------------------------------------

    def _snapshot(self) -> Snapshot:
        """The file as it is now; read again only if it has changed."""
        try:
            stat = self.file.path.stat()
            stamp = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        except OSError:
            stamp = (0, 0, 0)
        if self._seen is None or self._seen[0] != stamp:
            self._seen = (stamp, self.file.read(dimensions=self.embedder.target_dims))
        return self._seen[1]

    def _known(self, entry: Entry) -> Task | None:
        """What is known of a task that does not say itself what it is about."""
        if has_text(entry.task) or "task_id" not in entry.task:
            return None
        name = records.task_id(entry.task["task_id"])
        seen = self._snapshot()
        if self._by_id is None or self._by_id[0] is not seen:
            self._by_id = (seen, {record["task_id"]: record for record in seen.content.records})
        recorded = self._by_id[1].get(name)
        return recorded if recorded and has_text(recorded) else self._listed_tasks().get(name)

    def _listed_tasks(self) -> dict[str, dict[str, Any]]:
        """The tasks of `tasks.jsonl`, by id; the last line of a task counts."""
        if self._listed is None:
            path = self.folder / TASKS
            self._listed = {}
            for number, line in enumerate(read_task_list(path) if path.exists() else [], start=1):
                try:
                    task = records.with_known_names(read_object(line)) if line.strip() else {}
                    if task:
                        self._listed[records.task_id(task.get("task_id"))] = task
                except RowError as error:
                    _log.warning("%s, line %d is passed over: %s", path, number, error)
        return self._listed


def _entry(task: Task | Entry) -> Entry:
    if isinstance(task, Entry):
        return task
    return Entry(name=str(task.get("task_id") or "(no id)"), task=task)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _wanted(found: Sequence[Task], *, success_only: bool, exclude_abandoned: bool) -> npt.NDArray[np.bool_]:
    """`(n,)`: which records may be answers."""
    statuses = [records.status(record) for record in found]
    return np.array(
        [
            status == "success" if success_only else not (exclude_abandoned and status == "abandoned")
            for status in statuses
        ],
        np.bool_,
    )


def _nearest(  # what a question is made of
    corpus: Corpus,
    vector: FloatArray,
    wanted: npt.NDArray[np.bool_],
    k: int,
    min_similarity: float,
    but: object,
) -> list[dict[str, Any]]:
    """The `k` most similar records, newer ones first among equals."""
    cosines = corpus.vectors @ vector
    places = np.flatnonzero(wanted & (cosines >= min_similarity))
    # One more than asked for: the task itself may be among them.
    if len(places) > k + 1:
        border = np.partition(cosines[places], -(k + 1))[-(k + 1)]
        places = places[cosines[places] >= border]
    order = sorted(places, key=lambda place: (-cosines[place], -place))
    return [
        records.shown(corpus.records[place], float(cosines[place]), confident_above=CONFIDENT_ABOVE)
        for place in order
        if corpus.records[place]["task_id"] != but
    ][:k]
