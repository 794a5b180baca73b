"""The choice between plans: how many of the waiting items go by calls, how many as jobs, and when jobs are given up.

A plan's worth is its price, and what waiting until its end costs, under the belief in how long jobs take, with the
best use of the way out: at any time the jobs can be cancelled and their items sent by calls. When that pays, follows
from backward induction over the curve of the jobs' ends. A deadline bounds the way out: the latest moment at which
calls can still do the rest. `strategy` asks for a choice whenever something has changed; costs.outlook asks for plans.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from embatch.decisions.lanes.regimes import GRID, Curve, Ends, Pending, Pile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embatch.decisions.lanes.speed import Speed
    from embatch.decisions.latency import Beliefs

SAFE = 0.95
"""The quantile of what calls take that counts as certain enough for a way out."""

MANY_JOBS, MOST_JOBS = 16, 100
"""Jobs that one pile is split into: more than the first only to keep each of them below `_LONG_RUN_S`."""

_JOB_RUN_S = 45.0  # of rows in each job, where a pile is large enough to be split at all
_LONG_RUN_S = 300.0
_AS_SURE = 0.05  # probabilities that differ by less are alike: they are rough
_KEEPS = 1.03  # a plan is kept if the best one costs no less than this much less
_FEW_SHARES = (0.08, 0.3, 0.7, 0.92)
_SHARES = (0.04, 0.15, 0.3, 0.5, 0.7, 0.85, 0.96)
_NO_TIME_WORTH = 1e-9  # dollars a second: what is free of charge is done soonest all the same


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All that a choice rests on."""

    now: float
    waiting: int
    """Items."""
    item_tokens: float
    calling: int
    """Items in calls under way."""
    jobs: tuple[Pending, ...]
    beliefs: Beliefs
    speed: Speed
    worth_per_s: float
    left_s: float = math.inf
    """Until the deadline."""
    probability: float = 0.9
    call_price: float = 0.0
    """Dollars an item, by calls."""
    job_price: float = 0.0
    free: float = math.inf
    """Dollars that may still be spent, and are not held for what is under way."""
    freed: float = 0.0
    """Dollars that would be free if the jobs that do not run yet were cancelled."""
    margin: float = 1.0
    """On prices, before they are held against `free`."""
    sure_margin: float = 1.0
    """The same for what must not fail."""
    job_items: float = math.inf
    """Most that one job takes."""
    job_room: float = math.inf
    """Jobs that may be submitted now."""
    queue_items: float = math.inf
    """Items that all jobs together may hold."""
    may_call: bool = True
    may_job: bool = True
    eager: bool = True
    """Whether jobs may be cancelled because it pays, and not only because of the deadline."""

    job_delay_s: float = 0.0
    """Until another job may be submitted."""
    memo: dict[object, float] = field(default_factory=dict, repr=False, compare=False)
    """Durations of calls that were worked out for this view already."""
    ended: list[Ends] = field(default_factory=list, repr=False, compare=False)
    """When the jobs under way will end, once it was worked out."""

    @property
    def rest(self) -> int:
        """Items in jobs under way."""
        return sum(job.items for job in self.jobs)

    def calls_s(self, items: float, worst: float = 0.5) -> float:
        """Seconds that calls take for so many items, those under way included; worked out at steps of 9 %."""
        if items < 1:
            return 0.0
        step = max(0, round(8 * math.log2(items)))
        key = (step, worst)
        if key not in self.memo:
            number = round(2 ** (step / 8))
            self.memo[key] = self.speed.seconds(
                self.beliefs, number, self.item_tokens, worst=worst, busy=self.calling
            )
        return self.memo[key]

    def curve(self, pile: Pile | None) -> Curve:
        """When all jobs will have ended."""
        if not self.ended:
            self.ended.append(self.beliefs.ends(self.now, self.jobs))
        return self.ended[0].curve(pile)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One way to go on, and what is to be expected of it."""

    calls: int
    """Waiting items that go by calls."""
    jobs: int
    """Waiting items that go as jobs."""
    job_count: int
    cancel: bool
    """Whether jobs under way are cancelled now."""
    price: float
    """Dollars still to be spent, as expected."""
    seconds: float
    """Until everything is done, as expected."""
    cost: float
    """Price and waiting."""
    met: float
    """Probability that the deadline is met; 1 without one."""
    until_s: float = math.inf
    """When the jobs are to be given up if they have not ended, from now."""
    curve: Curve | None = field(default=None, repr=False, compare=False)


def choose(view: View, *, least_calls: int = 0, rule: str = "cost", keep: int | None = None) -> Plan:
    """The best plan.

    Args:
        view: what is known.
        least_calls: waiting items that go by calls in any case.
        rule: `cost` minimises price and waiting among the plans that meet the deadline as probably as asked for;
            `jobs` sends as much as jobs as the deadline allows.
        keep: waiting items that were to go as jobs until now: kept unless something is better by more than noise.
    """
    plans = list(_plans(view, least_calls, keep))
    most = max(plan.calls + plan.jobs for plan in plans)
    plans = [plan for plan in plans if plan.calls + plan.jobs == most]  # a budget may be too small for all
    good = [plan for plan in plans if plan.met >= view.probability]
    if rule == "jobs" and good:
        return max(good, key=lambda plan: (plan.jobs, -plan.cost))
    if not good:  # as probable as can be; plans that differ by little differ by chance
        top = max(plan.met for plan in plans)
        good = [plan for plan in plans if plan.met >= top - _AS_SURE]
    best = _refined(view, min(good, key=lambda plan: plan.cost), least_calls, keep)
    if keep is None or best.cancel or best.jobs == keep:
        return best
    same = evaluate(view, min(keep, view.waiting - min(view.waiting, least_calls)))
    whole = same.calls + same.jobs >= best.calls + best.jobs
    as_sure = same.met >= min(view.probability, best.met - _AS_SURE)
    return same if whole and as_sure and same.cost <= best.cost * _KEEPS else best


def _plans(view: View, least_calls: int, keep: int | None) -> Iterator[Plan]:
    """Everything by calls, everything as jobs, and splits; with jobs under way kept, or cancelled."""
    for jobs in _sizes(view, least_calls, keep):
        yield evaluate(view, jobs)
    if view.jobs and view.may_call and view.eager:
        yield evaluate(view, 0, cancel=True)


def _sizes(view: View, least_calls: int, keep: int | None = None) -> list[int]:
    """How many of the waiting items might go as jobs, without repeats; few if there is a plan already."""
    most = view.waiting - min(view.waiting, least_calls)
    if view.job_price > 0 and view.free < math.inf:
        most = min(most, int(view.free / (view.job_price * view.margin)))
    if not view.may_job or most <= 0:
        return [0]
    if not view.may_call:
        return [most]
    if most < 8:
        return [0, most]
    shares = _SHARES if keep is None else _FEW_SHARES
    sizes = {0, most, *(round(most * share) for share in shares)}
    if keep is not None:
        sizes.add(min(keep, most))
    return sorted(sizes)


def _refined(view: View, best: Plan, least_calls: int, keep: int | None) -> Plan:
    """Look between the best split and its neighbours."""
    sizes = _sizes(view, least_calls, keep)
    if best.cancel or best.jobs not in sizes or len(sizes) < 3:
        return best
    at = sizes.index(best.jobs)
    around = [(sizes[i] + best.jobs) // 2 for i in (at - 1, at + 1) if 0 <= i < len(sizes)]
    for jobs in around:
        plan = evaluate(view, jobs)
        whole = plan.calls + plan.jobs >= best.calls + best.jobs
        if whole and plan.met >= min(best.met, view.probability) and plan.cost < best.cost:
            best = plan
    return best


def evaluate(view: View, jobs: int, *, cancel: bool = False) -> Plan:
    """What is to be expected if so many of the waiting items go as jobs, and the others by calls."""
    calls = view.waiting - jobs if view.may_call else 0
    calls = min(calls, _affordable(view, jobs))
    if cancel:
        return _cancelled(view, calls)
    busy_s = view.calls_s(calls)
    price = calls * view.call_price + jobs * view.job_price
    safe_s = 0.0
    if calls and view.left_s < math.inf:
        safe_s = view.calls_s(calls, view.probability)
    worth = max(view.worth_per_s, _NO_TIME_WORTH)
    if not jobs and not view.jobs:
        met = 1.0 if safe_s <= view.left_s else _shortfall(safe_s, view.left_s)
        return Plan(
            calls=calls, jobs=0, job_count=0, cancel=False, price=price, seconds=busy_s,
            cost=price + worth * busy_s, met=met,
        )  # fmt: skip
    pile = pile_of(view, jobs)
    curve = view.curve(pile if jobs else None)
    hold = _Hold(view, curve, busy_s, safe_s, calls, jobs)
    extra, until_s = hold.value(at_once=not jobs)
    return Plan(
        calls=calls, jobs=jobs, job_count=pile.jobs if jobs else 0, cancel=until_s <= 0 and not jobs,
        price=price + hold.lost, seconds=busy_s + max(0.0, extra - hold.lost) / worth,
        cost=price + worth * busy_s + extra, met=hold.met(until_s), until_s=until_s, curve=curve,
    )  # fmt: skip


def pile_of(view: View, jobs: float) -> Pile:
    """How so many items would be cut into jobs: side by side while that is faster, in waves if the queue is short."""
    rows = max(1e-3, view.beliefs.rows.median)
    at_once = max(1.0, min(jobs, view.queue_items))
    run_s = at_once / rows
    wanted = max(min(run_s / _JOB_RUN_S, MANY_JOBS), min(run_s / _LONG_RUN_S, MOST_JOBS))
    count = math.ceil(max(wanted, at_once / view.job_items, 1))
    count = int(max(1, min(count, view.job_room, at_once)))
    held = min(at_once, count * view.job_items)
    ahead = view.rest if jobs + view.rest > min(view.queue_items, view.job_room * view.job_items) else 0
    return Pile(
        items=jobs,
        jobs=count,
        size=min(held, jobs) / count,
        waves=max(1.0, (jobs + ahead) / held),
        abreast=view.beliefs.abreast,
        delay_s=view.job_delay_s,
    )


class _Hold:
    """Waiting for jobs, with the way out of cancelling them."""

    def __init__(self, view: View, curve: Curve, busy_s: float, safe_s: float, calls: int, jobs: int) -> None:
        self._view = view
        self._curve = curve
        self._busy_s = busy_s
        self._safe_s = safe_s
        self._worth = max(view.worth_per_s, _NO_TIME_WORTH)
        self._cancel_s = view.beliefs.cancel.median
        self._late_cancel_s = view.beliefs.cancel.quantile(SAFE)
        rest = view.rest + jobs
        # Jobs that do not run yet can be cancelled free of charge: what they would cost is there for calls.
        spare = view.free + view.freed - calls * view.call_price * view.margin
        self._way_out = view.may_call and rest * view.call_price * view.sure_margin <= max(0.0, spare)
        self._all = rest
        self.lost = 0.0
        """Dollars that cancelling is expected to cost."""

    def value(self, *, at_once: bool) -> tuple[float, float]:
        """Dollars beyond the calls' own end, as expected; and when to cancel, seconds from now.

        Args:
            at_once: whether to cancel now is a choice: not for jobs that would be submitted now.
        """
        latest = self._latest()
        times = (0.0, *GRID)
        done = (0.0, *self._curve.done)
        left = (float(self._all), *self._curve.left)
        last = len(times) - 1
        while last > 0 and times[last] > max(latest, 0.0):
            last -= 1
        worth, until = self._end(times[last], latest, done[last], left[last])
        lost = self._price_out(left[last]) if until < math.inf else 0.0
        for i in range(last - 1, -1, -1):
            open_ = 1 - done[i]
            stays = (1 - done[i + 1]) / open_ if open_ > 1e-9 else 0.0
            step = self._waited(times[i], times[i + 1])
            go_on = step * (1 + stays) / 2 + stays * worth
            stop = self._stop(times[i], left[i])
            if stop < go_on and self._view.eager and (i > 0 or at_once):
                worth, until, lost = stop, times[i], self._price_out(left[i])
            else:
                worth, lost = go_on, stays * lost
        self.lost = lost
        return worth, until

    def met(self, until_s: float) -> float:
        """Probability that everything is done by the deadline."""
        left_s = self._view.left_s
        if left_s == math.inf:
            return 1.0
        calls = 1.0 if self._safe_s <= left_s else _shortfall(self._safe_s, left_s)
        if until_s < math.inf and until_s <= self._latest():
            by = self._curve.within(until_s)
            return calls * (by + (1 - by) * SAFE)
        return calls * self._curve.within(left_s)

    def _latest(self) -> float:
        """Latest time at which the jobs can be given up and calls still meet the deadline; infinite without one."""
        if self._view.left_s == math.inf:
            return math.inf
        if not self._way_out:
            return -1.0
        latest = -1.0
        for t, left in zip((0.0, *GRID), (float(self._all), *self._curve.left), strict=True):
            if t + self._late_cancel_s > self._view.left_s:
                break
            slack = self._view.left_s - self._out_s(left, SAFE) - self._late_cancel_s
            if max(t, self._safe_s - self._late_cancel_s) <= slack:
                latest = max(latest, t)
        return latest

    def _end(self, t: float, latest: float, done: float, left: float) -> tuple[float, float]:
        """What is to be expected at the last time at which there is a choice, and when the jobs are given up."""
        if latest < 0 or latest == math.inf:
            # No way out in time, or no deadline: wait on, as long as it takes.
            if not self._way_out or latest < 0:
                return self._worth * self._expected_rest(t, done), math.inf
            stop = self._stop(t, left)
            return stop, t
        return self._stop(t, left), t

    def _expected_rest(self, t: float, done: float) -> float:
        """Expected seconds from `t` until the jobs have ended."""
        open_ = max(1e-9, 1 - done)
        total, before, last_p = 0.0, t, done
        for at, p in zip(GRID, self._curve.done, strict=True):
            if at > t:
                total += (at - before) * (1 - (p + last_p) / 2) / open_
                before, last_p = at, p
        return max(0.0, total - max(0.0, self._busy_s - t))

    def _waited(self, start: float, end: float) -> float:
        """Dollars of waiting between two times that calls would not have taken anyway."""
        return self._worth * (max(end, self._busy_s) - max(start, self._busy_s))

    def _stop(self, t: float, left: float) -> float:
        """Dollars from `t` on if the jobs are given up then."""
        if not self._way_out:
            return math.inf
        end = max(t + self._cancel_s, self._busy_s) + self._out_s(left)
        return self._price_out(left) + self._worth * (end - max(t, self._busy_s))

    def _price_out(self, left: float) -> float:
        return left * max(0.0, self._view.call_price - self._view.job_price)

    def _out_s(self, left: float, worst: float = 0.5) -> float:
        """Seconds that calls take for what is left of the jobs."""
        return self._view.calls_s(left, worst)


def _cancelled(view: View, calls: int) -> Plan:
    """All jobs given up now, and their items sent by calls after those that wait."""
    rest = view.rest
    price = (calls + rest) * view.call_price - rest * view.job_price
    affordable = (calls + rest) * view.call_price * view.sure_margin <= view.free + view.freed
    seconds = max(view.beliefs.cancel.median, view.calls_s(calls)) + view.calls_s(rest)
    safe_s = view.beliefs.cancel.quantile(SAFE) + view.calls_s(rest + calls, view.probability)
    met = 1.0 if safe_s <= view.left_s else _shortfall(safe_s, view.left_s)
    worth = max(view.worth_per_s, _NO_TIME_WORTH)
    return Plan(
        calls=calls, jobs=0, job_count=0, cancel=True, price=price, seconds=seconds,
        cost=price + worth * seconds if affordable else math.inf, met=met if affordable else 0.0, until_s=0.0,
    )  # fmt: skip


def _affordable(view: View, jobs: int) -> int:
    """Waiting items that calls can do without going over the budget, after so many as jobs."""
    if view.free == math.inf or view.call_price <= 0:
        return view.waiting
    spare = view.free - jobs * view.job_price * view.margin
    return max(0, int(spare / (view.call_price * view.margin)))


def _shortfall(needed_s: float, left_s: float) -> float:
    """How probable it is that what probably takes `needed_s` is done within `left_s` < `needed_s`: a rough ranking."""
    return 0.0 if left_s <= 0 else 0.85 * min(1.0, (left_s / needed_s)) ** 3


def seconds_of(plan: Plan, probability: float) -> float:
    """Quantile of a plan's time, for people: exact in the jobs, rough in the calls."""
    if plan.curve is None or plan.cancel:
        return plan.seconds * (1.0 if probability == 0.5 else 0.85 if probability < 0.5 else 1.4)
    return min(plan.curve.quantile(probability), max(plan.until_s, plan.seconds) * 1.2)
