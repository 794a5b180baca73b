"""What a run has spent, what is reserved for what is under way, and what can still be afforded.

Tokens are estimates until the provider has counted them, so that what is reserved carries a margin, wide at first and
narrow once answers have shown how good the estimates are. Without a budget it only adds up.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from embatch.remote import Lane, Prices

_FIRST = 2.0  # the margin before anything was counted ...
_LAST = 1.02  # ... and the least one
_FIRST_GENERATING = 6.0  # output tokens are not known at all
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
        self.spent = 0.0
        self._held: dict[int, tuple[float, int]] = {}  # call or job -> dollars by the price list, and items
        self._actual = 0.0
        self._estimated = 0.0
        self._items = 0.0

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
        return self._actual / self._estimated if self._estimated > 0 else 1.0

    @property
    def margin(self) -> float:
        """What an expected price is multiplied by before it is held against the budget."""
        first = _FIRST_GENERATING if self._generates else _FIRST
        if self._items < 1:
            return first
        return _LAST + min(first - _LAST, (first - 1) / 2 / math.sqrt(self._items))

    @property
    def likely_margin(self) -> float:
        """The same for plans, that may turn out a little too dear: less, as they are looked at again."""
        return self.margin if self._items < 1 else 1.01

    def held_for(self, ids: Iterable[int]) -> float:
        """Dollars held for some of what is under way, with the margin."""
        return sum(self._held[id_][0] for id_ in ids if id_ in self._held) * self.ratio * self.margin

    @property
    def doubtful(self) -> bool:
        """Whether estimates have hardly been compared with bills yet."""
        return self._items < 30

    @property
    def free(self) -> float:
        """Dollars that are neither spent nor held; infinite without a budget."""
        if self.budget is None:
            return math.inf
        return self.budget - self.spent - self.held * self.margin

    @property
    def held(self) -> float:
        """Expected dollars of what is under way."""
        return sum(dollars for dollars, _ in self._held.values()) * self.ratio

    def affordable(self, lane: Lane) -> float:
        """Tokens that can still be sent by a lane; infinite if nothing limits them."""
        each = self.expected(lane, 1.0) * self.margin
        if self.budget is None:
            return math.inf
        return max(0.0, self.free) / each if each > 0 else math.inf

    def hold(self, id_: int, lane: Lane, items: int, tokens: float) -> None:
        """Something was sent."""
        self._held[id_] = (self.price(lane, tokens), items)

    def settle(self, id_: int, items: int, cost: float) -> None:
        """It has ended, and cost so much. `items`: those that it was billed for."""
        estimated, sent = self._held.pop(id_, (0.0, 0))
        estimated *= items / max(1, sent)
        self.spent += cost
        if items > 0 and cost > 0 and estimated > 0:
            keep = min(1.0, _MEMORY_ITEMS / (self._items + items))
            self._actual = self._actual * keep + cost
            self._estimated = self._estimated * keep + estimated
            self._items = self._items * keep + items

    def lose(self, id_: int) -> None:
        """It is not known whether it was billed: count it as if it was."""
        dollars, _ = self._held.pop(id_, (0.0, 0))
        self.spent += dollars * self.ratio

    @property
    def _generates(self) -> bool:
        return self._prices is not None and self._prices.output_individual > 0
