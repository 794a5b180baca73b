"""Which plan a run follows, when it looks for a better one, and why: the decisions of each strategy by name.

It reads the state and chooses; the strategy carries the plan out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from embatch.decisions.lanes.choice import Plan, choose, pile_of
from embatch.decisions.lanes.words import calls_only_words, cancel_words, count, plan_words
from embatch.events import Say

if TYPE_CHECKING:
    from embatch.decisions.lanes.choice import View
    from embatch.decisions.lanes.state import State

_PROBE_ITEMS, _PROBE_SHARE = 32, 0.03  # sent first where money is short
_LOOK_SHARE = 0.08  # of the time since the start: how often plans are looked at again
_LOOK_LEAST_S, _LOOK_MOST_S = 1.0, 1800.0


@dataclass(slots=True)
class Planner:
    """The plan of one run.

    Args:
        state: of the run.
        threshold: a fixed rule instead of a decision by cost.
        head: for `hybrid`, items that go by calls at least.
    """

    state: State
    threshold: int | None = None
    head: int = 0
    for_calls: int = 0
    """Waiting items that go by calls."""
    for_jobs: int = 0
    """Waiting items that go as jobs."""
    job_size: int = 1
    look_at: float = math.inf
    """When to look for a better plan, if nothing happens before."""
    dirty: bool = False
    """Whether something has happened that a new plan is needed for at once."""
    probing: bool = False
    says: list[Say] = field(default_factory=list)
    _looked: float = -math.inf
    _outline: tuple[bool, bool, bool, int] | None = None
    _said: set[str] = field(default_factory=set)

    def look(self, now: float) -> bool:
        """Choose anew; whether the jobs under way are to be cancelled."""
        state = self.state
        self.dirty, self.look_at, self._looked = False, math.inf, now
        if (not state.waiting and not state.jobs.jobs) or self._probes():
            return False
        view = state.view(now)
        plan, why = self._plan(view)
        self.for_calls, self.for_jobs = plan.calls, plan.jobs
        if not (plan.calls or plan.jobs or state.under_way):
            self.for_calls = 1  # rounded away, and yet affordable
        if plan.jobs:
            pile = pile_of(view, plan.jobs)
            self.job_size = max(1, math.ceil(pile.each))
        self._explain(plan, why)
        self.look_at = self._next_look(now, plan)
        return plan.cancel

    def look_soon(self, now: float) -> None:
        """Something has changed that may change the plan: look again, but not all the time."""
        self.look_at = min(self.look_at, max(now, self._looked + self._pace(now)))

    def say(self, text: str, plan: Plan | None = None) -> None:
        """A decision, once: the same words again say nothing new."""
        if text and text not in self._said:
            self._said.add(text)
            numbers: dict[str, float] = {}
            if plan is not None:
                numbers = {
                    "calls": plan.calls,
                    "jobs": plan.jobs,
                    "dollars": plan.price,
                    "seconds": plan.seconds,
                    "met": plan.met,
                }
            self.says.append(Say(text=text, numbers=numbers))

    def _plan(self, view: View) -> tuple[Plan, str]:
        state = self.state
        if not view.may_job and not view.jobs:
            return fixed(view.waiting, 0), calls_only_words(view, state)
        if not view.may_call:
            why = "as asked for" if state.name == "batch" else "calls are given up"
            return fixed(0, view.waiting), f"{count(view.waiting)}: jobs, {why}" if view.waiting else ""
        if self.threshold is not None:
            few = state.arrived < self.threshold
            lane = "calls" if few else "a job"
            plan = fixed(view.waiting, 0) if few else fixed(0, view.waiting)
            return plan, f"{count(view.waiting)}: {lane}, by the fixed rule of {self.threshold}"
        if state.name == "hybrid":
            least = max(state.given_up, self.head - state.by_calls)
            plan = choose(view, least_calls=least, rule="jobs")
        else:
            keep = self.for_jobs if self._outline is not None else None
            plan = choose(view, least_calls=state.given_up, keep=keep)
        if plan.cancel:
            return plan, cancel_words(view, plan)
        return plan, plan_words(view, plan) if view.waiting else ""

    def _probes(self) -> bool:
        """Where money is short, a few items go first: how good the estimates are is worth knowing before more go."""
        state, purse = self.state, self.state.purse
        if self.probing and state.calls.sent:
            return True
        self.probing = False
        if state.goal.budget is None or not purse.doubtful or state.by_calls or state.waiting <= 1:
            return False
        whole = purse.expected("individual", state.tokens) * purse.margin()
        if whole <= purse.free or not state.may_call() or not state.affords("individual"):
            return False
        self.for_calls = math.ceil(min(_PROBE_ITEMS, _PROBE_SHARE * state.waiting))
        self.for_jobs = 0
        self.say(
            f"{count(self.for_calls)} first, by calls: money is short, and this shows what a token costs"
        )
        self.probing = True
        return True

    def _next_look(self, now: float, plan: Plan) -> float:
        state = self.state
        if state.name in {"individual", "batch"} or self.threshold is not None:
            return math.inf
        if not (state.jobs.jobs or state.may_job()):
            return math.inf
        step = self._pace(now)
        least = max(_LOOK_LEAST_S, step / 4 if plan.jobs else 0.0)
        return now + max(least, min(step, plan.until_s if plan.until_s > 0 else step))

    def _pace(self, now: float) -> float:
        """Seconds between two looks."""
        return min(_LOOK_MOST_S, max(_LOOK_LEAST_S, _LOOK_SHARE * (now - self.state.start)))

    def _explain(self, plan: Plan, why: str) -> None:
        """Say why, if the plan is not the last one with other numbers."""
        whole = max(1, plan.calls + plan.jobs)
        outline = (plan.cancel, plan.jobs > 0, plan.calls > 0, round(4 * plan.jobs / whole))
        if plan.cancel or self._outline != outline:
            self.say(why, plan)
        self._outline = outline


def fixed(calls: int, jobs: int) -> Plan:
    """A plan that is not chosen by cost."""
    return Plan(calls=calls, jobs=jobs, job_count=0, cancel=False, price=0.0, seconds=0.0, cost=0.0, met=1.0)
