"""Which of two ways of doing the same is faster here and now: measured, used, and measured again.

For choices that hang on what else the machine is doing, where no rule made beforehand is right. A decider: times go
in, a way comes out. It does nothing itself and reads no clock.
"""

from __future__ import annotations

from statistics import median

_PROBES = 9
"""Uses of each way that are compared: by their medians, so that four interruptions change nothing."""
_EVERY = 500
"""Uses between two comparisons: comparing costs a few of them the slower way."""


class Faster:
    """Chooses between way 0 and way 1. Not thread-safe.

    Args:
        probes: uses of each way in a comparison.
        every: uses of the winner until the next one.
    """

    def __init__(self, probes: int = _PROBES, every: int = _EVERY) -> None:
        self._probes = probes
        self._every = every
        self._seconds: tuple[list[float], list[float]] = ([], [])
        self._best: int | None = None
        self._used = 0

    @property
    def best(self) -> int | None:
        """The way that won the last comparison; None before the first has ended."""
        return self._best

    def choose(self) -> int:
        """The way to go next."""
        if self._best is not None and self._used < self._every:
            return self._best
        # One after the other, not in turn: each would find its own data pushed out of the caches by the other.
        return int(len(self._seconds[0]) >= self._probes)

    def observe(self, way: int, seconds: float) -> None:
        """Take how long a use took."""
        if self._best is not None and self._used < self._every:
            self._used += 1
            return
        self._seconds[way].append(seconds)
        if min(map(len, self._seconds)) >= self._probes:
            self._best = int(median(self._seconds[1]) < median(self._seconds[0]))
            self._seconds = ([], [])
            self._used = 0
