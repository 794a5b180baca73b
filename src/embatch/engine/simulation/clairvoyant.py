"""The best plan for a pile of items by one who knows a world's future: what strategies are measured against.

It knows how long every job will take whenever it is submitted, when calls are refused, how long they take in the
mean, the true quotas, and what the provider will count. It chooses how many items go by calls and how many as jobs,
how the latter are cut, and pays for nothing twice. It never has to poll, to probe or to cancel. No strategy can do as
well, luck with single calls aside; how close one comes says how good its decisions are.
"""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embatch.engine.simulation.run import call_seconds
from embatch.engine.simulation.world import BURST_SHARE, Future

if TYPE_CHECKING:
    from collections.abc import Iterable

    from embatch.engine.simulation.world import World
    from embatch.remote import CallLimits, Goal, JobLimits, Prices

_SHARES = (0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.995, 1)
_CUTS = (1, 2, 4, 8, 16, 32, 64)
_DRAWN = 400  # calls that a mean is taken over
_MOST_JOBS = 600  # of one plan: finer cuts are not looked at
_REFINED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """What the clairvoyant would do."""

    calls: int
    jobs: int
    seconds: float
    dollars: float
    cost: float
    meets: bool
    """Whether deadline and budget are kept; if not, it is the best without the deadline, or nothing fits the budget."""
    affordable: bool


class Clairvoyant:
    """Knows one world.

    Args:
        world: the provider.
        prices: of a million tokens.
        call: what one call takes.
        job: what a job takes; None if there are none.
        parallel: calls that may be under way at once.
    """

    def __init__(
        self, world: World, prices: Prices, call: CallLimits, job: JobLimits | None, *, parallel: int = 64
    ) -> None:
        self._world = world
        self._future = Future(world)
        self._prices = prices
        self._call = call
        self._job = job
        self._parallel = parallel
        self._known: dict[tuple[str, int], float] = {}

    def best(self, items: int, item_tokens: int, goal: Goal, *, lanes: str = "both") -> Best:
        """The plan of least price and waiting within deadline and budget. `lanes`: `both`, `calls` or `jobs`."""
        plans = [self._plan(items, n, item_tokens, goal) for n in self._splits(items, lanes)]
        best = _pick(plans)
        for _ in range(_REFINED if lanes == "both" else 0):
            tried = sorted({plan.jobs for plan in plans})
            at = tried.index(best.jobs)
            near = {(best.jobs + tried[i]) // 2 for i in (at - 1, at + 1) if 0 <= i < len(tried)} - set(tried)
            if not near:
                break
            plans += [self._plan(items, n, item_tokens, goal) for n in near]
            best = _pick(plans)
        return best

    def _splits(self, items: int, lanes: str) -> Iterable[int]:
        if self._job is None or lanes == "calls":
            return (0,)
        if lanes == "jobs":
            return (items,)
        return sorted({round(items * share) for share in _SHARES})

    def _plan(self, items: int, jobs: int, item_tokens: int, goal: Goal) -> Best:
        used = item_tokens * self._world.tokens_ratio
        calls = items - jobs
        seconds = max(self._calls_s(calls, item_tokens), self._jobs_s(jobs, item_tokens))
        dollars = used * (calls * self._prices.individual + jobs * self._prices.batch) / 1e6
        affordable = goal.budget is None or dollars <= goal.budget
        in_time = goal.deadline_s is None or seconds <= goal.deadline_s
        return Best(
            calls=calls,
            jobs=jobs,
            seconds=seconds,
            dollars=dollars,
            cost=dollars + goal.hour_worth * seconds / 3600,
            meets=affordable and in_time,
            affordable=affordable,
        )

    # --- calls ------------------------------------------------------------------------------------------------

    def _calls_s(self, items: int, item_tokens: int) -> float:
        """Seconds until so many items are done by calls, packed as is best."""
        if items <= 0:
            return 0.0
        key = ("calls", items)
        if key not in self._known:
            most = self._call.items or 2048
            if self._call.tokens is not None:
                most = max(1, min(most, self._call.tokens // item_tokens))
            fewest = math.ceil(items / most)
            counts = {fewest} | {
                min(items, n) for n in (1, 2, 4, 8, 16, 32, 64) if fewest < n <= self._parallel
            }
            self._known[key] = min(self._packed_s(items, item_tokens, n) for n in counts)
        return self._known[key]

    def _packed_s(self, items: int, item_tokens: int, calls: int) -> float:
        each = math.ceil(items / calls)
        used = item_tokens * self._world.tokens_ratio
        quota = self._world.quota
        flow = max(
            _quota_s(items, quota.items),
            _quota_s(items * used, quota.tokens),
            _quota_s(calls, quota.requests),
        )
        drawn = min(calls, _DRAWN)
        times = max(1, _DRAWN // drawn)
        rng = random.Random(items * 31 + calls)  # noqa: S311  # the mean over many runs, not this one's luck
        slots = last = 0.0
        for _ in range(times):
            draws = [call_seconds(self._world, rng, each, round(each * used)) for _ in range(drawn)]
            slots += self._filled_s(draws, calls) / times
            last += draws[-1] / times
        return self._future.calls_end(max(slots, flow + last if flow > 0 else 0.0))

    def _filled_s(self, draws: list[float], calls: int) -> float:
        """Seconds of so many calls, as many side by side as may be."""
        if calls > len(draws):
            return calls * sum(draws) / len(draws) / self._parallel
        if calls <= self._parallel:
            return max(draws)
        free = [0.0] * self._parallel
        for seconds in draws:
            heapq.heapreplace(free, free[0] + seconds)
        return max(free)

    # --- jobs -------------------------------------------------------------------------------------------------

    def _jobs_s(self, items: int, item_tokens: int) -> float:
        """Seconds until so many items are done as jobs, cut as is best."""
        if items <= 0:
            return 0.0
        assert self._job is not None
        key = ("jobs", items)
        if key not in self._known:
            most = self._job.items or items
            queue = math.inf
            if self._world.enqueued_tokens is not None:
                queue = self._world.enqueued_tokens // item_tokens
            at_once = max(1, int(min(items, queue)))
            sizes = {max(1, min(most, math.ceil(at_once / cut))) for cut in _CUTS if at_once >= cut}
            wanted = [size for size in sizes if items / size <= _MOST_JOBS] or [max(sizes)]
            self._known[key] = min(self._cut_s(items, size, queue) for size in wanted)
        return self._known[key]

    def _cut_s(self, items: int, size: int, queue: float) -> float:
        """Seconds if the items are cut into jobs of one size, each submitted as soon as the queue takes it."""
        world = self._world
        slots = [0.0] * world.slots
        ends: list[tuple[float, int]] = []
        now, held, number, last = 1.0, 0, 0, 0.0
        while items > 0:
            one = min(size, items)
            while ends and (held + one > queue or len(ends) >= (world.concurrent or math.inf)):
                end, freed = heapq.heappop(ends)
                now, held = max(now, end), held - freed
            if held + one > queue:
                return math.inf
            fate = self._future.fate(number, now, one, slots)
            slots[fate.slot] = fate.rows_end
            if fate.end - now > world.expires_s:
                return math.inf
            heapq.heappush(ends, (fate.end, one))
            items, held, number, last = items - one, held + one, number + 1, max(last, fate.end)
        return last


def _quota_s(amount: float, limit: int | None) -> float:
    return 0.0 if limit is None else max(0.0, (amount - limit * BURST_SHARE) / limit * 60)


def _pick(plans: list[Best]) -> Best:
    good = [plan for plan in plans if plan.meets]
    affordable = [plan for plan in plans if plan.affordable]
    return min(good or affordable or plans, key=lambda plan: plan.cost)
