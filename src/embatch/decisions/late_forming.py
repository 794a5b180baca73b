"""Which of the waiting units go into the next batch, when a stream has become free.

The server's counterpart of cutting a sorted window: whoever waits longest always goes now, and what goes along is
chosen so that the batch computes most for its cost. Batches themselves are bounded by `planning`, the one place that
forms them. It knows neither asks nor clocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embatch.decisions.planning import batch_end, order, share
from embatch.types import CostRule

if TYPE_CHECKING:
    from embatch.decisions.planning import Budget, Positions
    from embatch.types import IntArray, Limits

LOOK_AHEAD = 512
"""Most units that are looked at: enough to find neighbours of like length, and little work."""


_OWN_COST = 32
"""A batch costs something by itself, beside its tokens: about this part of the budget that the device likes best. (On
two cores 0.8 ms of computing and 1 ms around it, beside 90 ms for 1,024 tokens.)"""


def pick(lengths: IntArray, budget: Budget, limits: Limits, *, streams: int = 1) -> Positions:
    """Positions of the units of the next batch, longest first; position 0 is always among them.

    Of all runs of neighbours by length that hold unit 0 and fit the budget, the one with the most tokens for its cost:
    padded tokens, and what a batch costs by itself. So a full queue makes full batches of like lengths, and three short
    texts do not wait for the long one beside them. A unit is passed over at most as often as there are units before it.

    Args:
        lengths: `(n,)` tokens of the waiting units, n at least 1, in the order of their turns.
        budget: what a batch may hold.
        limits: what the backend takes, and its cost rule.
        streams: among how many the units are shared when there are too few to fill a batch for each.
    """
    lengths = lengths[:LOOK_AHEAD]
    positions = order(lengths)
    ordered = lengths[positions]
    fair = share(int(lengths.sum()), int(lengths[0]), budget, streams)
    head = int(np.flatnonzero(positions == 0)[0])
    sums = np.concatenate(([0], np.cumsum(ordered, dtype=np.int64)))
    own = max(1.0, limits.first_budget / _OWN_COST)
    best, best_worth = (head, head + 1), 0.0
    for start in _starts(ordered, head):
        last = batch_end(ordered, start, fair, limits)
        if last <= head:
            break  # beginning with even longer ones only ends sooner
        ends = np.arange(head + 1, last + 1)
        tokens = sums[ends] - sums[start]
        costs = ordered[start] * (ends - start) if limits.cost is CostRule.PADDED else tokens
        worths = tokens / (costs + own)
        at = int(worths.argmax())
        if worths[at] > best_worth:
            best, best_worth = (start, int(ends[at])), float(worths[at])
    start, end = best
    return positions[start:end]


def _starts(ordered: IntArray, head: int) -> list[int]:
    """Where batches may begin, nearest to `head` first: at `head`, and at the first and last of each greater length."""
    changes = np.flatnonzero(np.diff(ordered[: head + 1])) + 1
    return sorted({head, 0, *changes.tolist(), *(changes - 1).tolist()}, reverse=True)
