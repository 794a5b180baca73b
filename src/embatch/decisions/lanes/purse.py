"""What a run has spent, what is reserved for what is under way, and what can still be afforded.

Tokens are estimates until the provider has counted them, so that what is reserved carries a margin, wide at first and
narrow once answers have shown how good the estimates are. Of generated answers nothing can be said but how long they
are at most: so much is reserved for each. Without a budget it only adds up.
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
_FIRST_GENERATING = (
    6.0  # the same for plans where answers cost something: how long they are is not known at all
)
_LONGEST = 65_536  # tokens of an answer, where nothing bounds it
_SIGMAS = 3.5
_SPARE = 0.002  # of the budget is never planned for: a long run has many chances to be unlucky
_PRIOR_ITEMS = 3.0  # the belief that estimates are right is worth so many billed items
_SPREAD, _LEAST_SPREAD, _SPREAD_ANSWERS = (
    0.3**2,
    0.05**2,
    20.0,
)  # of one item's bill, relative to its estimate
_MEMORY_ITEMS = 20_000.0
_LOOKS, _ALIKE = 24, 0.999  # at what money suffices for, until it is the same as at the look before


class Purse:
    """Dollars of one run.

    Args:
        prices: per million tokens; None if they are not known.
        budget: dollars that must not be exceeded; None for no bound.
        output_tokens: of the longest answer, where answers are generated.
    """

    def __init__(self, prices: Prices | None, budget: float | None, output_tokens: int | None = None) -> None:
        self._output_tokens = output_tokens or _LONGEST
        self._prices = prices
        self.budget = budget
        self._limit = math.inf if budget is None else budget * (1 - _SPARE)
        self.spent = 0.0
        # Call or job -> dollars by the price list, items, and dollars of the longest answers that they can have.
        self._held: dict[int, tuple[float, int, float]] = {}
        self._lost = 0.0  # dollars by the price list of what may have been billed: held to the end
        self._lost_answers = 0.0  # and of the longest answers to it
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
        under_way = max(1.0, sum(count for _, count, _ in self._held.values()) + items)
        return _LEAST + _SIGMAS * math.sqrt(self._spread * (1 / self._items + 1 / under_way))

    def worst(self, items: float) -> float:
        """What a price by the price list is multiplied by for the most that `items` may cost, answers aside."""
        return _FIRST if self._generates else self.ratio * self.margin(items)

    def longest(self, lane: Lane) -> float:
        """Dollars of the longest answer; 0 where none are generated."""
        if self._prices is None:
            return 0.0
        each = self._prices.output_individual if lane == "individual" else self._prices.output_batch
        return each * self._output_tokens / 1e6

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
        return self._surely_left(self.margin())

    @property
    def likely_free(self) -> float:
        """The same for plans: what is under way will probably cost what is expected."""
        if self.budget is None:
            return math.inf
        return self._limit - self.spent - (self.held + self.lost) * self.likely_margin

    @property
    def held(self) -> float:
        """Expected dollars of what is under way."""
        return sum(dollars for dollars, _, _ in self._held.values()) * self.ratio

    def affordable(self, lane: Lane, item_tokens: float, items: float = 1.0) -> float:
        """Tokens that can still be sent by a lane, in as many as `items`; infinite if nothing limits them.

        The fewer items, the farther their bill may be from the mean: what does not suffice for all of them is looked
        at again as what it suffices for.
        """
        if self.budget is None:
            return math.inf
        fits = items
        for _ in range(_LOOKS):
            few, fits = fits, self._fits(lane, item_tokens, fits)
            if fits >= few * _ALIKE:
                break
        return fits * item_tokens

    def _fits(self, lane: Lane, item_tokens: float, items: float) -> float:
        """Items that the money suffices for, if their bill is as doubtful as that of so many."""
        each = self.price(lane, item_tokens) * self.worst(items) + self.longest(lane)
        left = max(0.0, self._surely_left(self.margin(items)))
        return left / each if each > 0 else math.inf

    def hold(self, id_: int, lane: Lane, items: int, tokens: float) -> None:
        """Something was sent."""
        self._held[id_] = (self.price(lane, tokens), items, items * self.longest(lane))

    def settle(self, id_: int, items: int, cost: float) -> None:
        """It has ended, and cost so much. `items`: those that it was billed for."""
        estimated, sent, _ = self._held.pop(id_, (0.0, 0, 0.0))
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
        self.settle(event.id, event.done, cost)  # what is refused is not billed: nothing is learned from it

    def lose(self, id_: int) -> None:
        """It is not known whether it was billed: count it as if it was, with the margin of what is under way."""
        dollars, _, answers = self._held.pop(id_, (0.0, 0, 0.0))
        self._lost += dollars
        self._lost_answers += answers

    @property
    def lost(self) -> float:
        """Expected dollars of what may have been billed without an answer."""
        return self._lost * self.ratio

    def _surely_left(self, margin: float) -> float:
        """Dollars that are left whatever comes of what is under way."""
        if not self._generates:
            return self._limit - self.spent - (self.held + self.lost) * margin
        prompts = self._lost + sum(dollars for dollars, _, _ in self._held.values())
        answers = self._lost_answers + sum(answers for _, _, answers in self._held.values())
        return self._limit - self.spent - prompts * _FIRST - answers

    @property
    def _generates(self) -> bool:
        return self._prices is not None and self._prices.output_individual > 0
