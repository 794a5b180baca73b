"""What a run passes over on purpose: binary files, empty ones, what `.gitignore` names.

Sources fill the log while they list and read; the report shows it at the end. It holds no failures: an input that
was meant and cannot be used is a `BadItem` or an error.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

DETAILED = 1_000
"""So many skips are kept one by one; all are counted. A tree can hold millions."""


@dataclass(frozen=True, slots=True)
class Skip:
    """One input that was passed over."""

    source: str
    """Its key: the path as the user would write it."""
    reason: str
    """A few words from a closed set, such as `binary`, `empty`, `ignored by .gitignore`."""


class SkipLog:
    """Skips, the first ones in detail and all of them counted by reason."""

    def __init__(self) -> None:
        self.detail: list[Skip] = []
        self.counts: Counter[str] = Counter()

    def add(self, source: str, reason: str) -> None:
        """Note one skip."""
        self.counts[reason] += 1
        if len(self.detail) < DETAILED:
            self.detail.append(Skip(source, reason))

    def copy(self) -> SkipLog:
        """A log that can grow without changing this one."""
        other = SkipLog()
        other.detail = list(self.detail)
        other.counts = Counter(self.counts)
        return other
