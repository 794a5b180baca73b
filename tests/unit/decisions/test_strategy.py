"""The strategy as a state machine: events in, instructions out, nothing else."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

import pytest

from embatch.decisions.latency import Beliefs
from embatch.decisions.pacing import Pacer
from embatch.decisions.strategy import Strategy
from embatch.events import (
    Arrived,
    CallEnded,
    CancelJob,
    Closed,
    Finish,
    JobAccepted,
    JobAttached,
    JobEnded,
    JobRefused,
    JobSeen,
    PollJob,
    Say,
    SendCall,
    Started,
    SubmitJob,
    Tick,
    Wait,
)
from embatch.remote import CallLimits, ErrorKind, Goal, JobLimits, JobState, ModelFacts, Prices, RateLimits

if TYPE_CHECKING:
    from collections.abc import Callable

    from embatch.events import Event, Instruction
    from embatch.remote import StrategyName

FACTS = ModelFacts(
    provider="gemini",
    model="model",
    dimensions=768,
    call=CallLimits(items=100, item_tokens=2048),
    job=JobLimits(items=10_000, concurrent=10, enqueued_tokens=10_000_000, expires_s=172_800.0),
    prices=Prices(individual=0.15, batch=0.075),
)
T = TypeVar("T")


class Drive:
    """Does with instructions what an engine does, with counts, and keeps them; the world is up to the test."""

    def __init__(
        self,
        name: StrategyName = "auto",
        goal: Goal | None = None,
        facts: ModelFacts = FACTS,
        *,
        threshold: int | None = None,
        head: int = 0,
        max_job_items: int | None = None,
        call_limits: Callable[[], CallLimits] | None = None,
    ) -> None:
        self.pacer = Pacer(facts.rates, now=0.0)
        self.strategy = Strategy(
            name,
            goal or Goal(),
            facts,
            self.pacer,
            Beliefs.of(facts.provider),
            now=0.0,
            threshold=threshold,
            head=head,
            max_job_items=max_job_items,
            call_limits=call_limits,
        )
        self.now = 0.0
        self.waiting = 0
        self.item_tokens = 100
        self.all: list[Instruction] = []
        self.calls: dict[int, int] = {}
        self.jobs: dict[int, int] = {}

    def tell(self, event: Event) -> list[Instruction]:
        """Feed an event, answer what has to be answered at once, and give everything that was asked for."""
        wanted = self.strategy.handle(event)
        got = list(wanted)
        waits = [one for one in wanted if isinstance(one, Wait)]
        ends = [one for one in wanted if isinstance(one, Finish)]
        assert len(waits) + len(ends) == 1
        self.all += wanted
        for one in wanted:
            if isinstance(one, SendCall | SubmitJob):
                got += self.tell(self._start(one))
        return got

    def _start(self, asked: SendCall | SubmitJob) -> Started:
        items = min(asked.items, self.waiting, max(1, asked.tokens // self.item_tokens))
        self.waiting -= items
        by_call = isinstance(asked, SendCall)
        if items:
            (self.calls if by_call else self.jobs)[asked.id] = items
        return Started(
            now=self.now,
            id=asked.id,
            lane="individual" if by_call else "batch",
            items=items,
            tokens=items * self.item_tokens,
        )

    def give(self, items: int) -> list[Instruction]:
        """All items at once, and no more."""
        self.waiting += items
        first = self.tell(Arrived(now=self.now, items=items, tokens=items * self.item_tokens))
        return first + self.tell(Closed(now=self.now))

    def tick(self, seconds: float) -> list[Instruction]:
        self.now += seconds
        return self.tell(Tick(now=self.now))

    def answer(self, *, seconds: float = 0.5) -> list[Instruction]:
        """All calls in flight are answered."""
        got: list[Instruction] = []
        self.now += seconds
        for id_, items in list(self.calls.items()):
            del self.calls[id_]
            tokens = items * self.item_tokens
            cost = tokens * 0.15e-6
            got += self.tell(
                CallEnded(now=self.now, id=id_, seconds=seconds, done=items, used_tokens=tokens, cost=cost)
            )
        return got

    def refuse(self, kind: ErrorKind, *, seconds: float = 0.5) -> list[Instruction]:
        """All calls in flight fail, and their items come back."""
        got: list[Instruction] = []
        self.now += seconds
        for id_, items in list(self.calls.items()):
            del self.calls[id_]
            self.waiting += items
            back = items * self.item_tokens
            got += self.tell(
                CallEnded(
                    now=self.now, id=id_, seconds=seconds, done=0, back=items, back_tokens=back, kind=kind
                )
            )
        return got

    def refuse_job(self, kind: ErrorKind) -> list[Instruction]:
        """The latest job is refused."""
        id_, items = self.jobs.popitem()
        self.waiting += items
        return self.tell(JobRefused(now=self.now, id=id_, kind=kind))

    def accept(self) -> list[Instruction]:
        got: list[Instruction] = []
        for id_ in list(self.jobs):
            got += self.tell(JobAccepted(now=self.now, id=id_))
        return got

    def end_job(
        self,
        id_: int,
        state: JobState = JobState.SUCCEEDED,
        *,
        done: int | None = None,
        seconds: float = 60.0,
    ) -> list[Instruction]:
        items = self.jobs.pop(id_)
        good = items if done is None else done
        self.waiting += items - good
        return self.tell(
            JobEnded(
                now=self.now,
                id=id_,
                state=state,
                seconds=seconds,
                done=good,
                back=items - good,
                back_tokens=(items - good) * self.item_tokens,
                used_tokens=good * self.item_tokens,
                cost=good * self.item_tokens * 0.075e-6,
            )
        )

    def wait(self) -> float:
        """Until when the last instruction was to wait."""
        return next(one.until for one in reversed(self.all) if isinstance(one, Wait))


def only(kind: type[T], wanted: list[Instruction]) -> list[T]:
    return [one for one in wanted if isinstance(one, kind)]


def said(wanted: list[Instruction]) -> str:
    return "\n".join(one.text for one in only(Say, wanted))


# --- calls ----------------------------------------------------------------------------------------------------


def test_few_items_go_by_calls_and_the_reason_is_said() -> None:
    """Two items are one call, with times and money of both lanes in a line of the log; then the run is over."""
    drive = Drive()
    first = drive.give(2)
    assert [one.items for one in only(SendCall, first)] == [2]
    assert not only(SubmitJob, first)
    assert said(first).startswith("2 items: calls (~0.")
    assert "saved by a job" in said(first)
    (say,) = only(Say, first)
    assert say.numbers["calls"] == 2
    assert only(Finish, drive.answer()) == [Finish(kind=None, reason="")]
    assert drive.strategy.handle(Tick(now=99.0)) == []


def test_nothing_to_do_is_done_at_once() -> None:
    """A run without items finishes when it is closed."""
    assert only(Finish, Drive().give(0)) == [Finish(kind=None, reason="")]


def test_calls_are_full_where_throughput_counts() -> None:
    """A large pile fills every call, and as many go at once as may be in flight."""
    drive = Drive("individual")
    sent = only(SendCall, drive.give(50_000))
    assert [one.items for one in sent] == [100] * drive.pacer.parallel


def test_a_middling_pile_is_spread_over_parallel_calls() -> None:
    """Where one call could hold everything but would take long, several smaller ones go at once."""
    facts = replace(FACTS, call=CallLimits(items=2048))
    sent = only(SendCall, Drive("individual", facts=facts).give(2000))
    assert 4 <= len(sent) <= 64
    assert sum(one.items for one in sent) == 2000


def test_nothing_is_sent_before_the_quota_allows() -> None:
    """With the minute's burst used up, the next call waits for the moment that the pacer names."""
    facts = replace(FACTS, rates=RateLimits(items=600))
    drive = Drive("individual", facts=facts)
    first = sum(one.items for one in only(SendCall, drive.give(1000)))
    assert 0 < first <= 600
    assert drive.now < drive.wait() < 70
    assert not only(SendCall, drive.tick(0.1))
    drive.now = drive.wait()
    assert only(SendCall, drive.tick(0.001))


def test_learned_limits_of_a_call_are_kept() -> None:
    """Calls are no larger than what the caller has learned, whatever the facts say."""
    drive = Drive("individual", call_limits=lambda: CallLimits(items=7, tokens=400, item_tokens=2048))
    sent = only(SendCall, drive.give(100))
    assert sent
    assert all(one.items <= 4 and one.tokens <= 400 for one in sent)


def test_items_that_come_back_are_sent_again() -> None:
    """What an answer leaves without a result goes out in another call."""
    drive = Drive("individual")
    (call,) = only(SendCall, drive.give(1))
    drive.waiting += 1
    again = drive.tell(CallEnded(now=1.0, id=call.id, seconds=1.0, done=0, back=1, back_tokens=100))
    assert len(only(SendCall, again)) == 1


def test_a_provider_that_is_down_is_given_up_after_a_while() -> None:
    """Failures that pass by themselves are borne for ten minutes, not for ever."""
    drive = Drive("individual")
    drive.give(3)
    for _ in range(400):
        finish = only(Finish, drive.refuse(ErrorKind.OVERLOADED))
        if finish:
            break
        drive.now = max(drive.now, drive.wait())
        drive.tick(0.0)
    assert finish == [Finish(kind=ErrorKind.OVERLOADED, reason=finish[0].reason)]
    assert 600 <= drive.now < 1800
    assert "3 items" in finish[0].reason


def test_what_does_not_exist_is_not_asked_for_again_and_again() -> None:
    """A model that is not found ends the run after three calls."""
    drive = Drive("individual")
    drive.give(1)
    got: list[Instruction] = []
    while not only(Finish, got):
        got = drive.refuse(ErrorKind.NOT_FOUND)
        assert len(only(SendCall, drive.all)) <= 3
    assert only(Finish, got)[0].kind is ErrorKind.NOT_FOUND


@pytest.mark.parametrize("kind", [ErrorKind.AUTH, ErrorKind.QUOTA_MONEY])
def test_a_refused_key_or_no_credit_ends_everything(kind: ErrorKind) -> None:
    """Neither lane is tried any more."""
    drive = Drive()
    drive.give(2)
    (finish,) = only(Finish, drive.refuse(kind))
    assert finish.kind is kind
    assert not only(SubmitJob, drive.all)


def test_a_days_quota_of_calls_leaves_the_jobs() -> None:
    """When calls are over for today, what waits goes as a job, if the strategy allows jobs."""
    drive = Drive("auto")
    drive.give(2)
    assert [one.items for one in only(SubmitJob, drive.refuse(ErrorKind.RATE_DAY))] == [2]
    alone = Drive("individual")
    alone.give(2)
    (finish,) = only(Finish, alone.refuse(ErrorKind.RATE_DAY))
    assert finish.kind is ErrorKind.RATE_DAY


def test_a_text_larger_than_a_minutes_quota_is_no_endless_wait() -> None:
    """If not even one item fits into a minute's tokens, calls are closed and the run says so."""
    drive = Drive("individual", facts=replace(FACTS, rates=RateLimits(tokens=50)))
    (finish,) = only(Finish, drive.give(1))
    assert finish.kind is ErrorKind.TOO_MANY_TOKENS


def test_an_engine_without_items_is_believed() -> None:
    """If a call takes nothing, there is nothing to take, and the run ends."""
    strategy = Drive("individual").strategy
    strategy.handle(Arrived(now=0.0, items=5, tokens=500))
    (call,) = only(SendCall, strategy.handle(Closed(now=0.0)))
    got = strategy.handle(Started(now=0.0, id=call.id, lane="individual", items=0, tokens=0))
    assert only(Finish, got)


def test_other_runs_that_fill_the_pacer_are_waited_for() -> None:
    """With every place taken by another run, this one looks again soon instead of giving up."""
    drive = Drive("individual")
    for _ in range(drive.pacer.parallel):
        drive.pacer.sent(0.0, 1, 1)
    assert not only(SendCall, drive.give(1))
    assert drive.wait() <= 1.0
    for _ in range(drive.pacer.parallel):
        drive.pacer.answered(0.5, 1, 1)
    drive.now = 1.0
    assert only(SendCall, drive.tick(0.0))


# --- arrivals -------------------------------------------------------------------------------------------------


def test_more_items_are_waited_for_a_moment() -> None:
    """While a run is open a pile is not cut to pieces: a fifth of a second after the last arrival it goes."""
    drive = Drive("individual")
    drive.waiting = 5
    assert not only(SendCall, drive.tell(Arrived(now=0.0, items=2, tokens=200)))
    drive.now = 0.1
    assert not only(SendCall, drive.tell(Arrived(now=0.1, items=3, tokens=300)))
    assert drive.wait() == pytest.approx(0.3)
    assert sum(one.items for one in only(SendCall, drive.tick(0.25))) == 5


def test_an_open_run_waits_for_more() -> None:
    """When everything that arrived is done, a run that is not closed goes on waiting."""
    drive = Drive("individual")
    drive.waiting = 1
    drive.tell(Arrived(now=0.0, items=1, tokens=100))
    drive.tick(0.3)
    assert not only(Finish, drive.answer())
    assert only(Finish, drive.tell(Closed(now=drive.now)))


# --- jobs -----------------------------------------------------------------------------------------------------


def test_many_items_go_as_jobs() -> None:
    """For a hundred thousand items and no goal, nearly all go as jobs, within the limits of jobs."""
    drive = Drive()
    drive.item_tokens = 90
    jobs = only(SubmitJob, drive.give(100_000))
    assert sum(one.items for one in jobs) >= 98_000
    assert len(jobs) <= 10
    assert all(one.items <= 10_000 for one in jobs)


def test_only_as_many_jobs_as_the_queue_takes() -> None:
    """Jobs under way never hold more tokens than the queue, and the rest follows when one has ended."""
    drive = Drive("batch", facts=replace(FACTS, job=JobLimits(items=10_000, enqueued_tokens=500_000)))
    drive.give(20_000)
    held = sum(drive.jobs.values())
    assert 2500 <= held <= 5000
    drive.accept()
    drive.now = 60.0
    assert only(SubmitJob, drive.end_job(next(iter(drive.jobs))))
    assert sum(drive.jobs.values()) <= 5000


def test_a_caller_may_want_smaller_jobs() -> None:
    """`max_job_items` bounds every job."""
    jobs = only(SubmitJob, Drive("batch", max_job_items=300).give(1000))
    assert {one.items for one in jobs} <= set(range(1, 301))
    assert sum(one.items for one in jobs) == 1000


def test_without_jobs_a_batch_goes_by_calls() -> None:
    """If the model has none, that is said, and calls do it."""
    drive = Drive("batch", facts=replace(FACTS, job=None))
    got = drive.give(3)
    assert only(SendCall, got)
    assert said(got) == "model has no jobs: 3 items go by calls"


def test_a_full_queue_defers_the_job_and_is_remembered() -> None:
    """After `ENQUEUED_FULL` the job waits for its turn, and is smaller than what was refused."""
    drive = Drive("batch")
    (job,) = only(SubmitJob, drive.give(1000))
    again = only(SubmitJob, drive.refuse_job(ErrorKind.ENQUEUED_FULL))
    assert not again
    assert "refused (enqueued_full)" in said(drive.all)
    while not again and drive.now < 100:
        drive.now = drive.wait()
        again = only(SubmitJob, drive.tick(0.0))
    assert 15 <= drive.now <= 30
    assert again[0].items <= job.items / 2


def test_a_queue_that_is_always_full_sends_everything_by_calls() -> None:
    """Refusals are borne a bounded number of times; then calls take over, and the reason is said."""
    drive = Drive("batch")
    drive.give(100)
    for _ in range(20):
        if not drive.jobs:
            break
        drive.refuse_job(ErrorKind.ENQUEUED_FULL)
        for _ in range(50):
            if drive.jobs or drive.calls:
                break
            drive.now = drive.wait()
            drive.tick(0.0)
    assert drive.calls
    assert "jobs are given up (enqueued_full): 100 items go by calls" in said(drive.all)


def test_jobs_that_bring_nothing_are_given_up() -> None:
    """Three jobs in a row without any result are enough."""
    drive = Drive("batch")
    drive.give(10)
    for _ in range(3):
        drive.accept()
        drive.now += 100
        (id_,) = drive.jobs
        drive.end_job(id_, JobState.FAILED, done=0)
        while not drive.jobs and not drive.calls:
            drive.now = drive.wait()
            drive.tick(0.0)
    assert drive.calls
    assert "ended without results (failed)" in said(drive.all)


def test_a_job_that_expired_is_made_up_for() -> None:
    """Its items wait again, and are sent again."""
    drive = Drive()
    drive.item_tokens = 1000
    drive.give(5000)
    drive.accept()
    drive.now = 172_800.0
    for id_ in list(drive.jobs):
        drive.end_job(id_, JobState.EXPIRED, done=0, seconds=172_800.0)
    assert sum(drive.calls.values()) + sum(drive.jobs.values()) > 0


def test_a_job_is_looked_at_soon_and_then_ever_more_rarely() -> None:
    """The first looks come after seconds, later ones up to a minute apart, and never two at once."""
    drive = Drive("batch")
    drive.give(10)
    drive.accept()
    (id_,) = drive.jobs
    looks: list[float] = []
    while drive.now < 6000:
        drive.now = drive.wait()
        polls = only(PollJob, drive.tick(0.0))
        assert len(polls) <= 1
        if polls:
            assert not only(PollJob, drive.tick(0.5))
            looks.append(drive.now)
            drive.tell(JobSeen(now=drive.now, id=id_, state=JobState.QUEUED))
    gaps = [b - a for a, b in pairwise(looks)]
    assert looks[0] <= 5
    assert min(gaps[:5]) >= 1.5
    assert 55 <= max(gaps) <= 62
    assert len(looks) < 200


def test_polls_that_fail_are_made_less_often() -> None:
    """A poll without an answer is repeated, with growing pauses."""
    drive = Drive("batch")
    drive.give(10)
    drive.accept()
    (id_,) = drive.jobs
    gaps = []
    for _ in range(6):
        before = drive.now
        while not only(PollJob, drive.tick(0.0)):
            drive.now = drive.wait()
        gaps.append(drive.now - before)
        drive.tell(JobSeen(now=drive.now, id=id_, state=JobState.UNKNOWN))
    assert gaps[-1] > gaps[1] >= 2


def test_a_job_of_an_interrupted_run_is_looked_at_at_once() -> None:
    """It counts as under way, and its number is not given to anything else."""
    drive = Drive("batch")
    drive.jobs[7] = 100
    got = drive.tell(JobAttached(now=0.0, id=7, items=100, tokens=10_000, age_s=500.0))
    assert only(PollJob, got) == [PollJob(id=7)]
    sent = drive.give(10)
    assert all(one.id > 7 for one in only(SubmitJob, sent))
    for id_ in list(drive.jobs):
        last = drive.end_job(id_)
    assert only(Finish, last)


def test_a_fixed_rule_decides_by_count_alone() -> None:
    """Nine items go by calls and ten as a job, whatever that costs."""
    assert not only(SubmitJob, Drive(threshold=10).give(9))
    got = Drive(threshold=10).give(10)
    assert not only(SendCall, got)
    assert [one.items for one in only(SubmitJob, got)] == [10]
    assert said(got) == "10 items: a job, by the fixed rule of 10"


def test_the_urgent_head_of_a_hybrid_goes_by_calls() -> None:
    """At least as many as asked for go at once, the others as a job."""
    drive = Drive("hybrid", head=50)
    got = drive.give(500)
    assert sum(drive.calls.values()) == 50
    assert sum(drive.jobs.values()) == 450
    assert "450 items in 1 job, 50 items by calls" in said(got)


# --- giving jobs up -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["auto", "hybrid"])
def test_a_stuck_job_is_given_up_in_time_for_the_deadline(name: StrategyName) -> None:
    """When calls are about to be too late, the job is cancelled, and its items go by calls."""
    drive = Drive(name, Goal(deadline_s=3600.0, hour_worth=0.001))
    drive.give(5000)
    assert drive.jobs
    drive.accept()
    cancelled: list[CancelJob] = []
    while not cancelled and drive.now < 3600:
        drive.now = max(drive.now + 1, drive.wait())
        got = drive.tick(0.0)
        cancelled = only(CancelJob, got)
        for poll in only(PollJob, got):
            drive.tell(JobSeen(now=drive.now, id=poll.id, state=JobState.QUEUED))
    assert 600 < drive.now < 3590
    assert {one.id for one in cancelled} == set(drive.jobs)
    assert "cancelled after" in said(drive.all)
    drive.now += 5
    for id_ in list(drive.jobs):
        drive.end_job(id_, JobState.CANCELLED, done=0)
    assert sum(drive.calls.values()) > 0
    assert not drive.jobs


def test_waiting_that_is_dear_gives_a_slow_job_up() -> None:
    """Without a deadline too: when the wait costs more than the calls would."""
    drive = Drive("auto", Goal(hour_worth=0.5))
    drive.item_tokens = 1000
    drive.give(3000)
    assert drive.jobs
    drive.accept()
    while not only(CancelJob, drive.all) and drive.now < 3 * 3600:
        drive.now = max(drive.now + 1, drive.wait())
        for poll in only(PollJob, drive.tick(0.0)):
            drive.tell(JobSeen(now=drive.now, id=poll.id, state=JobState.QUEUED))
    assert 60 < drive.now < 2 * 3600


def test_a_batch_is_never_given_up() -> None:
    """Who asks for jobs only gets jobs, however late."""
    drive = Drive("batch", Goal(deadline_s=60.0, hour_worth=100.0))
    drive.give(100)
    drive.accept()
    for _ in range(100):
        drive.now = drive.wait()
        for poll in only(PollJob, drive.tick(0.0)):
            drive.tell(JobSeen(now=drive.now, id=poll.id, state=JobState.QUEUED))
    assert not only(CancelJob, drive.all)
    assert not drive.calls


def test_a_deadline_too_short_for_jobs_means_calls() -> None:
    """Ten seconds are not enough for any job."""
    drive = Drive(goal=Goal(deadline_s=10.0))
    drive.give(5000)
    assert not drive.jobs


# --- money ----------------------------------------------------------------------------------------------------


def test_a_budget_too_small_for_everything_is_not_exceeded() -> None:
    """What can be afforded is done, and the end names the budget and what was spent."""
    budget = 100 * 500 * 0.15e-6  # half of the items
    drive = Drive("individual", Goal(budget=budget))
    got = drive.give(1000)
    spent = 0.0
    while not only(Finish, got):
        spent += sum(drive.calls.values()) * 100 * 0.15e-6
        assert spent <= budget
        got = drive.answer()
    (finish,) = only(Finish, got)
    assert finish.kind is None
    assert "budget" in finish.reason
    assert spent >= 0.9 * budget


def test_a_budget_that_only_jobs_meet_means_jobs() -> None:
    """The cheaper lane is taken when the dear one cannot be afforded, even where waiting is dear."""
    goal = Goal(budget=1000 * 100 * 0.1e-6, hour_worth=100.0)
    drive = Drive("auto", goal)
    drive.give(1000)
    drive.answer()
    assert sum(drive.jobs.values()) > 400


def test_a_budget_without_prices_is_refused() -> None:
    """Where nothing is known about prices no budget can be kept, and nothing is sent."""
    drive = Drive(goal=Goal(budget=1.0), facts=replace(FACTS, prices=None))
    (finish,) = only(Finish, drive.tell(Arrived(now=0.0, items=5, tokens=500)))
    assert "prices" in finish.reason


def test_calls_that_may_have_been_billed_count_as_spent() -> None:
    """A call that was lost on the way counts against the budget, since it may be on the bill."""
    each = 100 * 0.15e-6
    drive = Drive("individual", Goal(budget=2.5 * each))
    got = drive.give(1)
    sent = 0
    while not only(Finish, got) and sent < 10:
        sent = len(only(SendCall, drive.all))
        got = drive.refuse(ErrorKind.TIMEOUT)
        while not drive.calls and not only(Finish, got):
            drive.now = drive.wait()
            got = drive.tick(0.0)
    assert sent <= 2
    assert "budget" in only(Finish, got)[0].reason


# --- progress -------------------------------------------------------------------------------------------------


def test_what_is_left_is_estimated() -> None:
    """Quantiles are in order, and with everything done nothing is left."""
    drive = Drive("batch")
    drive.give(1000)
    drive.accept()
    left = drive.strategy.estimate(1.0)
    assert 0 < left.seconds_p10 <= left.seconds_p50 <= left.seconds_p90
    assert left.dollars == pytest.approx(1000 * 100 * 0.075e-6)
    drive.now = 60.0
    for id_ in list(drive.jobs):
        drive.end_job(id_)
    assert drive.strategy.estimate(60.0).seconds_p90 == 0
