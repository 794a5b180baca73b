"""Decisions in words: short lines for the log, with the numbers that they rest on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embatch.decisions.lanes.choice import Plan, View
    from embatch.decisions.lanes.state import State


def span(seconds: float) -> str:
    """A duration for people.

    >>> span(1.24), span(75), span(5400), span(math.inf)
    ('1.2 s', '75 s', '1.5 h', 'no end in sight')
    """
    if seconds == math.inf:
        return "no end in sight"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 180:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def money(dollars: float) -> str:
    """An amount for people.

    >>> money(0.0000123), money(0.5), money(12.3456), money(0)
    ('$0.000012', '$0.50', '$12.35', '$0')
    """
    if dollars == 0:
        return "$0"
    if abs(dollars) >= 0.1:
        return f"${dollars:.2f}"
    digits = 1 - math.floor(math.log10(abs(dollars)))
    return f"${dollars:.{min(9, digits)}f}"


def count(number: int, noun: str = "item") -> str:
    """A count with its noun.

    >>> count(1), count(12000), count(2, "job")
    ('1 item', '12,000 items', '2 jobs')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def plan_words(view: View, plan: Plan) -> str:
    """Why waiting items go through which lane: `2 items: calls (~1.2 s against ~63 s and $0.00001 saved by a job)`."""
    from embatch.decisions.lanes.choice import pile_of

    call_s, call_price = view.calls_s(view.waiting), view.waiting * view.call_price
    late = "" if plan.met >= view.probability else f"; the deadline is met with {plan.met:.0%} only"
    if not plan.jobs:
        what = count(plan.calls)
        if not view.may_job:
            return f"{what}: calls (~{span(call_s)}){late}"
        job_s = view.curve(pile_of(view, view.waiting)).quantile(0.5)
        saved = money(max(0.0, call_price - view.waiting * view.job_price))
        return f"{what}: calls (~{span(call_s)} against ~{span(job_s)} and {saved} saved by a job){late}"
    split = f"{count(plan.jobs)} in {count(max(1, plan.job_count), 'job')}"
    if plan.calls:
        split += f", {count(plan.calls)} by calls"
    return (
        f"{split} (~{span(plan.seconds)} and {money(plan.price)} "
        f"against ~{span(call_s)} and {money(call_price)} by calls){late}"
    )


def calls_only_words(view: View, state: State) -> str:
    """Why everything goes by calls where that was not asked for."""
    if not view.waiting or state.name == "individual":
        return ""
    if state.facts.job is None:
        return f"{state.facts.model} has no jobs: {count(view.waiting)} go by calls"
    if state.jobs.closed is not None:
        return f"jobs are given up ({state.jobs.closed}): {count(view.waiting)} go by calls"
    return ""


def cancel_words(view: View, plan: Plan) -> str:
    """Why jobs are given up."""
    age_s = max((job.age_s for job in view.jobs), default=0.0)
    return (
        f"{count(len(view.jobs), 'job')} of {count(view.rest)} cancelled after {span(age_s)}: "
        f"calls do the rest in ~{span(plan.seconds)}"
    )
