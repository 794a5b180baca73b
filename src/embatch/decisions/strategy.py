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

from embatch.decisions.lanes.calls import CallLane, draw
from embatch.decisions.lanes.choice import evaluate, seconds_of
from embatch.decisions.lanes.jobs import JobLane
from embatch.decisions.lanes.planner import Planner
from embatch.decisions.lanes.purse import Purse
from embatch.decisions.lanes.state import State
from embatch.decisions.lanes.words import count, span
from embatch.events import (
    Arrived,
    CallEnded,
    CancelJob,
    Closed,
    Event,
    Finish,
    Instruction,
    JobAccepted,
    JobAttached,
    JobEnded,
    JobRefused,
    JobSeen,
    PollJob,
    SendCall,
    Started,
    SubmitJob,
    Tick,
    Wait,
)
from embatch.remote import ErrorKind, JobState

if TYPE_CHECKING:
    from collections.abc import Callable

    from embatch.decisions.latency import Beliefs
    from embatch.decisions.pacing import Pacer
    from embatch.remote import CallLimits, Goal, ModelFacts, StrategyName

_LINGER_S = 0.2  # after the last arrival, while more may come: a pile is best seen whole
_JOB_LINGER_S = 2.0
_IDLE_S = 600.0  # the longest wait without a reason
_OTHERS_S = 0.1
_LEAST_WAIT_S = 0.001
_WORTH_A_JOB = 0.5  # of a job's planned size must fit into the queue before it is submitted
_LOST_POLLS = 5  # in a row, of every job, when the key is refused: nothing can be reached any more
_SPARE_TOKENS = 4.0  # a call or job may hold so many times the expected tokens: texts differ


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

    def __init__(  # noqa: PLR0913  # the parts of a run, each by name
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
        self._state = State(
            name=name,
            goal=goal,
            facts=facts,
            beliefs=beliefs,
            purse=Purse(facts.prices, goal.budget, facts.output_tokens),
            calls=CallLane(pacer, beliefs, call_limits or (lambda: facts.call)),
            jobs=JobLane(facts.job, beliefs, max_job_items),
            start=now,
        )
        self._planner = Planner(self._state, threshold, head)
        self._now = now
        self._arrived_at = now
        self._ids = 0
        self._asked: SendCall | SubmitJob | None = None
        self._wake = math.inf
        self._resume = now  # when something can be done again without an event, polls and looks left out
        self._finished = False

    # --- events -----------------------------------------------------------------------------------------------

    def handle(self, event: Event) -> list[Instruction]:
        """Take an event and say everything that is to be done now."""
        if self._finished:
            return []
        planner, jobs = self._planner, self._state.jobs
        self._now = max(self._now, event.now)
        self._take(event)
        done: list[Instruction] = [PollJob(id=id_) for id_ in jobs.due(self._now)]
        quiet = isinstance(event, (JobSeen, Tick)) and self._now < min(self._resume, planner.look_at)
        if planner.dirty or not quiet:
            self._wake = math.inf
            self._act(done)
            self._resume = min(self._wake, self._now + _IDLE_S)
        said, planner.says = planner.says, []
        if not self._finished:
            until = min(self._resume, planner.look_at, jobs.next_poll())
            done.append(Wait(until=max(until, self._now + _LEAST_WAIT_S)))
        return [*said, *done]

    def _take(self, event: Event) -> None:
        match event:
            case Arrived() | Closed():
                self._take_arrival(event)
            case Started():
                self._take_start(event)
            case CallEnded():
                self._take_call(event)
            case JobAccepted() | JobAttached() | JobSeen():
                self._take_news(event)
            case JobRefused():
                self._take_refusal(event)
            case JobEnded():
                self._take_job(event)
            case Tick():
                pass

    def _take_news(self, event: JobAccepted | JobAttached | JobSeen) -> None:
        self._state.calls.answered |= not isinstance(event, JobSeen) or event.state is not JobState.UNKNOWN
        if isinstance(event, JobAccepted):
            self._state.jobs.accepted(event.id, self._now)
        elif isinstance(event, JobAttached):
            self._attach(event)
        else:
            if self._state.jobs.seen(event):
                self._planner.look_soon(self._now)
            if event.state is JobState.UNKNOWN:
                self._resume = self._now

    def _take_arrival(self, event: Arrived | Closed) -> None:
        self._planner.dirty = True
        if isinstance(event, Closed):
            self._state.closed = True
            return
        self._state.back(event.items, event.tokens)
        self._state.arrived += event.items
        self._arrived_at = self._now

    def _attach(self, event: JobAttached) -> None:
        state = self._state
        state.jobs.started(event.id, self._now, event.items, event.tokens)
        state.jobs.accepted(event.id, self._now, age_s=event.age_s)
        state.purse.hold(event.id, "batch", event.items, event.tokens)
        if not state.waiting:
            state.item_tokens = max(1.0, event.tokens / max(1, event.items))
        self._ids = max(self._ids, event.id)
        self._planner.dirty = True

    def _take_start(self, event: Started) -> None:
        state, planner = self._state, self._planner
        asked, self._asked = self._asked, None
        if event.items <= 0:
            self._nothing_taken(asked)
            return
        state.taken(event.items, event.tokens, event.lane)
        state.purse.hold(event.id, event.lane, event.items, event.tokens)
        if event.lane == "individual":
            planner.for_calls = max(0, planner.for_calls - event.items)
            state.calls.started(event.id, self._now, event.items, event.tokens)
        else:
            planner.for_jobs = max(0, planner.for_jobs - event.items)
            state.jobs.started(event.id, self._now, event.items, event.tokens)

    def _nothing_taken(self, asked: SendCall | SubmitJob | None) -> None:
        """The engine has nothing that fits: for a job, what waits may be halves that only calls can take."""
        state, planner = self._state, self._planner
        planner.for_jobs = 0
        if isinstance(asked, SubmitJob) and state.may_call():
            state.jobs_empty = True
            planner.for_calls = state.waiting
        else:
            state.nothing_waits()
            planner.for_calls = 0

    def _take_call(self, event: CallEnded) -> None:
        state, planner = self._state, self._planner
        if state.calls.ended(event, draw(event.id)) is None:
            return
        in_doubt = event.kind is not None and event.kind.may_have_happened
        state.purse.ended("individual", event, in_doubt=in_doubt)
        state.back(event.back, event.back_tokens)
        planner.for_calls += event.back
        planner.dirty = planner.dirty or planner.probing or not state.may_call()

    def _take_job(self, event: JobEnded) -> None:
        state, planner = self._state, self._planner
        job = state.jobs.ended(event, draw(event.id))
        if job is None:
            return
        state.purse.ended("batch", event, in_doubt=event.cost_unknown)
        state.back(event.back, event.back_tokens)
        if job.cancelled is not None:
            state.given_up += event.back
        elif event.done == 0:
            planner.say(f"a job of {count(job.items)} ended without results ({event.kind or event.state})")
        if event.done == 0 or job.cancelled is not None or not state.jobs.jobs:
            planner.dirty = True
        else:
            planner.look_soon(self._now)

    def _take_refusal(self, event: JobRefused) -> None:
        state, planner = self._state, self._planner
        job = state.jobs.refused(event, draw(event.id))
        if job is None:
            return
        if event.kind.may_have_happened and not event.never_left:
            state.purse.lose(event.id)
        else:
            state.purse.settle(event.id, 0, 0.0)
        state.back(job.items, job.tokens)
        planner.for_jobs += job.items
        wait_s = max(0.0, state.jobs.not_before - self._now)
        planner.say(
            f"a job of {count(job.items)} was refused ({event.kind}): the next in {span(wait_s)} at least"
        )
        planner.dirty = planner.dirty or not state.jobs.open
        planner.look_soon(self._now)

    # --- acting -----------------------------------------------------------------------------------------------

    def _act(self, done: list[Instruction]) -> None:
        """Everything but polls: finish, or look for a plan, and take its next step."""
        state, planner = self._state, self._planner
        if self._asked is not None or self._ended(done) or self._lingers():
            return
        idle = not (state.under_way or planner.for_calls or planner.for_jobs)
        if (planner.dirty or self._now >= planner.look_at or idle) and planner.look(self._now):
            state.beliefs.remember(self._now, state.jobs.pending(self._now))
            done.extend(CancelJob(id=id_) for id_ in state.jobs.cancel(self._now))
        # Whoever wants a head at once wants the first items: calls take before jobs do. Else jobs, which take longest.
        first, second = (self._send, self._submit) if state.name == "hybrid" else (self._submit, self._send)
        if not (first(done) or second(done) or self._ended(done)):
            self._unstick(done)

    def _unstick(self, done: list[Instruction]) -> None:
        """A plan that nothing of can be done must not stop the run: do what can be done, or say that nothing can."""
        state, planner = self._state, self._planner
        if state.under_way or not state.waiting or self._wake < math.inf:
            return
        by_calls = state.may_call() and state.affords("individual")
        planner.for_calls = state.waiting if by_calls else 0
        planner.for_jobs = 0 if by_calls else state.waiting
        if not (self._submit(done) or self._send(done)) and self._wake == math.inf:
            self._finish(done, *state.why_not())

    def _ended(self, done: list[Instruction]) -> bool:
        """Finish if there is nothing left to do, or nothing that can be done."""
        state = self._state
        if state.goal.budget is not None and state.facts.prices is None:
            return self._finish(done, None, "a budget cannot be kept without prices")
        if state.calls.sent:
            return False
        if state.jobs.jobs:
            unreachable = state.stopped is ErrorKind.AUTH and state.jobs.lost(_LOST_POLLS)
            return unreachable and self._finish(done, ErrorKind.AUTH, "the key is refused")
        if not state.waiting:
            return state.closed and self._finish(done, None, "")
        return not state.can_go_on() and self._finish(done, *state.why_not())

    def _finish(self, done: list[Instruction], kind: ErrorKind | None, reason: str) -> bool:
        self._finished = True
        done.append(Finish(kind=kind, reason=reason))
        return True

    def _lingers(self) -> bool:
        """Whether more is to be waited for before anything is decided."""
        if self._state.closed or not self._state.waiting:
            return False
        until = self._arrived_at + _LINGER_S
        if self._now < until:
            self._wake = min(self._wake, until)
            return True
        return False

    def _submit(self, done: list[Instruction]) -> bool:
        """Ask for the next job, if one is planned and may go now."""
        state, lane = self._state, self._state.jobs
        items = min(self._planner.for_jobs, state.waiting)
        if items <= 0 or not state.may_job():
            return False
        start = lane.not_before
        if not state.closed and items < lane.job_items():
            start = max(start, self._arrived_at + _JOB_LINGER_S)
        if self._now < start:
            self._wake = min(self._wake, start)
            return False
        size = int(min(items, self._planner.job_size, lane.job_items()))
        afford = state.purse.affordable("batch", state.item_tokens, size)
        room = min(lane.room_tokens(), afford)
        fits = room / state.item_tokens
        if lane.room() < 1 or fits < (
            min(1.0, _WORTH_A_JOB * size) if not lane.jobs else _WORTH_A_JOB * size
        ):
            self._check_room()
            return False
        size = max(1, int(min(size, fits)))
        tokens = max(1, int(min(room, _SPARE_TOKENS * size * state.item_tokens + 8192)))
        self._ask(SubmitJob(id=self._next_id(), items=size, tokens=tokens), done)
        return True

    def _check_room(self) -> None:
        """A queue that takes nothing even when it is empty is closed."""
        state, lane = self._state, self._state.jobs
        if not lane.jobs and (lane.room() < 1 or lane.room_tokens() < state.item_tokens):
            lane.closed = ErrorKind.ENQUEUED_FULL
            self._planner.dirty = True
            self._wake = min(self._wake, self._now)

    def _send(self, done: list[Instruction]) -> bool:
        """Ask for the next call, if one is planned and may go now."""
        state = self._state
        items = min(self._planner.for_calls, state.waiting)
        if items <= 0 or not state.may_call():
            return False
        if not state.calls.free:
            if (
                not state.calls.sent
            ):  # other runs share the pacer: no event of this one will tell when it is free
                self._wake = min(self._wake, self._now + _OTHERS_S)
            return False
        afford = state.purse.affordable("individual", state.item_tokens)
        if afford < math.inf:
            items = min(items, int(afford / state.item_tokens))
        if items < 1:
            return False
        size, tokens, delay = state.calls.next_call(self._now, items, state.item_tokens)
        if delay == 0:
            tokens = max(1, int(min(tokens, afford)))
            id_, worst, answer = self._next_id(), state.purse.worst(size), state.purse.longest("individual")
            self._ask(SendCall(id=id_, items=size, tokens=tokens, margin=worst, answer=answer), done)
            return True
        if delay == math.inf:  # one text has more tokens than a whole minute takes
            state.calls.closed = ErrorKind.TOO_MANY_TOKENS
            self._planner.dirty = True
            delay = 0.0
        self._wake = min(self._wake, self._now + delay)
        return False

    def _ask(self, asked: SendCall | SubmitJob, done: list[Instruction]) -> None:
        """One thing at a time: what was really taken is known before the next is asked for."""
        self._asked = asked
        done.append(asked)

    def _next_id(self) -> int:
        self._ids += 1
        return self._ids

    # --- for progress -----------------------------------------------------------------------------------------

    def estimate(self, now: float) -> Estimate:
        """What is left, as far as can be told now."""
        state = self._state
        plan = evaluate(state.view(max(now, self._now)), min(self._planner.for_jobs, state.waiting))
        return Estimate(
            seconds_p10=seconds_of(plan, 0.1),
            seconds_p50=seconds_of(plan, 0.5),
            seconds_p90=seconds_of(plan, 0.9),
            dollars=plan.price + state.purse.held,
        )
