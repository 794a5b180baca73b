"""What a record of a task is: which keys it has, what they may hold, and how one is made from a finished task.

Pure but for the clock, which is handed in. Keys that are not known here are kept as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embatch.errors import EmbatchError, ItemError, RowError
from embatch.frontends.tasks.texts import TEXT_KEYS, clean_files, has_text
from embatch.storage.task_lines import check_record, read_object

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.frontends.tasks.texts import Task

STATUSES = ("success", "failure", "abandoned")
QUALITIES = ("high", "medium", "low")
MODEL = "embedding_model"
FINGERPRINT = "embedding_fingerprint"
VECTOR = "embedding"
OWN_KEYS = (VECTOR, MODEL, FINGERPRINT)
"""Keys that say how a record was made, and nothing about its task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFailure:
    """A task that could not be dealt with, and why; the others went on."""

    task: str
    """Its id, or the line that it stands on."""
    error: EmbatchError

    def to_dict(self) -> dict[str, str]:
        """For programs."""
        return {"task": self.task, "error": str(self.error), "hint": self.error.hint}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A task as it was asked for: by its id alone, or with its fields."""

    name: str
    """What messages call it: its id, or the line that it stands on."""
    task: Task


def make_record(task: Task, *, now: str, outcome: str | Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The record of a finished task, without its vector.

    Args:
        task: `task_id`, and whatever else is known; keys of older records that say how these were made are left out.
        now: ISO 8601, for a task without a `timestamp` of its own.
        outcome: instead of the task's own.

    Raises:
        RowError: a key holds something that it may not.
        ItemError: a text is no text.
    """
    rest = {name: value for name, value in task.items() if name not in OWN_KEYS}
    record: dict[str, Any] = {"task_id": task_id(rest.pop("task_id", None))}
    timestamp = rest.pop("timestamp", None) or now
    if not isinstance(timestamp, str):
        raise RowError(f"timestamp must be text such as {now!r}, not {timestamp!r}")
    record |= {VECTOR: None, "timestamp": timestamp}
    own = rest.pop("outcome", None)
    record["outcome"] = checked_outcome(outcome if outcome is not None else own)
    for name in TEXT_KEYS[:2]:
        value = rest.pop(name, None)
        if value is not None and not isinstance(value, str):
            raise RowError(f"{name} must be text, not {type(value).__name__}")
        if value:
            record[name] = value
    if files := clean_files(rest.pop("files_touched", None)):
        record["files_touched"] = files
    record |= _measures(rest)
    check_record(record)
    return record


def task_id(value: object) -> str:
    """A task's id as text.

    Raises:
        RowError: there is none.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"task_id must be text, not {value!r}" if value is not None else "there is no task_id")
    return value.strip()


def checked_outcome(value: object) -> dict[str, Any]:
    """`{"status": …}`, with a reason and whatever else was given; None is a success.

    Raises:
        RowError: it is no outcome.
    """
    if value is None:
        return {"status": "success"}
    outcome = {"status": value} if isinstance(value, str) else value
    if not isinstance(outcome, Mapping) or outcome.get("status") not in STATUSES:
        raise RowError(
            f"outcome must be {', '.join(STATUSES)}, or an object with such a status, not {value!r}"
        )
    if not isinstance(outcome.get("reason", ""), str | None):
        raise RowError(f"the outcome's reason must be text, not {outcome['reason']!r}")
    return dict(outcome)


def status(record: Task) -> str:
    """How a task of a record ended; empty where an older program wrote something else."""
    outcome = record.get("outcome")
    found = outcome.get("status") if isinstance(outcome, Mapping) else outcome
    return found if isinstance(found, str) else ""


def read_entry(line: bytes, number: int) -> Entry | None:
    """A line of a list of tasks: an id, or a JSON object with the task's fields; None for a blank one.

    Raises:
        RowError: it is neither.
    """
    if not line.strip():
        return None
    if not line.lstrip().startswith(b"{"):
        try:
            name = line.decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise RowError(f"not UTF-8 text: {error.reason} at byte {error.start}") from error
        return Entry(name=name, task={"task_id": name})
    task = with_known_names(read_object(line))
    return Entry(name=str(task.get("task_id") or f"line {number}"), task=task)


def with_known_names(task: dict[str, Any]) -> dict[str, Any]:
    """The task with `id` and `files` under the names that they have here, where these are missing."""
    for ours, theirs in (("task_id", "id"), ("files_touched", "files")):
        if ours not in task and theirs in task:
            task = {ours if name == theirs else name: value for name, value in task.items()}
    return task


def completed(task: Task, known: Task | None) -> dict[str, Any]:
    """A task without a text takes everything it does not say itself from what is known of it.

    Raises:
        RowError: nothing is known of it.
    """
    if has_text(task):
        return dict(task)
    if known is None or not has_text(known):
        raise RowError(
            f"{task.get('task_id')!r} is not known here, and no title, description or files were given",
            hint="Give its text, record it first, or add it to state/quality_graph/tasks.jsonl.",
        )
    inherited = {name: value for name, value in known.items() if name not in (*OWN_KEYS, "timestamp")}
    return {**inherited, **{name: value for name, value in task.items() if value is not None}}


def shown(record: Task, similarity: float, *, confident_above: float) -> dict[str, Any]:
    """A record as an answer: everything about its task, with how similar it is."""
    facts = {name: value for name, value in record.items() if name not in OWN_KEYS}
    return {
        **facts,
        "similarity": round(similarity, 6),
        "is_confident": bool(similarity > confident_above),
    }


def last_of_each(records: Sequence[Task]) -> list[int]:
    """Places of the records that count, in their order: the last one of each task."""
    last = {record["task_id"]: place for place, record in enumerate(records)}
    return sorted(last.values())


def _measures(rest: dict[str, Any]) -> dict[str, Any]:
    """Duration, quality and score, checked, and what is foreign here."""
    for name in ("duration_ms", "complexity_score"):
        value = rest.get(name)
        if value is None:
            rest.pop(name, None)
        elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise RowError(f"{name} must be a number, not {value!r}")
    if rest.get("duration_ms", 0) < 0:
        raise RowError(f"duration_ms must not be negative: {rest['duration_ms']}")
    quality = rest.get("quality")
    if quality is None:
        rest.pop("quality", None)
    elif quality not in QUALITIES:
        raise RowError(f"quality must be {', '.join(QUALITIES)}, not {quality!r}")
    return rest


TASK_ERRORS = (RowError, ItemError)
"""What is wrong with one task, and leaves the others alone."""
