"""How large a batch should be: learned from what batches did, never guessed twice.

`Search` climbs a curve of throughput over sizes that is not monotone and is measured with noise; `BudgetTuner` uses
it for the token budget of the pipeline. Both are deciders: what a batch did goes in, the next size comes out. They
measure nothing and keep nothing on disk.
"""

from __future__ import annotations

import math
from statistics import mean, median, stdev
from typing import TYPE_CHECKING

from embatch.errors import UsageError

if TYPE_CHECKING:
    from embatch.types import BatchRecord

# A neighbour must win by this much, and in this share of the rounds, to become the new centre: below it, the gain is
# within what two runs of the same size differ by on a shared machine.
_GAIN = 0.015
_AGREE = 0.7
_MIN_ROUNDS = 4
_MAX_ROUNDS = 10
_CLEAR_GAIN = 0.12  # so large a gain needs only two rounds
_CLEAR_ROUNDS = 2
_FULL = 0.6  # of its budget: a smaller batch says nothing about the budget
_WATCH_EVERY = 400  # settled batches between two looks at the neighbours
_UNTRIED = 8  # batches before a cold tuner tries another budget: a run of so few would pay and never gain


class Search:
    """The best of a row of sizes, by comparing the current one with its two neighbours in rounds.

    A round tries the centre and both neighbours once, one after the other, so that slow drifts (texts that get shorter,
    a machine that gets busier) touch all three alike; only ratios within a round count. The order turns around from
    round to round. When a neighbour is clearly better it becomes the centre; when none is, the search has settled, and
    looks again after `watch_every` observations.

    Args:
        sizes: the sizes that may be proposed, ascending.
        start: where to begin; the nearest of `sizes` is taken.
        settled: begin settled at `start`, as with a stored profile.
        watch_every: observations after which a settled search compares again, times `each`.
        each: batches of each size in a round, whose means are compared: several where batches differ much by chance.
        begin_at: the observation that begins the first round; until then every batch gets the size to start at.
    """

    def __init__(
        self,
        sizes: list[int],
        start: int,
        *,
        settled: bool = False,
        watch_every: int = _WATCH_EVERY,
        each: int = 1,
        begin_at: int = 1,
    ) -> None:
        if not sizes or sorted(set(sizes)) != sizes:
            raise UsageError(f"sizes to search must be ascending and without repeats, not {sizes!r}")
        self._sizes = sizes
        self._centre = min(range(len(sizes)), key=lambda i: abs(math.log(sizes[i] / max(1, start))))
        self._ceiling = len(sizes) - 1
        self._settled = settled
        self._watch_every = watch_every * each
        self._each = each
        self._since_settled = 0
        self._ahead = begin_at  # observations until the first round has begun
        self._flip = False
        self._queue: list[int] = []
        self._round: dict[int, list[float]] = {}
        self._gains: dict[int, list[float]] = {}

    @property
    def best(self) -> int:
        """The size to use when nothing is to be tried."""
        return self._sizes[self._centre]

    @property
    def settled(self) -> bool:
        """Whether the neighbours were tried and lost."""
        return self._settled

    def propose(self) -> int:
        """The size of the next batch."""
        if self._settled or self._ahead:
            return self.best
        if not self._queue:
            self._queue = self._candidates()
            if self._flip:
                self._queue.reverse()
            self._flip = not self._flip
            self._queue *= self._each
        return self._sizes[self._queue.pop(0)]

    def observe(self, size: int, rate: float) -> None:
        """Take what a batch of a proposed size reached, in tokens (or documents) per second."""
        if self._settled:
            self._since_settled += 1
            if self._since_settled >= self._watch_every:
                self._reopen()
            return
        if size not in self._sizes or rate <= 0:
            return
        self._ahead = max(0, self._ahead - 1)
        if self._ahead:
            return
        self._round.setdefault(self._sizes.index(size), []).append(math.log(rate))
        if all(len(self._round.get(candidate, ())) >= self._each for candidate in self._candidates()):
            self._close_round()

    def forbid(self, size: int) -> None:
        """Never propose this size or a larger one again: it did not fit into memory."""
        allowed = [i for i, candidate in enumerate(self._sizes) if candidate < size]
        self._ceiling = min(self._ceiling, max(allowed, default=0))
        if self._centre > self._ceiling:
            self._move(self._ceiling)
        self._queue = [i for i in self._queue if i <= self._ceiling]

    def _candidates(self) -> list[int]:
        around = (self._centre, self._centre - 1, self._centre + 1)
        return [i for i in around if 0 <= i <= self._ceiling]

    def _close_round(self) -> None:
        centre = mean(self._round[self._centre])
        for candidate in self._candidates():
            if candidate != self._centre:
                self._gains.setdefault(candidate, []).append(mean(self._round[candidate]) - centre)
        self._round = {}
        winner = self._winner()
        if winner is not None:
            self._move(winner)
        elif all(len(gains) >= self._enough(gains) for gains in self._gains.values()):
            self._settle()

    def _winner(self) -> int | None:
        best: tuple[float, int] | None = None
        for candidate, gains in self._gains.items():
            gain = median(gains)
            agree = sum(g > 0 for g in gains) / len(gains)
            clear = len(gains) >= _CLEAR_ROUNDS and gain > _CLEAR_GAIN and agree == 1
            proven = len(gains) >= _MIN_ROUNDS and gain > _GAIN and agree >= _AGREE
            if (clear or proven) and _stands_out(gains) and (best is None or gain > best[0]):
                best = (gain, candidate)
        return None if best is None else best[1]

    @staticmethod
    def _enough(gains: list[float]) -> int:
        """Rounds to see before a neighbour counts as no better: few when it clearly loses, more when it is close."""
        return _MIN_ROUNDS if median(gains) < -_GAIN else _MAX_ROUNDS

    def _move(self, centre: int) -> None:
        self._centre = centre
        self._gains = {}
        self._round = {}
        self._queue = []

    def _settle(self) -> None:
        self._settled = True
        self._since_settled = 0
        self._gains = {}
        self._queue = []

    def _reopen(self) -> None:
        self._settled = False
        self._since_settled = 0


class BudgetTuner:
    """The token budget of the next batch: searched, settled, watched, and shrunk under memory pressure.

    Args:
        low: smallest budget worth trying, in tokens by the backend's cost rule.
        high: largest.
        first: where to begin.
        profile: a budget that an earlier run settled on for the same model, device and kind of document.
        fixed: never search, always this budget.
        each: batches of each budget whose mean counts in the search: see `Search`.
    """

    def __init__(
        self,
        *,
        low: int,
        high: int,
        first: int,
        profile: int | None = None,
        fixed: int | None = None,
        each: int = 1,
    ) -> None:
        if not 1 <= low <= high:
            raise UsageError(f"budgets must ascend from at least 1 token, not {low} to {high}")
        self._low = low
        self._fixed = fixed
        self._pressed: int | None = None
        sizes = [fixed] if fixed is not None else _doublings(low, high, first)
        settled = profile is not None or fixed is not None
        self._search = Search(sizes, profile or fixed or first, settled=settled, each=each, begin_at=_UNTRIED)

    @property
    def budget(self) -> int:
        """The budget in use when nothing is tried, in tokens."""
        return self._bounded(self._search.best)

    @property
    def settled(self) -> bool:
        """Whether the search has ended for now."""
        return self._search.settled

    @property
    def learned(self) -> bool:
        """Whether `budget` comes from measurement and is worth keeping as a profile."""
        return self._fixed is None and self._search.settled and self._pressed is None

    def next_budget(self) -> int:
        """The budget to form the next batch under, in tokens."""
        return self._bounded(self._search.propose())

    def record(self, batch: BatchRecord) -> None:
        """Take what a batch did."""
        if batch.out_of_memory:
            did_not_fit = min(batch.budget or batch.longest * batch.items, batch.longest * batch.items)
            self._search.forbid(max(self._low, did_not_fit))
            return
        if is_full(batch) and batch.seconds > 0:
            self._search.observe(batch.budget, batch.tokens / batch.seconds)

    def pressure(self, used: float, *, high: float = 0.9, low: float = 0.75) -> None:
        """Take how full the memory is, 0 to 1: above `high` the budget halves, below `low` it may grow again."""
        if used > high:
            self._pressed = max(self._low, (self._pressed or self._search.best) // 2)
        elif used < low and self._pressed is not None:
            self._pressed *= 2
            if self._pressed >= self._search.best:
                self._pressed = None

    def _bounded(self, budget: int) -> int:
        return budget if self._pressed is None else min(budget, self._pressed)


def _stands_out(gains: list[float]) -> bool:
    """Whether the mean gain is more than twice its standard error: chance alone would seldom make it so.

    A server's batches differ in their texts and in what else the machine does; without this its search wandered.
    """
    return mean(gains) > 2.0 * stdev(gains) / math.sqrt(len(gains))


def is_full(batch: BatchRecord) -> bool:
    """Whether what a batch did says something about the budget that it was formed under."""
    padded = batch.longest * batch.items
    return batch.fresh and (padded >= _FULL * batch.budget or batch.longest * 2 > batch.budget)


def _doublings(low: int, high: int, first: int) -> list[int]:
    """Powers of two times `first` within `[low, high]`, ascending; `first` itself clamped into the range."""
    first = min(high, max(low, first))
    sizes = [first]
    while sizes[0] // 2 >= low:
        sizes.insert(0, sizes[0] // 2)
    while sizes[-1] * 2 <= high:
        sizes.append(sizes[-1] * 2)
    return sizes
