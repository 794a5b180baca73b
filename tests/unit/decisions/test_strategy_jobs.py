"""The strategy as a state machine: jobs, and when they are given up."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from tests.unit.decisions.strategy_drive import FACTS, Drive, only, said

from embatch.events import (
    CancelJob,
    Finish,
    JobAccepted,
    JobAttached,
    JobSeen,
    PollJob,
    SendCall,
    SubmitJob,
)
from embatch.remote import ErrorKind, Goal, JobLimits, JobState

if TYPE_CHECKING:
    from embatch.remote import StrategyName


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


@pytest.mark.parametrize("taken_before", [True, False])
def test_an_outage_of_jobs_is_waited_out_if_one_was_taken_before(taken_before: bool) -> None:
    """Jobs that nobody takes are given up after an hour, or after some refusals if no job was ever taken."""
    drive = Drive("batch", max_job_items=100)
    drive.give(200 if taken_before else 100)
    if taken_before:
        first = min(drive.jobs)
        drive.tell(JobAccepted(now=drive.now, id=first))
        drive.now += 60.0
        drive.end_job(first)
    began = drive.now
    while not drive.calls and drive.now - began < 10_000:
        if drive.jobs:
            drive.refuse_job(ErrorKind.OVERLOADED)
        else:
            drive.now = drive.wait()
            drive.tick(0.0)
    assert drive.calls
    waited = drive.now - began
    assert 3600 <= waited < 6000 if taken_before else waited < 1800


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
