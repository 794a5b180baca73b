"""What calls and jobs would take for some texts now: the numbers in the log, and the threshold that they amount to.

It asks the same beliefs and weighs the same costs as the strategy does, and decides nothing itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from embatch.decisions.costs import view_of
from embatch.decisions.lanes.choice import choose, evaluate

if TYPE_CHECKING:
    from embatch.decisions.lanes.choice import View
    from embatch.frontends.remote import RemoteModel
    from embatch.remote import Goal

MOST_ITEMS = 1_000_000
"""Where a threshold is looked for: if jobs do not pay for so many texts, they never do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """Some texts, by either lane."""

    items: int
    calls_s: float
    """Expected seconds by calls."""
    job_s: float | None
    """Median seconds as a job; None where the model has none."""
    saved: float
    """Dollars that a job costs less."""
    job_items: int
    """Of these, how many a decision by cost sends as jobs, if that was asked."""


def look_ahead(model: RemoteModel, items: int, tokens: int, goal: Goal, *, choosing: bool = False) -> Outlook:
    """What is to be expected for so many texts with so many tokens; with `choosing`, what is best, too."""
    if items <= 0:
        return Outlook(items=0, calls_s=0.0, job_s=None, saved=0.0, job_items=0)
    with model.deciding:
        view = _view(model, items, tokens / items, goal)
        calls = evaluate(view, 0)
        if not view.may_job:
            return Outlook(items=items, calls_s=calls.seconds, job_s=None, saved=0.0, job_items=0)
        job = evaluate(view, items)
        jobs = choose(view).jobs if choosing else 0
    return Outlook(
        items=items,
        calls_s=calls.seconds,
        job_s=job.seconds if job.curve is None else job.curve.quantile(0.5),
        saved=items * max(0.0, view.call_price - view.job_price),
        job_items=jobs,
    )


def break_even(model: RemoteModel, item_tokens: float, goal: Goal) -> int | None:
    """Fewest texts of such a length for which a job costs less, waiting included; None if that is never so."""
    with model.deciding:

        def pays(items: int) -> bool:
            view = _view(model, items, item_tokens, goal)
            return view.may_job and evaluate(view, items).cost < evaluate(view, 0).cost

        if not pays(MOST_ITEMS):
            return None
        low, high = 0, MOST_ITEMS  # does not pay, pays
        while high - low > max(1, high // 50):
            middle = max(low + 1, math.isqrt(max(1, low) * high))
            low, high = (low, middle) if pays(middle) else (middle, high)
        return high


def _view(model: RemoteModel, items: int, item_tokens: float, goal: Goal) -> View:
    """A pile, whatever it may cost: a threshold does not hang on what is left of a budget."""
    return view_of(model.terms(replace(goal, budget=None)), items, round(items * item_tokens))
