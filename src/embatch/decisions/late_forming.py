"""Which of the waiting units go into the next batch, when a stream has become free.

The server's counterpart of cutting a sorted window: whoever waits longest always goes now, and what goes along is
chosen so that the batch computes most for its cost. Batches themselves are bounded by `planning`, the one place that
forms them. It knows neither asks nor clocks.
"""

from __future__ import annotations

import math
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from embatch.decisions.planning import batch_end, order, share
from embatch.types import CostRule

if TYPE_CHECKING:
    from embatch.decisions.planning import Budget, Positions
    from embatch.types import IntArray, Limits

LOOK_AHEAD = 512
"""Most units that are looked at: enough to find neighbours of like length, and little work."""

_FEW = 64
"""So many units are cut into batches as well as can be; of more, there are enough of every length for full ones."""

_OWN_COST = 24
"""A batch costs something by itself, beside its tokens: about this part of the budget that the device likes best. (On
two cores, with a job beside: 3.4 ms, and 78 for 1,000 tokens. New shapes are half of it.)"""


def pick(lengths: IntArray, budget: Budget, limits: Limits, *, streams: int = 1) -> Positions:
    """Positions of the units of the next batch, longest first; position 0 is always among them.

    A batch costs its padded tokens, and something by itself. Few units are cut into batches of neighbours by length so
    that all batches together cost least, and the one that holds unit 0 goes. Of many it is the run of neighbours with
    the most tokens for its cost, among those that hold unit 0 and fit the budget. So a full queue makes full batches
    of like lengths, and three short texts do not wait for the long one beside them. A unit is passed over at most as
    often as there are units before it.

    Args:
        lengths: `(n,)` tokens of the waiting units, n at least 1, in the order of their turns.
        budget: what a batch may hold.
        limits: what the backend takes, and its cost rule.
        streams: among how many the units are shared when there are too few to fill a batch for each.
    """
    if len(lengths) == 1:  # an idle server's batch, which somebody waits for
        return np.zeros(1, np.intp)
    lengths = lengths[:LOOK_AHEAD]
    positions = order(lengths)
    ordered = lengths[positions]
    fair = share(int(lengths.sum()), int(lengths[0]), budget, streams) if streams > 1 else budget
    head = int(np.flatnonzero(positions == 0)[0])
    choose = _of_cheapest if len(ordered) <= _FEW else _richest
    start, end = choose(ordered, head, fair, limits)
    return positions[start:end]


def _own(limits: Limits) -> float:
    return max(1.0, limits.first_budget / _OWN_COST)


def _of_cheapest(ordered: IntArray, head: int, budget: Budget, limits: Limits) -> tuple[int, int]:
    """The batch with `head` when all are cut where it costs least: the shortest path over the borders between units."""
    own, padded = _own(limits), limits.cost is CostRule.PADDED
    sizes = ordered.tolist()
    sums = [0, *accumulate(sizes)]
    costs = [0.0] + [math.inf] * len(sizes)  # of all batches before each border
    begins = [0] * len(costs)  # of the batch that ends there
    for start, longest in enumerate(sizes):
        base = costs[start] + own
        for end in range(start + 1, batch_end(ordered, start, budget, limits) + 1):
            cost = base + (longest * (end - start) if padded else sums[end] - sums[start])
            if cost < costs[end]:
                costs[end], begins[end] = cost, start
    end = len(sizes)
    while begins[end] > head:
        end = begins[end]
    return begins[end], end


def _richest(ordered: IntArray, head: int, budget: Budget, limits: Limits) -> tuple[int, int]:
    """The run with `head` that has the most tokens for its cost."""
    sums = np.concatenate(([0], np.cumsum(ordered, dtype=np.int64)))
    own = _own(limits)
    best, best_worth = (head, head + 1), 0.0
    for start in _starts(ordered, head):
        last = batch_end(ordered, start, budget, limits)
        if last <= head:
            break  # beginning with even longer ones only ends sooner
        ends = np.arange(head + 1, last + 1)
        tokens = sums[ends] - sums[start]
        costs = ordered[start] * (ends - start) if limits.cost is CostRule.PADDED else tokens
        worths = tokens / (costs + own)
        at = int(worths.argmax())
        if worths[at] > best_worth:
            best, best_worth = (start, int(ends[at])), float(worths[at])
    return best


def _starts(ordered: IntArray, head: int) -> list[int]:
    """Where batches may begin, nearest to `head` first: at `head`, and at the first and last of each greater length."""
    changes = np.flatnonzero(np.diff(ordered[: head + 1])) + 1
    return sorted({head, 0, *changes.tolist(), *(changes - 1).tolist()}, reverse=True)
