"""The strategy as a state machine: events in, instructions out. Calls, arrivals and money."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.unit.decisions.strategy_drive import FACTS, Drive, only, said

from embatch.events import (
    Arrived,
    CallEnded,
    Closed,
    Finish,
    Say,
    SendCall,
    Started,
    SubmitJob,
    Tick,
)
from embatch.remote import CallLimits, ErrorKind, Goal, RateLimits

if TYPE_CHECKING:
    from embatch.events import Instruction


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
    """Failures that pass by themselves are borne for ten minutes before anything has succeeded, not for ever."""
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


@pytest.mark.parametrize("kind", [ErrorKind.OVERLOADED, ErrorKind.CONNECTION, ErrorKind.TIMEOUT])
def test_an_outage_after_answers_is_waited_out_for_an_hour(kind: ErrorKind) -> None:
    """A provider that has answered before is tried for an hour, in few calls, before its calls are given up."""
    drive = Drive("individual")
    drive.give(5000)
    drive.answer(most=1)
    began, refused = drive.now, 0
    finish: list[Finish] = []
    while not finish and refused < 2000:
        refused += bool(drive.calls)
        finish = only(Finish, drive.refuse(kind))
        drive.now = max(drive.now, drive.wait())
        finish = finish or only(Finish, drive.tick(0.0))
    assert finish
    assert finish[0].kind is kind
    assert 3600 <= drive.now - began < 5400
    assert refused < 400


def test_an_outage_of_half_an_hour_ends_no_run() -> None:
    """What waits is sent once the provider is back."""
    drive = Drive("individual")
    drive.give(5000)
    drive.answer(most=1)
    back = drive.now + 1800.0
    while drive.now < back:
        assert not only(Finish, drive.refuse(ErrorKind.OVERLOADED))
        drive.now = max(drive.now, drive.wait())
        assert not only(Finish, drive.tick(0.0))
    got: list[Instruction] = []
    for _ in range(1000):
        got = drive.answer() or drive.tick(5.0)
        if only(Finish, got):
            break
    assert only(Finish, got)[0].kind is None
    assert not drive.waiting


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
