"""What a pile of texts would cost by each strategy, before; and what a run has saved against the others, after.

The same functions that the strategy decides with, asked about a pile that has not been sent: so that a plan is what the
run will do, as far as it can be known. Prices are those of the model's facts; times are quantiles of the beliefs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from embatch.decisions.lanes.calls import CallLane
from embatch.decisions.lanes.choice import View, choose, evaluate, seconds_of
from embatch.remote import URGENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from embatch.decisions.lanes.choice import Plan
    from embatch.decisions.latency import Beliefs
    from embatch.decisions.pacing import Pacer
    from embatch.remote import CallLimits, Goal, ModelFacts, StrategyName
    from embatch.types import LaneReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What an outlook rests on: facts, goal, and what is known of the moment."""

    facts: ModelFacts
    goal: Goal
    beliefs: Beliefs
    pacer: Pacer
    call_limits: Callable[[], CallLimits]
    now: float
    """Seconds on the pacer's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneOutlook:
    """One way to send a pile, and what is to be expected of it."""

    strategy: StrategyName
    call_items: int
    """Texts that go by calls."""
    job_items: int
    """Texts that go as jobs; the rest, if there is one, cannot be paid for."""
    calls: int
    jobs: int
    dollars: float | None
    """As expected, jobs that are given up and sent again included; None if prices are not known."""
    seconds_p10: float
    seconds_p50: float
    seconds_p90: float
    met: float
    """Probability that the deadline is met; 1 without one."""
    afforded: bool = True
    """Whether the budget suffices for all texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Savings:
    """A finished run against the same texts all by one lane. Negative: the run took or cost more."""

    seconds: float
    """Against all as jobs."""
    dollars: float
    """Against all by calls."""


def view_of(terms: Terms, items: int, tokens: int) -> View:
    """A pile that waits, with nothing under way.

    Args:
        terms: see there.
        items: texts.
        tokens: of all of them, as the provider will count.
    """
    facts, goal = terms.facts, terms.goal
    item_tokens = tokens / max(1, items)
    dollars, limits = item_tokens / 1e6, facts.job
    queue = math.inf
    if limits is not None and limits.enqueued_tokens is not None:
        queue = max(1.0, limits.enqueued_tokens / max(1.0, item_tokens))
    return View(
        now=terms.now,
        waiting=items,
        item_tokens=item_tokens,
        calling=0,
        jobs=(),
        beliefs=terms.beliefs,
        speed=CallLane(terms.pacer, terms.beliefs, terms.call_limits).speed(terms.now),
        worth_per_s=goal.hour_worth / 3600,
        left_s=math.inf if goal.deadline_s is None else goal.deadline_s,
        probability=goal.probability,
        call_price=dollars * facts.prices.individual if facts.prices else 0.0,
        job_price=dollars * facts.prices.batch if facts.prices else 0.0,
        free=math.inf if goal.budget is None or facts.prices is None else goal.budget,
        job_items=math.inf if limits is None or limits.items is None else float(limits.items),
        job_room=math.inf if limits is None or limits.concurrent is None else float(limits.concurrent),
        queue_items=queue,
        may_job=limits is not None,
    )


def outlook(terms: Terms, items: int, tokens: int, *, head: int = URGENT) -> list[LaneOutlook]:
    """What to expect of each strategy that the model allows; `auto` first, which is what it would choose.

    Args:
        terms: see there.
        items: texts.
        tokens: of all of them, as the provider will count.
        head: texts that a hybrid sends by calls at least.
    """
    if items <= 0:
        return []
    view = view_of(terms, items, tokens)
    found = [_told(terms, view, "auto", choose(view)), _told(terms, view, "individual", evaluate(view, 0))]
    if view.may_job:
        found.append(_told(terms, view, "batch", _only_jobs(view)))
        found.append(_told(terms, view, "hybrid", _hybrid(view, head)))
    return found


def savings(terms: Terms, report: LaneReport, items: int) -> Savings:
    """What a run has saved, as far as can be told: the other ways were not gone.

    Args:
        terms: see there.
        report: of the run.
        items: texts that it sent.
    """
    tokens = report.call_tokens + report.job_tokens
    prices = terms.facts.prices
    by_calls = tokens * prices.individual / 1e6 if prices else 0.0
    if prices and prices.output_individual > 0:  # how much of a bill was answers is not told apart
        dearer = prices.output_individual / prices.output_batch if prices.output_batch else 1.0
        by_calls = report.call_dollars + report.job_dollars * dearer
    view = view_of(terms, max(1, items), max(1, tokens))
    as_jobs_s = report.seconds
    if items and view.may_job and report.call_items:
        as_jobs_s = seconds_of(_only_jobs(view), 0.5)
    return Savings(seconds=as_jobs_s - report.seconds, dollars=by_calls - report.dollars if prices else 0.0)


def _only_jobs(view: View) -> Plan:
    """All as jobs, however long they take."""
    alone = replace(view, may_call=False, eager=False, left_s=math.inf, memo={}, ended=[])
    return evaluate(alone, view.waiting)


def _hybrid(view: View, head: int) -> Plan:
    """A head by calls, and as much of the rest as jobs as the deadline allows."""
    return choose(replace(view, eager=False, memo={}, ended=[]), least_calls=head, rule="jobs")


def _told(terms: Terms, view: View, name: StrategyName, plan: Plan) -> LaneOutlook:
    packed = view.speed.pack(view.beliefs, plan.calls, view.item_tokens) if plan.calls else 1
    return LaneOutlook(
        strategy=name,
        call_items=plan.calls,
        job_items=plan.jobs,
        calls=math.ceil(plan.calls / packed),
        jobs=plan.job_count,
        dollars=plan.price if terms.facts.prices else None,
        seconds_p10=seconds_of(plan, 0.1),
        seconds_p50=seconds_of(plan, 0.5),
        seconds_p90=seconds_of(plan, 0.9),
        met=plan.met,
        afforded=plan.calls + plan.jobs >= view.waiting and plan.price <= view.free,
    )
