"""Lists of tasks in a file: each line a task id, or a JSON object with the task's fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embatch.errors import RowError, SourceFormatError, SourceNotFoundError, SourceUnreadableError
from embatch.frontends.tasks.records import Entry, TaskFailure, read_entry

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def read_task_list(path: Path) -> list[bytes]:
    """The lines of a text file.

    Raises:
        SourceError: there is none, or it cannot be read, or is no text.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise SourceNotFoundError(
            f"there is no file {str(path)!r}",
            hint="Give a file with a task id or a JSON object on each line.",
        ) from error
    except OSError as error:
        raise SourceUnreadableError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    if b"\0" in data:
        raise SourceFormatError(
            f"{str(path)!r} is no text",
            hint="Give a file with a task id or a JSON object on each line, in UTF-8.",
        )
    return data.splitlines()


def read_entries(lines: Iterable[bytes]) -> tuple[list[Entry], list[TaskFailure]]:
    """The tasks that lines name or hold, and the lines that do neither."""
    entries, failures = [], []
    for number, line in enumerate(lines, start=1):
        try:
            entry = read_entry(line, number)
        except RowError as error:
            failures.append(TaskFailure(task=f"line {number}", error=error))
            continue
        if entry is not None:
            entries.append(entry)
    return entries, failures
