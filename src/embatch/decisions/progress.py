"""How far a run is, how fast, and how long it still takes: arithmetic over counts and times that the caller reads.

One noun, `Progress`, for every lane and every front end; `Meter` makes it. It reads no clock and draws no bar.
"""

from __future__ import annotations

from dataclasses import dataclass

_HALF_LIFE_S = 10.0
"""A rate from this long ago counts half: long enough to be steady, short enough to follow the machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One look at a run."""

    completed: int
    """Rows that have ended, failed ones included."""
    failed: int
    total: int | None
    """Rows in all; None while it is not known."""
    seconds: float
    """Since the start."""
    rate: float
    """Rows per second, lately."""
    tokens_rate: float
    """Tokens per second, lately."""
    left_s: float | None = None
    """Seconds left as whoever drives the run expects them; None leaves it to the rate."""
    note: str = ""
    """What else is worth a look, such as jobs under way and dollars spent."""

    @property
    def eta(self) -> float | None:
        """Seconds left, as expected or at this rate; None while it cannot be told."""
        if self.left_s is not None:
            return self.left_s
        if self.total is None or self.rate <= 0:
            return None
        return max(0, self.total - self.completed) / self.rate

    @property
    def percentage(self) -> float | None:
        """0 to 100; None while the total is not known."""
        if self.total is None:
            return None
        return 100.0 * self.completed / self.total if self.total else 100.0


class Meter:
    """Smooths rates over looks taken at any distance in time.

    Args:
        now: seconds on the caller's clock at the start.
    """

    def __init__(self, now: float) -> None:
        self._start = self._last = now
        self._completed = 0
        self._tokens = 0
        self._rate = self._tokens_rate = 0.0  # sums of weighted rates; see `look`

    def look(
        self,
        now: float,
        *,
        completed: int,
        failed: int = 0,
        tokens: int = 0,
        total: int | None = None,
        left_s: float | None = None,
        note: str = "",
    ) -> Progress:
        """Take the counts of this moment.

        Args:
            now: seconds on the same clock.
            completed: rows ended so far.
            failed: of these, without a vector.
            tokens: tokens computed so far.
            total: rows in all, if known.
            left_s: seconds left, where they are known better than from the rate.
            note: handed on.
        """
        elapsed = now - self._last
        if elapsed > 0:
            rate = (completed - self._completed) / elapsed
            tokens_rate = (tokens - self._tokens) / elapsed
            keep = 0.5 ** (elapsed / _HALF_LIFE_S)
            self._rate = keep * self._rate + (1 - keep) * rate
            self._tokens_rate = keep * self._tokens_rate + (1 - keep) * tokens_rate
            self._last, self._completed, self._tokens = now, completed, tokens
        # The weights so far add up to this: divided by it, the first seconds count in full instead of from zero.
        weight = 1 - 0.5 ** ((self._last - self._start) / _HALF_LIFE_S)
        return Progress(
            completed=completed,
            failed=failed,
            total=None if total is None else max(total, completed),
            seconds=now - self._start,
            rate=max(0.0, self._rate / weight) if weight else 0.0,
            tokens_rate=max(0.0, self._tokens_rate / weight) if weight else 0.0,
            left_s=left_s,
            note=note,
        )
