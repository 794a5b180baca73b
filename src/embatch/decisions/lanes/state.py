"""What a run knows of itself: what waits, what is under way, what was spent, and what may still be done.

The strategy changes it by events; the planner reads it. It decides nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embatch.decisions.lanes.choice import View
from embatch.decisions.lanes.words import count, money
from embatch.remote import ErrorKind

if TYPE_CHECKING:
    from embatch.decisions.lanes.calls import CallLane
    from embatch.decisions.lanes.jobs import JobLane
    from embatch.decisions.lanes.purse import Purse
    from embatch.decisions.latency import Beliefs
    from embatch.remote import Goal, Lane, ModelFacts, StrategyName

_WORTHLESS = frozenset({ErrorKind.AUTH, ErrorKind.QUOTA_MONEY})
"""What stops both lanes: a day's quota of calls leaves the jobs alone."""


@dataclass(slots=True, kw_only=True)
class State:
    """One run."""

    name: StrategyName
    goal: Goal
    facts: ModelFacts
    beliefs: Beliefs
    purse: Purse
    calls: CallLane
    jobs: JobLane
    start: float
    waiting: int = 0
    """Items."""
    tokens: int = 0
    """Of the waiting items."""
    item_tokens: float = 1.0
    """Of a waiting item, in the mean."""
    arrived: int = 0
    """Items, so far."""
    by_calls: int = 0
    """Items that were sent by calls."""
    given_up: int = 0
    """Items of cancelled jobs that wait: they go by calls, or cancelling was in vain."""
    closed: bool = False
    """Whether no more items will arrive."""
    jobs_empty: bool = False
    """Whether nothing of what waits can go as a job: halves of a call that was refused."""

    def back(self, items: int, tokens: int) -> None:
        """Items wait, for the first time or again."""
        self.waiting += items
        self.tokens += tokens
        if items:
            self.jobs_empty = False
            self.item_tokens = max(1.0, self.tokens / max(1, self.waiting))

    def taken(self, items: int, tokens: int, lane: Lane) -> None:
        """Waiting items are on their way."""
        self.waiting = max(0, self.waiting - items)
        self.tokens = max(0, self.tokens - tokens) if self.waiting else 0
        if self.waiting and self.tokens:
            self.item_tokens = max(1.0, self.tokens / self.waiting)
        if lane == "individual":
            self.by_calls += items
            self.given_up = max(0, self.given_up - items)

    def nothing_waits(self) -> None:
        """The engine has nothing to send, whatever was counted here."""
        self.waiting = self.tokens = 0

    @property
    def under_way(self) -> bool:
        """Whether any call or job is."""
        return bool(self.calls.sent or self.jobs.jobs)

    @property
    def stopped(self) -> ErrorKind | None:
        """Why nothing at all can be sent any more."""
        for kind in (self.calls.pacer.stopped, self.calls.closed, self.jobs.closed):
            if kind is not None and kind in _WORTHLESS:
                return kind
        return None

    def may_call(self) -> bool:
        """Whether calls can be sent at all, now or later."""
        if self.calls.closed is not None or self.calls.pacer.stopped is not None:
            return False
        only_jobs = self.name == "batch" and self.facts.job is not None and self.jobs.closed is None
        return not only_jobs and self.stopped is None

    def may_job(self) -> bool:
        """Whether jobs can be submitted at all, now or later."""
        if self.name == "individual" or not self.jobs.open or self.jobs_empty:
            return False
        return self.stopped is None

    def affords(self, lane: Lane) -> bool:
        """Whether the budget takes another item."""
        return self.purse.affordable(lane, self.item_tokens) >= self.item_tokens

    def can_go_on(self) -> bool:
        """Whether any of what waits can still be sent."""
        by_calls = self.may_call() and self.affords("individual")
        return by_calls or (self.may_job() and self.affords("batch"))

    def why_not(self) -> tuple[ErrorKind | None, str]:
        """Why what waits cannot be sent."""
        if self.goal.budget is not None and (self.may_call() or self.may_job()):
            spent = self.purse.spent + self.purse.lost
            lane: Lane = "batch" if self.may_job() else "individual"
            each = f"about {money(self.purse.expected(lane, self.item_tokens))}"
            if longest := self.purse.longest(lane):
                each = f"up to {money(longest)}: so much is the longest answer; a lower max_output_tokens bounds it"
            return None, (
                f"the budget of {money(self.goal.budget)} is used up: {money(spent)} are spent, and "
                f"each of the {self.waiting:,} that wait costs {each}"
            )
        kind = self.stopped or self.calls.closed or self.calls.pacer.stopped or self.jobs.closed
        lanes = "neither lane takes them" if self.name != "individual" else "calls do not take them"
        return kind or ErrorKind.PROTOCOL, f"{count(self.waiting)} wait, and {lanes}: {kind or 'unknown'}"

    def mean_tokens(self) -> float:
        """Of an item that waits or is in a job: calls may have to do any of them, and lengths come in no fair order."""
        items = self.waiting + sum(job.items for job in self.jobs.jobs.values())
        return max(1.0, (self.tokens + self.jobs.tokens) / items) if items else self.item_tokens

    def view(self, now: float) -> View:
        """What a choice between plans rests on."""
        item_tokens = self.mean_tokens()
        left_s = math.inf
        if self.goal.deadline_s is not None and self.start + self.goal.deadline_s > now:
            left_s = self.start + self.goal.deadline_s - now
        return View(
            now=now,
            waiting=self.waiting,
            item_tokens=item_tokens,
            calling=self.calls.items,
            jobs=self.jobs.pending(now),
            beliefs=self.beliefs,
            speed=self.calls.speed(now),
            worth_per_s=self.goal.hour_worth / 3600,
            left_s=left_s,
            probability=self.goal.probability,
            call_price=self.purse.expected("individual", item_tokens),
            job_price=self.purse.expected("batch", item_tokens),
            free=self.purse.likely_free,
            freed=self.purse.held_for(self.jobs.idle()),
            margin=self.purse.likely_margin,
            sure_margin=self.purse.margin(self.waiting),
            job_delay_s=max(0.0, self.jobs.not_before - now),
            job_items=self.jobs.job_items(),
            job_room=self.jobs.room(),
            queue_items=max(1.0, self.jobs.queue_tokens / item_tokens),
            may_call=self.may_call(),
            may_job=self.may_job(),
            eager=self.name == "auto",
        )
