"""The strategy: a pure state machine that drives a provider through its two lanes towards a goal.

`handle(event) -> [instruction]`. It stands between the engine, which owns items and carries instructions out, and the
deciders in `lanes`: how calls are packed, when jobs are looked at, what a budget allows, and which plan is best. It
does no I/O, reads no clock and draws no random numbers. After each event it returns everything it wants done now and,
unless it has finished, exactly one `Wait`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embatch.decisions.lanes.calls import CallLane
from embatch.decisions.lanes.choice import Plan, View, choose, pile_of
from embatch.decisions.lanes.jobs import JobLane
from embatch.decisions.lanes.purse import Purse
from embatch.decisions.lanes.words import (
    cancel_words,
    count,
    money,
    plan_words,
    span,
)
from embatch.remote import (
    Arrived,
    CallEnded,
    CancelJob,
    Closed,
    ErrorKind,
    Event,
    Finish,
    Instruction,
    JobAccepted,
    JobAttached,
    JobEnded,
    JobRefused,
    JobSeen,
    JobState,
    PollJob,
    Say,
    SendCall,
    Started,
    SubmitJob,
    Tick,
    Wait,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from embatch.decisions.latency import Beliefs
    from embatch.decisions.pacing import Pacer
    from embatch.remote import CallLimits, Goal, Lane, ModelFacts, StrategyName

_LINGER_S = 0.2  # after the last arrival, while more may come: a pile is best seen whole
_JOB_LINGER_S = 2.0
_PROBE_ITEMS = 32  # sent first where the budget is short, to see how good the estimates of tokens are
_PROBE_SHARE = 0.03
_IDLE_S = 600.0  # the longest wait without a reason
_LEAST_WAIT_S = 0.001
_LOOK_SHARE = 0.08  # of the time since the start: how often plans are looked at again
_LOOK_LEAST_S, _LOOK_MOST_S = 1.0, 1800.0
_WORTH_A_JOB = 0.5  # of a job's planned size must fit into the queue before it is submitted
_LOST_POLLS = 5  # in a row, of every job, when the key is refused: nothing can be reached any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What is left of a run."""

    seconds_p10: float
    seconds_p50: float
    seconds_p90: float
    dollars: float
    """Still to be billed, what is under way included."""


class Strategy:
    """Decides what goes through which lane when.

    Args:
        name: which lanes may be used, and how.
        goal: deadline, budget, what an hour is worth.
        facts: of the model: limits, prices, whether it has jobs.
        pacer: when calls may go. The strategy tells it of every call; nobody else should.
        beliefs: how long things take; it learns from this run.
        now: seconds on the clock of all events.
        threshold: a fixed rule instead of a decision by cost: fewer items go by calls, others as a job.
        call_limits: limits of a call as learned by now; the facts' if None.
        head: for `hybrid`, items that go by calls at least.
        max_job_items: fewer than the provider takes.
    """

    def __init__(  # the parts of a run, each by name
        self,
        name: StrategyName,
        goal: Goal,
        facts: ModelFacts,
        pacer: Pacer,
        beliefs: Beliefs,
        *,
        now: float,
        threshold: int | None = None,
        call_limits: Callable[[], CallLimits] | None = None,
        head: int = 0,
        max_job_items: int | None = None,
    ) -> None:
        self.name = name
        self.goal = goal
        self.beliefs = beliefs
        self._facts = facts
        self._threshold = threshold
        self._head = head
        self._now = self._start = now
        self._purse = Purse(facts.prices, goal.budget)
        self._calls = CallLane(pacer, beliefs, call_limits or (lambda: facts.call))
        self._jobs = JobLane(facts.job, beliefs, max_job_items)
        self._waiting = 0
        self._tokens = 0
        self._item_tokens = 1.0
        self._arrived = 0
        self._arrived_at = now
        self._closed = False
        self._by_calls = 0
        self._given_up = 0  # items of cancelled jobs that wait: they go by calls, or cancelling was in vain
        self._ids = 0
        self._asked: SendCall | SubmitJob | None = None
        self._for_calls = 0
        self._for_jobs = 0
        self._job_size = 1
        self._jobs_empty = False
        self._probing = False
        self._dirty = False
        self._look_at = math.inf
        self._looked = self._now
        self._wake = math.inf
        self._resume = now  # when something can be done again without an event, polls and looks left out
        self._said: set[str] = set()
        self._outline: tuple[bool, bool, bool, int] | None = None
        self._says: list[Say] = []
        self._finished = False
        if goal.budget is not None and facts.prices is None:
            self._finished_for = "a budget cannot be kept without prices"
        else:
            self._finished_for = ""

    # --- events -----------------------------------------------------------------------------------------------

    def handle(self, event: Event) -> list[Instruction]:
        """Take an event and say everything that is to be done now."""
        if self._finished:
            return []
        self._now = max(self._now, event.now)
        self._take(event)
        done: list[Instruction] = []
        done.extend(PollJob(id=id_) for id_ in self._jobs.due(self._now))
        quiet = isinstance(event, (JobSeen, Tick)) and self._now < min(self._resume, self._look_at)
        if self._dirty or not quiet:
            self._wake = self._now + _IDLE_S
            self._act(done)
            self._resume = self._wake
        self._wake = min(self._resume, self._look_at, self._jobs.next_poll())
        said, self._says = self._says, []
        if not self._finished:
            done.append(Wait(until=max(self._wake, self._now + _LEAST_WAIT_S)))
        return [*said, *done]

    def _take(self, event: Event) -> None:
        match event:
            case Arrived():
                self._back(event.items, event.tokens)
                self._arrived += event.items
                self._arrived_at = self._now
                self._dirty = True
            case Closed():
                self._closed = self._dirty = True
            case Started():
                self._take_start(event)
            case CallEnded():
                self._take_call(event)
            case JobAccepted():
                self._jobs.accepted(event.id, self._now)
            case JobAttached():
                self._jobs.started(event.id, event.items, event.tokens)
                self._jobs.accepted(event.id, self._now, age_s=event.age_s)
                self._purse.hold(event.id, "batch", event.items, event.tokens)
                self._ids = max(self._ids, event.id)
                self._dirty = True
            case JobRefused():
                self._take_refusal(event)
            case JobSeen():
                if self._jobs.seen(event):
                    self._look_soon()
                if event.state is JobState.UNKNOWN:
                    self._resume = self._now
            case JobEnded():
                self._take_job(event)

    def _back(self, items: int, tokens: int) -> None:
        """Items wait, for the first time or again."""
        self._waiting += items
        self._tokens += tokens
        if items:
            self._jobs_empty = False
            self._item_tokens = max(1.0, self._tokens / max(1, self._waiting))

    def _take_start(self, event: Started) -> None:
        asked, self._asked = self._asked, None
        if event.items <= 0:
            self._nothing_taken(asked)
            return
        self._waiting = max(0, self._waiting - event.items)
        self._tokens = max(0, self._tokens - event.tokens) if self._waiting else 0
        if self._waiting and self._tokens:
            self._item_tokens = max(1.0, self._tokens / self._waiting)
        self._purse.hold(event.id, event.lane, event.items, event.tokens)
        if event.lane == "individual":
            self._for_calls = max(0, self._for_calls - event.items)
            self._by_calls += event.items
            self._given_up = max(0, self._given_up - event.items)
            self._calls.started(event.id, self._now, event.items, event.tokens)
        else:
            self._for_jobs = max(0, self._for_jobs - event.items)
            self._jobs.started(event.id, event.items, event.tokens)

    def _nothing_taken(self, asked: SendCall | SubmitJob | None) -> None:
        """The engine has nothing that fits: for a job, what waits may be halves that only calls can take."""
        if isinstance(asked, SubmitJob) and self._may_call():
            self._jobs_empty = True
            self._for_jobs, self._for_calls = 0, self._waiting
        else:
            self._waiting = self._tokens = self._for_calls = self._for_jobs = 0

    def _take_call(self, event: CallEnded) -> None:
        call = self._calls.ended(event, self._draw(event.id))
        if call is None:
            return
        if event.kind is not None and event.kind.may_have_happened and event.cost <= 0:
            self._purse.lose(event.id)
        else:
            self._purse.settle(event.id, event.done + event.failed, self._cost("individual", event))
        self._back(event.back, event.back_tokens)
        self._for_calls += event.back
        self._dirty = self._dirty or self._probing
        if self._calls.closed is not None or self._calls.pacer.stopped is not None:
            self._dirty = True

    def _take_job(self, event: JobEnded) -> None:
        job = self._jobs.ended(event, self._draw(event.id))
        if job is None:
            return
        self._purse.settle(event.id, event.done + event.failed, self._cost("batch", event))
        self._back(event.back, event.back_tokens)
        if job.cancelled is not None:
            self._given_up += event.back
        if event.done == 0 and job.cancelled is None:
            self._say(f"a job of {count(job.items)} ended without results ({event.kind or event.state})")
            self._dirty = True
        elif job.cancelled is not None or not self._jobs.jobs:
            self._dirty = True
        else:
            self._look_soon()

    def _look_soon(self) -> None:
        """Something has changed that may change the plan: look again, but not all the time."""
        self._look_at = min(self._look_at, max(self._now, self._looked + self._pace()))

    def _take_refusal(self, event: JobRefused) -> None:
        job = self._jobs.refused(event, self._draw(event.id))
        if job is None:
            return
        if event.kind.may_have_happened:
            self._purse.lose(event.id)
        else:
            self._purse.settle(event.id, 0, 0.0)
        self._back(job.items, job.tokens)
        wait_s = max(0.0, self._jobs.not_before - self._now)
        self._say(
            f"a job of {count(job.items)} was refused ({event.kind}): the next in {span(wait_s)} at least"
        )
        self._dirty = self._dirty or not self._jobs.open
        self._look_soon()

    def _cost(self, lane: Lane, event: CallEnded | JobEnded) -> float:
        return event.cost if event.cost > 0 else self._purse.price(lane, event.used_tokens)

    def _draw(self, id_: int) -> float:
        """Evenly spread over [0, 1), by the number of the call: jitter without randomness."""
        return ((id_ * 2_654_435_761) % 2**32) / 2**32

    # --- acting -----------------------------------------------------------------------------------------------

    def _act(self, done: list[Instruction]) -> None:
        if self._asked is not None:
            return
        if self._ended(done):
            return
        if self._lingers():
            return
        idle = not (self._calls.sent or self._jobs.jobs or self._for_calls or self._for_jobs)
        if self._dirty or self._now >= self._look_at or idle:
            self._look(done)
        if not self._submit(done):
            self._send(done)
        if self._asked is None and not self._ended(done):
            self._unstick(done)

    def _unstick(self, done: list[Instruction]) -> None:
        """A plan that nothing of can be done now must not stop the run: take what can be done."""
        if self._calls.sent or self._jobs.jobs or not self._waiting or self._wake < self._now + _IDLE_S:
            return
        if self._may_call() and self._affords("individual"):
            self._for_calls, self._for_jobs = self._waiting, 0
            self._send(done)
        else:
            self._for_calls, self._for_jobs = 0, self._waiting
            self._submit(done)

    def _ended(self, done: list[Instruction]) -> bool:
        """Finish if there is nothing left to do, or nothing that can be done."""
        if self._finished_for:
            return self._finish(done, None, self._finished_for)
        if self._calls.sent:
            return False
        if self._jobs.jobs:
            unreachable = self._stopped() is ErrorKind.AUTH and all(
                job.lost >= _LOST_POLLS for job in self._jobs.jobs.values()
            )
            return unreachable and self._finish(done, ErrorKind.AUTH, "the key is refused")
        if not self._waiting:
            return self._closed and self._finish(done, None, "")
        if self._may_call() and self._affords("individual"):
            return False
        if self._may_job() and self._affords("batch"):
            return False
        return self._finish(done, *self._why())

    def _why(self) -> tuple[ErrorKind | None, str]:
        """Why what waits cannot be sent."""
        kind = self._stopped() or self._calls.closed or self._jobs.closed
        if self.goal.budget is not None and (self._may_call() or self._may_job()):
            each = self._purse.expected("batch" if self._may_job() else "individual", self._item_tokens)
            return None, (
                f"the budget of {money(self.goal.budget)} is used up: {money(self._purse.spent)} are spent, and one "
                f"of the {count(self._waiting)} that wait costs about {money(each)}"
            )
        return kind or ErrorKind.PROTOCOL, f"{count(self._waiting)} wait, and neither lane takes them: {kind}"

    def _finish(self, done: list[Instruction], kind: ErrorKind | None, reason: str) -> bool:
        self._finished = True
        done.append(Finish(kind=kind, reason=reason))
        return True

    def _lingers(self) -> bool:
        """Whether more is to be waited for before anything is decided."""
        if self._closed or not self._waiting:
            return False
        until = self._arrived_at + _LINGER_S
        if self._now < until:
            self._wake = min(self._wake, until)
            return True
        return False

    def _submit(self, done: list[Instruction]) -> bool:
        """Ask for the next job, if one is planned and may go now."""
        items = min(self._for_jobs, self._waiting)
        if items <= 0 or not self._may_job():
            return False
        start = max(self._jobs.not_before, -math.inf if self._closed else self._arrived_at + _JOB_LINGER_S)
        if self._now < start:
            self._wake = min(self._wake, start)
            return False
        size = min(items, self._job_size)
        afford = self._purse.affordable("batch", size)
        fits = min(self._jobs.room_tokens(), afford) / self._item_tokens
        if self._jobs.room() < 1 or (fits < _WORTH_A_JOB * size and self._jobs.jobs):
            return False
        size = min(size, int(fits)) if fits < math.inf else size
        if size < 1:
            if not self._jobs.jobs and self._jobs.room_tokens() < self._item_tokens:
                self._jobs.closed = ErrorKind.ENQUEUED_FULL
                self._dirty = True
            return False
        tokens = min(self._jobs.room_tokens(), afford, 4.0 * size * self._item_tokens + 8192)
        self._asked = SubmitJob(id=self._next_id(), items=size, tokens=max(1, int(tokens)))
        done.append(self._asked)
        return True

    def _send(self, done: list[Instruction]) -> None:
        """Ask for the next call, if one is planned and may go now."""
        items = min(self._for_calls, self._waiting)
        if items <= 0 or not self._may_call() or not self._calls.free:
            return
        afford = self._purse.affordable("individual", 1)
        items = min(items, int(afford / self._item_tokens)) if afford < math.inf else items
        if items < 1:
            return
        size, tokens, delay = self._calls.next_call(self._now, items, self._item_tokens)
        if delay > 0:
            self._wake = min(self._wake, self._now + delay)
            return
        self._asked = SendCall(id=self._next_id(), items=size, tokens=max(1, int(min(tokens, afford))))
        done.append(self._asked)

    def _next_id(self) -> int:
        self._ids += 1
        return self._ids

    # --- what is possible -------------------------------------------------------------------------------------

    def _stopped(self) -> ErrorKind | None:
        """Why nothing at all can be sent any more."""
        for kind in (self._calls.pacer.stopped, self._calls.closed, self._jobs.closed):
            if kind in {ErrorKind.AUTH, ErrorKind.QUOTA_MONEY}:
                return kind
        return None

    def _may_call(self) -> bool:
        """Whether calls can be sent at all, now or later."""
        if self._calls.closed is not None or self._calls.pacer.stopped is not None:
            return False
        only_jobs = self.name == "batch" and self._facts.job is not None and self._jobs.closed is None
        return not only_jobs and self._stopped() is None

    def _may_job(self) -> bool:
        """Whether jobs can be submitted at all, now or later."""
        if self.name == "individual" or not self._jobs.open or self._jobs_empty:
            return False
        return self._stopped() is None

    def _affords(self, lane: Lane) -> bool:
        return self._purse.affordable(lane) >= self._item_tokens

    # --- deciding ---------------------------------------------------------------------------------------------

    def _look(self, done: list[Instruction]) -> None:
        """Decide anew what goes through which lane."""
        self._dirty = False
        self._look_at = math.inf
        self._looked = self._now
        if not self._waiting and not self._jobs.jobs:
            return
        if self._probes():
            return
        plan, why = self._plan()
        self._for_calls, self._for_jobs = plan.calls, plan.jobs
        if not (plan.calls or plan.jobs or self._calls.sent or self._jobs.jobs):
            self._for_calls = 1  # rounded away, and yet affordable
        if plan.jobs:
            pile = pile_of(self._view(), plan.jobs)
            self._job_size = max(1, math.ceil(pile.items / pile.jobs / pile.waves))
        self._explain(plan, why)
        if plan.cancel:
            self._cancel(done)
        self._look_at = self._next_look(plan)

    def _next_look(self, plan: Plan) -> float:
        if self.name in {"individual", "batch"} or self._threshold is not None:
            return math.inf
        step = self._pace()
        if self._jobs.jobs or plan.jobs or self._may_job():
            return self._now + max(_LOOK_LEAST_S, min(step, plan.until_s if plan.until_s > 0 else step))
        return math.inf

    def _pace(self) -> float:
        """Seconds between two looks."""
        return min(_LOOK_MOST_S, max(_LOOK_LEAST_S, _LOOK_SHARE * (self._now - self._start)))

    def _probes(self) -> bool:
        """Where money is short, a few items go first: how good the estimates are is worth knowing before more go."""
        if self._probing and (self._calls.sent or self._asked):
            return True
        self._probing = False
        if self.goal.budget is None or not self._purse.doubtful or not self._may_call():
            return False
        whole = self._purse.expected("individual", self._tokens) * self._purse.margin()
        if (
            whole <= self._purse.free
            or not self._affords("individual")
            or self._by_calls
            or self._waiting <= 1
        ):
            return False
        few = math.ceil(min(_PROBE_ITEMS, _PROBE_SHARE * self._waiting))
        self._for_calls, self._for_jobs = few, 0
        self._say(
            f"{count(self._for_calls)} first, by calls: money is short, and this shows what a token costs"
        )
        self._probing = True
        return True

    def _plan(self) -> tuple[Plan, str]:
        view = self._view()
        if not view.may_job and not view.jobs:
            return _fixed(view.waiting, 0), self._calls_only(view)
        if not view.may_call:
            return _fixed(0, view.waiting), f"{count(view.waiting)}: jobs" if view.waiting else ""
        if self.name == "batch":
            return _fixed(0, view.waiting), f"{count(view.waiting)}: jobs, as asked for"
        if self._threshold is not None:
            few = self._arrived < self._threshold
            return _fixed(*((view.waiting, 0) if few else (0, view.waiting))), (
                f"{count(view.waiting)}: {'calls' if few else 'a job'}, by the fixed rule of {self._threshold}"
            )
        if self.name == "hybrid":
            plan = choose(view, least_calls=max(self._given_up, self._head - self._by_calls), rule="jobs")
        else:
            keep = self._for_jobs if self._outline is not None else None
            plan = choose(view, least_calls=self._given_up, keep=keep)
        if plan.cancel:
            return plan, cancel_words(view, plan)
        return plan, plan_words(view, plan) if view.waiting else ""

    def _calls_only(self, view: View) -> str:
        if not view.waiting or self.name == "individual":
            return ""
        if self._facts.job is None:
            return f"{self._facts.model} has no jobs: {count(view.waiting)} go by calls"
        if self._jobs.closed is not None:
            return f"jobs are given up ({self._jobs.closed}): {count(view.waiting)} go by calls"
        return ""

    def _cancel(self, done: list[Instruction]) -> None:
        self.beliefs.remember(self._now, self._jobs.pending(self._now))
        done.extend(CancelJob(id=id_) for id_ in self._jobs.cancel(self._now))

    def _view(self) -> View:
        left_s = math.inf
        if self.goal.deadline_s is not None:
            left_s = self._start + self.goal.deadline_s - self._now
            if left_s <= 0:
                left_s = math.inf
        return View(
            now=self._now,
            waiting=self._waiting,
            item_tokens=self._item_tokens,
            calling=self._calls.items,
            jobs=self._jobs.pending(self._now),
            beliefs=self.beliefs,
            speed=self._calls.speed(self._now),
            worth_per_s=self.goal.hour_worth / 3600,
            left_s=left_s,
            probability=self.goal.probability,
            call_price=self._purse.expected("individual", self._item_tokens),
            job_price=self._purse.expected("batch", self._item_tokens),
            free=self._purse.free,
            freed=self._purse.held_for(self._jobs.idle()),
            margin=self._purse.likely_margin,
            sure_margin=self._purse.margin(self._waiting),
            job_delay_s=max(0.0, self._jobs.not_before - self._now),
            job_items=self._jobs.job_items(),
            job_room=self._jobs.room(),
            queue_items=max(1.0, self._jobs.queue_tokens / self._item_tokens),
            may_call=self._may_call(),
            may_job=self._may_job(),
            eager=self.name == "auto",
        )

    def _explain(self, plan: Plan, why: str) -> None:
        """Say why, if the plan is not the last one with other numbers."""
        whole = max(1, plan.calls + plan.jobs)
        outline = (plan.cancel, plan.jobs > 0, plan.calls > 0, round(4 * plan.jobs / whole))
        if plan.cancel or (whole and self._outline != outline):
            self._say(why)
        self._outline = outline

    def _say(self, text: str) -> None:
        """A decision, once: the same words again say nothing new."""
        if text and text not in self._said:
            self._said.add(text)
            self._says.append(Say(text=text))

    # --- for progress -----------------------------------------------------------------------------------------

    def estimate(self, now: float) -> Estimate:
        """What is left, as far as can be told now."""
        self._now = max(self._now, now)
        from embatch.decisions.lanes.choice import evaluate, seconds_of

        plan = evaluate(self._view(), min(self._for_jobs, self._waiting))
        return Estimate(
            seconds_p10=seconds_of(plan, 0.1),
            seconds_p50=seconds_of(plan, 0.5),
            seconds_p90=seconds_of(plan, 0.9),
            dollars=plan.price + self._purse.held,
        )


def _fixed(calls: int, jobs: int) -> Plan:
    """A plan that is not chosen by cost."""
    return Plan(
        calls=calls, jobs=jobs, job_count=0, cancel=False, price=0.0, seconds=0.0, cost=0.0, met=1.0
    )  # fmt: skip
