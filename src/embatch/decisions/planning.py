"""Which items go into one batch: the one place that forms batches.

Every front end uses it, between a window of tokenised items and a backend. A batch is formed by what it costs (tokens,
padding counted, by the rule that the backend declares) and not by a count. It does not decide what the budget is
(`tuning` does) and carries nothing out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from embatch.errors import UsageError
from embatch.types import CostRule

if TYPE_CHECKING:
    import numpy.typing as npt

    from embatch.types import IntArray, Limits

    Positions = npt.NDArray[np.intp]


_FINEST = 4
"""Batches smaller than this part of the budget cost more by themselves than they level."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How large a batch may grow. At least one bound is set."""

    tokens: int | None = None
    """Most tokens by the backend's cost rule."""
    items: int | None = None
    """Most items: a fixed count, as other libraries have it."""

    def __post_init__(self) -> None:
        bounds = [bound for bound in (self.tokens, self.items) if bound is not None]
        if not bounds or min(bounds) < 1:
            raise UsageError(f"a batch needs a budget of at least 1 token or 1 item, not {self!r}")


def order(lengths: IntArray) -> Positions:
    """Positions of the items, longest first; equal lengths keep their order.

    Longest first, so that neighbours pad each other least, a batch that does not fit into memory shows at once, and
    the short ones level the streams at the end.
    """
    return np.argsort(-lengths, kind="stable")


def cost(lengths: IntArray, rule: CostRule) -> int:
    """Tokens that a batch of these items costs: `longest × count` if padded, the sum if packed."""
    if not len(lengths):
        return 0
    return int(lengths.max()) * len(lengths) if rule is CostRule.PADDED else int(lengths.sum())


def batch_end(ordered: IntArray, start: int, budget: Budget, limits: Limits) -> int:
    """Where the batch that begins at `start` ends: items `start:end` fit the budget and the limits.

    A batch never is empty: one item over the budget goes alone. (One over the backend's own limit does not occur:
    `tokenize` cuts to it.)

    Args:
        ordered: `(n,)` lengths in tokens, longest first.
        start: first item of the batch, `0 <= start < n`.
        budget: what the caller wants at most.
        limits: what the backend takes at most, and its cost rule.
    """
    tokens = _least(budget.tokens, limits.tokens)
    items = _least(budget.items, limits.items)
    end = len(ordered) if items is None else min(len(ordered), start + items)
    if tokens is None:
        return end
    if limits.cost is CostRule.PADDED:
        return min(end, start + max(1, tokens // max(1, int(ordered[start]))))
    # Packed: the longest prefix whose sum fits. Lengths are at least 1, so `tokens` items bound the look-ahead.
    reach = ordered[start : min(end, start + tokens)]
    fitting = int(np.searchsorted(np.cumsum(reach, dtype=np.int64), tokens, side="right"))
    return start + max(1, fitting)


def share(left: int, longest: int, budget: Budget, streams: int) -> Budget:
    """The budget of the next batch when `left` tokens are all that the streams still have to do.

    While there is a full batch for each stream this is `budget`. After that the rest is cut ever finer, down to a
    quarter of it, so that the streams end together instead of one of them computing a last full batch alone. Counts
    of items are the caller's wish and stay.

    Args:
        left: tokens of all items that are in no batch yet.
        longest: tokens of the longest of them, which go into one batch whatever its budget.
        budget: what a batch may hold otherwise.
        streams: batches that are computed side by side.
    """
    if budget.tokens is None or left >= streams * budget.tokens:
        return budget
    fair = -(-left // streams)
    return replace(budget, tokens=min(budget.tokens, max(fair, budget.tokens // _FINEST, longest)))


def plan(lengths: IntArray, budget: Budget, limits: Limits, *, streams: int = 0) -> list[Positions]:
    """All batches of a window, as positions into `lengths`: each item in exactly one batch.

    Args:
        lengths: `(n,)` tokens of each item.
        budget: what a batch may hold.
        limits: what the backend takes.
        streams: of a run's last window, whose rest is shared among them; 0 for any other window.
    """
    positions = order(lengths)
    ordered = lengths[positions]
    batches: list[Positions] = []
    start, left = 0, int(ordered.sum())
    while start < len(positions):
        end = batch_end(ordered, start, share(left, int(ordered[start]), budget, streams), limits)
        left -= int(ordered[start:end].sum())
        batches.append(positions[start:end])
        start = end
    return batches


def _least(first: int | None, second: int | None) -> int | None:
    bounds = [bound for bound in (first, second) if bound is not None]
    return min(bounds) if bounds else None
