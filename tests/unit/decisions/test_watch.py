"""A watched strategy: fixed polls, and an end to waiting."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fake_provider import facts

from embatch.decisions.lanes.watch import Bounds, Watch
from embatch.decisions.latency import Beliefs
from embatch.decisions.pacing import Pacer
from embatch.decisions.strategy import Strategy
from embatch.errors import StillRunningError
from embatch.events import (
    Arrived,
    Closed,
    Finish,
    Instruction,
    JobAccepted,
    JobAttached,
    JobEnded,
    JobSeen,
    PollJob,
    Started,
    SubmitJob,
    Tick,
    Wait,
)
from embatch.remote import Goal, JobState, RateLimits


def watch(bounds: Bounds, *, jobs: tuple[str, ...] = ()) -> Watch:
    strategy = Strategy("batch", Goal(), facts(), Pacer(RateLimits(), now=0.0), Beliefs(), now=0.0)
    return Watch(strategy, bounds, now=0.0, jobs=lambda: jobs)


def one(wanted: list[Instruction], kind: type[Any]) -> Any:
    found = [instruction for instruction in wanted if isinstance(instruction, kind)]
    assert len(found) == 1
    return found[0]


def with_a_job(watched: Watch) -> int:
    """A job of 50 items, accepted at second 1."""
    watched.handle(Arrived(now=0.0, items=50, tokens=500))
    submit = one(watched.handle(Closed(now=0.0)), SubmitJob)
    watched.handle(Started(now=0.0, id=submit.id, lane="batch", items=50, tokens=500))
    watched.handle(JobAccepted(now=1.0, id=submit.id))
    return int(submit.id)


def polls(wanted: list[Instruction]) -> list[int]:
    return [instruction.id for instruction in wanted if isinstance(instruction, PollJob)]


@pytest.mark.parametrize("step", [0.5, 7.0, 300.0])
def test_jobs_are_looked_at_in_fixed_steps(step: float) -> None:
    """The next look is exactly one step after the last, however old the job is, and never two at once."""
    watched = watch(Bounds(poll_s=step))
    id_ = with_a_job(watched)
    now = 1.0
    for _ in range(20):
        wanted = watched.handle(Tick(now=now + step / 2))
        assert polls(wanted) == []
        assert one(wanted, Wait).until <= now + step + 0.002
        now += step
        assert polls(watched.handle(Tick(now=now))) == [id_]
        assert polls(watched.handle(Tick(now=now))) == []
        watched.handle(JobSeen(now=now, id=id_, state=JobState.RUNNING))


def test_a_job_found_again_is_looked_at_once_and_then_in_steps() -> None:
    """What an interrupted run left may have ended long ago."""
    watched = watch(Bounds(poll_s=60.0))
    assert polls(watched.handle(JobAttached(now=5.0, id=-1, items=50, tokens=500, age_s=400.0))) == [-1]
    watched.handle(JobSeen(now=6.0, id=-1, state=JobState.RUNNING))
    assert polls(watched.handle(Tick(now=30.0))) == []
    assert polls(watched.handle(Tick(now=66.0))) == [-1]


def test_a_run_that_has_waited_long_enough_ends_and_names_its_jobs() -> None:
    """The error says how long, which jobs, and is a TimeoutError; one moment earlier nothing happens."""
    watched = watch(Bounds(patience_s=900.0), jobs=("batches/1", "batches/2"))
    with_a_job(watched)
    assert one(watched.handle(Tick(now=899.0)), Wait).until <= 900.0
    with pytest.raises(StillRunningError, match="900 s: jobs batches/1, batches/2") as caught:
        watched.handle(Tick(now=900.0))
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.jobs == ("batches/1", "batches/2")


def test_results_that_come_at_the_last_moment_are_taken() -> None:
    """A run that is done does not complain of the time."""
    watched = watch(Bounds(patience_s=10.0))
    id_ = with_a_job(watched)
    wanted = watched.handle(JobEnded(now=11.0, id=id_, state=JobState.SUCCEEDED, seconds=10.0, done=50))
    assert one(wanted, Finish).kind is None
