"""How fast synchronous calls do a pile of items: quotas, packing, and what is in flight at once.

Used by the choice between plans and for packing. It knows the pacer's rates as numbers only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embatch.decisions.latency import Beliefs
    from embatch.remote import CallLimits

_SURE, _UNSURE = (
    1.15,
    1.6,
)  # what a careful estimate multiplies times by, with quotas known or learned, and without
_PAUSED = 0.999  # of the quota's room: below one item nothing can go


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What calls can do from now on. Rates may be infinite: not known, or without a limit."""

    items_per_s: float
    tokens_per_s: float
    requests_per_s: float
    room_items: float
    """What may go at once."""
    room_tokens: float
    parallel: int
    limits: CallLimits
    pause_s: float = 0.0
    """Until the next call may go."""
    efficiency: float = 1.0
    """Share of what is sent that is answered, lately."""

    @property
    def sure(self) -> bool:
        """Whether any quota is known or learned."""
        return min(self.items_per_s, self.tokens_per_s) < math.inf

    def most_items(self, item_tokens: float) -> int:
        """Items of a full call."""
        most = self.limits.items or 2048
        if self.limits.tokens is not None and item_tokens > 0:
            most = min(most, int(self.limits.tokens / item_tokens))
        # A call larger than a minute's quota could never go.
        minute = 55.0 * min(self.items_per_s, self.tokens_per_s / max(1e-9, item_tokens))
        return max(1, int(min(most, minute)))

    def pack(self, beliefs: Beliefs, items: int, item_tokens: float) -> int:
        """Items of each call so that `items` are done soonest; full calls where throughput is what counts."""
        most = self.most_items(item_tokens)
        fewest = math.ceil(items / most)
        if items <= 1 or fewest >= self.parallel:
            return min(most, max(1, items))
        best, best_s = fewest, math.inf
        calls = fewest
        while calls <= min(self.parallel, items):
            each = math.ceil(items / calls)
            seconds = beliefs.calls_s(each, each * item_tokens, count=calls)
            if self.requests_per_s < math.inf:  # requests are a quota of their own: few of them leave room
                seconds += calls / self.requests_per_s / 10
            if seconds < best_s * 0.98:
                best, best_s = calls, seconds
            calls *= 2
        return math.ceil(items / best)

    def seconds(
        self, beliefs: Beliefs, items: float, item_tokens: float, *, worst: float = 0.5, busy: float = 0.0
    ) -> float:
        """Until `items` are done, from now. `worst`: as in `Beliefs.calls_s`. `busy`: items in flight already."""
        if items <= 0:
            return 0.0
        each = self.pack(beliefs, math.ceil(items), item_tokens)
        calls = math.ceil(items / each)
        tokens = each * item_tokens
        last = beliefs.calls_s(each, tokens, count=min(calls, self.parallel), worst=worst)
        slots = (calls + busy / each) / (self.parallel * beliefs.call_rate(each, tokens))
        quota = max(
            (items - self.room_items) / self.items_per_s,
            (items * item_tokens - self.room_tokens) / self.tokens_per_s,
            (calls - self.requests_per_s * 6) / self.requests_per_s
            if self.requests_per_s < math.inf
            else 0.0,
            0.0,
        )
        flow = max(quota, slots - 1.0 / max(1e-9, beliefs.call_rate(each, tokens)), 0.0) / self.efficiency
        if worst > 0.5:
            flow *= _SURE if self.sure else _UNSURE
        return self.pause_s + flow + last
