"""How well a provider is doing: how many calls may be under way, when to pause, and when to send probes only.

Used by `pacing`. Refusals for too much in a minute only pause here; what they say about quotas is `pacing_axis`'s. A
*round* ends whenever something fails: calls that were sent before that and fail too say nothing new.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from embatch.remote import ErrorKind

if TYPE_CHECKING:
    from collections.abc import Mapping

HARD = frozenset({ErrorKind.OVERLOADED, ErrorKind.TIMEOUT, ErrorKind.CONNECTION, ErrorKind.PROTOCOL})
"""Failures that say something about the provider's state, not about what it was sent."""

REFUSED = frozenset({ErrorKind.RATE_MINUTE, ErrorKind.ENQUEUED_FULL})
"""Failures that say that too much was sent."""

_CUT = 0.4  # of the calls under way, at most, after a hard failure
_CUT_BY = 2.0  # times the share of calls that fail: one odd failure among many is no reason to slow down
_SHARE = 1 / 30  # weight of one call in that share
_GROWTH = 1 / 8  # more calls under way after as many answers as there are, but at least one
_CIRCUIT = 5  # hard failures in a row that open it, if they did not all happen at once
_HARD_S = 0.2  # longest pause after the second round of hard failures in a row, doubled with each
_OPEN_S = 2.0  # longest pause while nothing but probes goes, doubled with each that fails
_REFUSED_S = 1.0  # longest pause after a refusal that names none, doubled with each
_MOST_S = 60.0
_MOST_REFUSED_S = 30.0  # a minute's quota is sure to be there again after a minute, and is looked for before
_FLOOR = 0.25  # of a pause is certain, the rest is drawn
_BUDGET = 500  # retries: what is there at most; the numbers are those of the AWS SDKs
_RETRY_COSTS: Mapping[ErrorKind, int] = {ErrorKind.TIMEOUT: 10}
_RETRY_COST = 5
_LATE_COST = 1  # of a call that was under way when another failed: it says nothing new
_PAID_BACK = 1
_ENOUGH = 25  # of the budget, to leave probing


class Health:
    """The state of a provider as its answers show it.

    Args:
        now: seconds, by any clock that does not go back.
        ceiling: most calls that may ever be under way.
        parallel: calls that may be under way to begin with.
    """

    def __init__(self, *, now: float, ceiling: int, parallel: float | None = None) -> None:
        self._ceiling = float(max(1, ceiling))
        self._parallel = self._ceiling if parallel is None else min(self._ceiling, max(1.0, parallel))
        self._until = now
        self._round = -math.inf
        self._goal = 0.0  # where to grow to fast, after nothing but probes went
        self._before = self._parallel  # at the last round's end
        self._failing = 0.0  # share of calls
        self._hard = 0  # failures in a row
        self._rounds = 0  # the same, in rounds
        self._open = 0  # pauses in a row since nothing but probes goes
        self._refusals = 0
        self._budget = _BUDGET
        self._spent = False

    @property
    def until(self) -> float:
        """When the pause ends; a time that is over if there is none."""
        return self._until

    @property
    def probing(self) -> bool:
        """Whether only one call may go, to see whether the provider takes calls again."""
        return self._spent or self._refusals > 0 or self._opened

    @property
    def round(self) -> float:
        """When the last round ended."""
        return self._round

    @property
    def parallel(self) -> int:
        """Calls that may be under way when nothing is being probed."""
        return int(self._parallel)

    @property
    def usual(self) -> int:
        """The same, as it was before the provider was in trouble, less what was too much."""
        return int(max(self._parallel, self._goal))

    def news(self, sent_at: float) -> bool:
        """Whether a call sent then can say anything that the last failure did not."""
        return sent_at >= self._round

    def answered(self, sent_at: float) -> None:
        """A call brought results."""
        by = 1.0 if self._parallel < self._goal else max(1.0, self._parallel * _GROWTH) / self._parallel
        self._parallel = min(self._ceiling, self._parallel + by)
        self._failing -= _SHARE * self._failing
        self._budget = min(_BUDGET, self._budget + _PAID_BACK)
        if self._budget >= _ENOUGH:
            self._spent = False
        self.reached(sent_at)
        if self.news(sent_at):
            self._refusals = 0

    def reached(self, sent_at: float) -> None:
        """The provider answered something, if only that it does not like what it was sent."""
        if self.news(sent_at) or not self._opened:
            self._hard = self._rounds = self._open = 0

    def refused(self, now: float, sent_at: float, retry_after_s: float | None, draw: float) -> None:
        """Too much was sent: pause as long as the provider says, or longer each time if it says nothing."""
        self.reached(sent_at)
        if self.news(sent_at):
            self._refusals += 1
            self._round = now
            self._pause(now, _span(_REFUSED_S, self._refusals - 1, _MOST_REFUSED_S), retry_after_s, draw)
        elif retry_after_s is not None:
            self._pause(now, 0.0, retry_after_s, draw)

    def failed(
        self, now: float, sent_at: float, kind: ErrorKind, retry_after_s: float | None, draw: float
    ) -> None:
        """A call was lost, or the provider is in trouble."""
        self._hard += 1
        self._failing += _SHARE * (1 - self._failing)
        news = self.news(sent_at)
        if news:
            self._round = now
            self._rounds += 1
            self._before = self._parallel
        cost = _RETRY_COSTS.get(kind, _RETRY_COST) if news else _LATE_COST
        self._budget = max(0, self._budget - cost)
        self._spent = self._spent or self._budget < _RETRY_COST
        self._parallel = min(
            self._parallel, max(1.0, self._before * (1 - min(_CUT, _CUT_BY * self._failing)))
        )
        span = 0.0
        if self._opened or self._spent:
            self._goal = self._parallel if self._parallel > 1 else self._goal
            self._parallel = 1.0
        if news and self.probing:
            span = _span(_OPEN_S, self._open, _MOST_S)
            self._open += 1
        elif news and self._rounds > 1:
            span = _span(_HARD_S, self._rounds - 2, _MOST_S)
        if span > 0 or retry_after_s is not None:
            self._pause(now, span, retry_after_s, draw)

    @property
    def _opened(self) -> bool:
        """Whether the circuit is open: nothing but probes goes until one is answered."""
        return self._hard >= _CIRCUIT and self._rounds > 1

    def _pause(self, now: float, span: float, retry_after_s: float | None, draw: float) -> None:
        """Draw within the own span, put jitter on top of the provider's delay, and wait for the later of both."""
        own = span * (_FLOOR + (1 - _FLOOR) * draw)
        told = 0.0
        if retry_after_s is not None:
            told = retry_after_s + 0.01 + draw * min(1.0, 0.05 + 0.1 * retry_after_s)
        self._until = max(self._until, now + max(own, told))


def _span(base: float, times: int, most: float) -> float:
    return min(most, base * math.pow(2.0, min(times, 30)))
