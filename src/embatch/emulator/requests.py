"""What was asked of an emulator: counts by operation, and when how much was let through."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import NamedTuple


class Accepted(NamedTuple):
    """A synchronous request that the quotas let through."""

    time: float
    """Virtual seconds."""
    operation: str
    items: int
    tokens: int


@dataclass(slots=True)
class Requests:
    """Counts since the emulator started. Refusals, scripted ones included, are in both counts."""

    counts: Counter[str] = field(default_factory=Counter)
    """Operation → requests."""
    refused: Counter[str] = field(default_factory=Counter)
    """Operation → requests that were answered with 4xx or 5xx."""
    statuses: Counter[int] = field(default_factory=Counter)
    """HTTP status → answers; 0 for a connection that was reset."""
    accepted: list[Accepted] = field(default_factory=list)

    def __getitem__(self, operation: str) -> int:
        return self.counts[operation]

    @property
    def total(self) -> int:
        """All requests."""
        return sum(self.counts.values())

    def most_items(self, window_s: float = 60.0) -> int:
        """The most items that were let through in any such stretch of time."""
        return self._most([(each.time, each.items) for each in self.accepted], window_s)

    def most_tokens(self, window_s: float = 60.0) -> int:
        """The most tokens that were let through in any such stretch of time."""
        return self._most([(each.time, each.tokens) for each in self.accepted], window_s)

    def copy(self) -> Requests:
        """As it stands."""
        return Requests(
            Counter(self.counts), Counter(self.refused), Counter(self.statuses), list(self.accepted)
        )

    @staticmethod
    def _most(amounts: list[tuple[float, int]], window_s: float) -> int:
        window: deque[tuple[float, int]] = deque()
        total = most = 0
        for time, amount in sorted(amounts):
            window.append((time, amount))
            total += amount
            while window[0][0] <= time - window_s:
                total -= window.popleft()[1]
            most = max(most, total)
        return most
