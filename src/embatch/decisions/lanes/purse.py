"""What a run has spent, what is reserved for what is under way, and what can still be afforded.

Tokens are estimates until the provider has counted them, so that what is reserved carries a margin, wide at first and
narrow once answers have shown how good the estimates are. Without a budget it only adds up.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from embatch.events import CallEnded, JobEnded
    from embatch.remote import Lane, Prices

_FIRST = 2.0  # the margin before anything was counted ...
_LEAST = 1.01  # ... and the least one
_FIRST_GENERATING = 6.0  # output tokens are not known at all
_SIGMAS = 3.5
_SPARE = 0.002  # of the budget is never planned for: a long run has many chances to be unlucky
_PRIOR_ITEMS = 3.0  # the belief that estimates are right is worth so many billed items
_SPREAD, _LEAST_SPREAD, _SPREAD_ANSWERS = (
    0.3**2,
    0.05**2,
    20.0,
)  # of one item's bill, relative to its estimate
_MEMORY_ITEMS = 20_000.0


class Purse:
    """Dollars of one run.

    Args:
        prices: per million tokens; None if they are not known.
        budget: dollars that must not be exceeded; None for no bound.
    """

    def __init__(self, prices: Prices | None, budget: float | None) -> None:
        self._prices = prices
        self.budget = budget
        self._limit = math.inf if budget is None else budget * (1 - _SPARE)
        self.spent = 0.0
        self._held: dict[int, tuple[float, int]] = {}  # call or job -> dollars by the price list, and items
        self._lost = 0.0  # dollars by the price list of what may have been billed: held to the end
        self._actual = 0.0
        self._estimated = 0.0
        self._items = 0.0
        self._spread = _SPREAD

    def price(self, lane: Lane, tokens: float) -> float:
        """Dollars for so many input tokens, by the price list."""
        if self._prices is None:
            return 0.0
        return tokens * (self._prices.individual if lane == "individual" else self._prices.batch) / 1e6

    def expected(self, lane: Lane, tokens: float) -> float:
        """The same with what answers have shown: estimates that were off, output tokens."""
        return self.price(lane, tokens) * self.ratio

    @property
    def ratio(self) -> float:
        """Dollars billed for each dollar estimated."""
        if self._items <= 0:
            return 1.0
        prior = _PRIOR_ITEMS * self._estimated / self._items
        return (self._actual + prior) / (self._estimated + prior)

    def margin(self, items: float = 0.0) -> float:
        """What expected dollars are multiplied by before they are held against the budget.

        Two things are in doubt: the ratio of bills to estimates, learned from the items billed so far, and how far
        those under way, and `items` more, are from the mean.
        """
        if self._items < 1:
            return _FIRST_GENERATING if self._generates else _FIRST
        under_way = max(1.0, sum(count for _, count in self._held.values()) + items)
        return _LEAST + _SIGMAS * math.sqrt(self._spread * (1 / self._items + 1 / under_way))

    def worst(self, items: float) -> float:
        """What a price by the price list is multiplied by for the most that `items` may cost."""
        return self.ratio * self.margin(items)

    @property
    def likely_margin(self) -> float:
        """The same for plans, that may turn out a little too dear: less, as they are looked at again."""
        return self.margin() if self._items < 1 else _LEAST

    def held_for(self, ids: Iterable[int]) -> float:
        """Dollars held for some of what is under way, as plans see them."""
        return sum(self._held[id_][0] for id_ in ids if id_ in self._held) * self.ratio * self.likely_margin

    @property
    def doubtful(self) -> bool:
        """Whether estimates have hardly been compared with bills yet."""
        return self._items < 30

    @property
    def free(self) -> float:
        """Dollars that are neither spent nor held; infinite without a budget."""
        if self.budget is None:
            return math.inf
        return self._left(self.margin())

    @property
    def likely_free(self) -> float:
        """The same for plans: what is under way will probably cost what is expected."""
        if self.budget is None:
            return math.inf
        return self._left(self.likely_margin)

    @property
    def held(self) -> float:
        """Expected dollars of what is under way."""
        return sum(dollars for dollars, _ in self._held.values()) * self.ratio

    def affordable(self, lane: Lane, items: float = 1.0) -> float:
        """Tokens that can still be sent by a lane, if they are those of `items`; infinite if nothing limits them."""
        if self.budget is None:
            return math.inf
        margin = self.margin(items)
        each = self.expected(lane, 1.0) * margin
        return max(0.0, self._left(margin)) / each if each > 0 else math.inf

    def hold(self, id_: int, lane: Lane, items: int, tokens: float) -> None:
        """Something was sent."""
        self._held[id_] = (self.price(lane, tokens), items)

    def settle(self, id_: int, items: int, cost: float) -> None:
        """It has ended, and cost so much. `items`: those that it was billed for."""
        estimated, sent = self._held.pop(id_, (0.0, 0))
        estimated *= items / max(1, sent)
        self.spent += cost
        if items > 0 and cost > 0 and estimated > 0:
            self._learn_spread(items, cost, estimated)
            keep = min(1.0, _MEMORY_ITEMS / (self._items + items))
            self._actual = self._actual * keep + cost
            self._estimated = self._estimated * keep + estimated
            self._items = self._items * keep + items

    def _learn_spread(self, items: int, cost: float, estimated: float) -> None:
        """How far one item's bill is from its estimate, as a variance, by how far this answer's was."""
        if self._items < 1:
            return
        off = cost / (estimated * self.ratio) - 1
        self._spread += (min(1.0, off * off * items) - self._spread) / _SPREAD_ANSWERS
        self._spread = max(_LEAST_SPREAD, self._spread)

    def ended(self, lane: Lane, event: CallEnded | JobEnded, *, in_doubt: bool) -> None:
        """A call or job has ended, with its bill or by its tokens; `in_doubt`, whether it was billed is not known."""
        if in_doubt:
            self.lose(event.id)
            return
        cost = event.cost if event.cost > 0 else self.price(lane, event.used_tokens)
        self.settle(event.id, event.done + event.failed, cost)

    def lose(self, id_: int) -> None:
        """It is not known whether it was billed: count it as if it was, with the margin of what is under way."""
        dollars, _ = self._held.pop(id_, (0.0, 0))
        self._lost += dollars

    @property
    def lost(self) -> float:
        """Expected dollars of what may have been billed without an answer."""
        return self._lost * self.ratio

    def _left(self, margin: float) -> float:
        return self._limit - self.spent - (self.held + self.lost) * margin

    @property
    def _generates(self) -> bool:
        return self._prices is not None and self._prices.output_individual > 0
