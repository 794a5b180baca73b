"""What a sync did, and what it could not do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_PROBLEMS_KEPT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A file, or a chunk of one, that could not be indexed."""

    path: str
    """The file's key, with the lines behind it if it is a chunk."""
    message: str


@dataclass(slots=True, kw_only=True)
class SyncReport:
    """Counts of a sync. Grows while it runs."""

    files: int = 0
    """Found by the walk."""
    unchanged: int = 0
    """Of these, with the size and time that the index knows."""
    same: int = 0
    """Of these, read and found to hold what they held before."""
    added: int = 0
    """Of these, new to the index, with chunks."""
    changed: int = 0
    """Of these, with chunks before, and with other content now."""
    removed: int = 0
    """In the index before, and gone."""
    unreadable: int = 0
    """Files that could not be read, or not wholly; of those that could not, what the index had stays."""
    chunks: int = 0
    """In the files that were added or changed."""
    embedded: int = 0
    """Of these, with a vector made in this sync."""
    reused: int = 0
    """Of these, with a vector that the index had."""
    failed: int = 0
    """Of these, without one: tried again by the next sync."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Files passed over on purpose, by reason."""
    problems: list[Problem] = field(default_factory=list)
    """The first thousand; `unreadable` and `failed` count all."""
    seconds: float = 0.0
    bytes_total: int = 0
    """Of the files that are read."""
    bytes_done: int = 0

    def problem(self, path: str, message: str) -> None:
        """Note a problem."""
        if len(self.problems) < _PROBLEMS_KEPT:
            self.problems.append(Problem(path=path, message=message))

    def skip(self, reason: str, number: int = 1) -> None:
        """Count what was passed over."""
        self.skipped[reason] = self.skipped.get(reason, 0) + number

    def to_dict(self) -> dict[str, Any]:
        """All of it, for `--json` and logs."""
        numbers = {name: getattr(self, name) for name in self.__slots__ if name != "problems"}
        problems = [{"path": problem.path, "message": problem.message} for problem in self.problems]
        return {**numbers, "seconds": round(self.seconds, 3), "problems": problems}
