"""Interactive asks first, batch jobs never starved."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embatch.decisions.turns import Turns, Waiting
from embatch.errors import UsageError
from embatch.serving import Priority

INTERACTIVE, BATCH = Priority.INTERACTIVE, Priority.BATCH
BOTH = Waiting(interactive=True, jobs=True, tokens=10_000, oldest_s=1.0)
JOBS = Waiting(interactive=False, jobs=True)


@given(st.floats(0.02, 0.6), st.integers(64, 2048), st.integers(16, 1024))
def test_jobs_get_their_share_and_no_more_while_both_wait(share: float, interactive: int, job: int) -> None:
    """Over many batches jobs get the share they were promised, to within a batch."""
    turns, served = Turns(batch_share=share), {INTERACTIVE: 0, BATCH: 0}
    for _ in range(500):
        kind = turns.next(BOTH, 0.0, budget=job)
        assert kind is not None
        tokens = interactive if kind is INTERACTIVE else job
        turns.served(kind, tokens, contended=True)
        served[kind] += tokens
    total = sum(served.values())
    assert served[BATCH] >= share * total - interactive - job
    assert served[BATCH] <= share * total + interactive + job


def test_interactive_asks_go_first_when_jobs_have_earned_nothing() -> None:
    """An ask that somebody waits for overtakes a job, however long that has waited alone."""
    turns = Turns(batch_share=0.1)
    for _ in range(10):
        assert turns.next(JOBS, 0.0, budget=100) is BATCH
        turns.served(BATCH, 100, contended=False)
    assert turns.next(BOTH, 0.0, budget=100) is INTERACTIVE


def test_nobody_waits() -> None:
    """Without anybody waiting it is nobody's turn."""
    assert Turns(batch_share=0.1).next(Waiting(interactive=False, jobs=False), 0.0, budget=1) is None


def test_batches_of_jobs_are_short_only_while_somebody_interactive_is_about() -> None:
    """A job alone gets the whole budget; beside interactive asks a few milliseconds' worth; afterwards all of it."""
    turns = Turns(batch_share=0.1)
    turns.measured(BATCH, 20_000, 1.0, now=0.0)
    assert turns.job_tokens(0.0, 1024) == 1024
    turns.arrived(INTERACTIVE, 1.0)
    assert turns.job_tokens(1.1, 1024) == 160
    assert turns.job_tokens(10.0, 1024) == 1024


def test_batches_of_jobs_are_longer_the_busier_interactive_asks_keep_the_streams() -> None:
    """A quiet day stays quick; on a busy one a job takes its time, up to a bound."""
    sizes: list[int] = []
    for busy in (0.0, 0.1, 0.5, 1.0):
        turns = Turns(batch_share=0.1, streams=2)
        for step in range(1000):
            turns.measured(INTERACTIVE, round(200 * busy), busy * 0.01, now=step / 200)
        turns.measured(BATCH, 200, 0.01, now=5.0)
        turns.arrived(INTERACTIVE, 5.0)
        assert turns.load(5.0) == pytest.approx(busy, abs=0.1)
        sizes.append(turns.job_tokens(5.0, 10_000))
    assert sizes == sorted(sizes)
    assert sizes[0] == 160
    assert 3300 <= sizes[-1] <= 4000


def test_a_batch_of_asks_beside_a_job_takes_a_tenth_of_a_second_at_most() -> None:
    """Whoever comes meanwhile finds a stream free soon. Nothing is known before the first batch came back."""
    turns = Turns(batch_share=0.1)
    assert turns.ask_tokens(1024) == 1024
    turns.measured(BATCH, 5000, 1.0, now=0.0)
    assert turns.ask_tokens(1024) == 500
    assert turns.ask_tokens(300) == 300


def test_few_young_asks_let_a_job_go_first_on_a_busy_day_only() -> None:
    """Served one by one they would use up the streams; on a quiet day, or once they have waited, they go at once."""
    quiet, busy = Turns(batch_share=0.1), Turns(batch_share=0.1)
    for step in range(1000):
        busy.measured(INTERACTIVE, 100, 0.005, now=step / 200)
    few = Waiting(interactive=True, jobs=True, tokens=20, oldest_s=0.001)
    assert quiet.next(few, 5.0, budget=1024) is INTERACTIVE
    assert busy.next(few, 5.0, budget=1024) is BATCH
    assert busy.next(few._replace(oldest_s=0.5), 5.0, budget=1024) is INTERACTIVE
    assert busy.next(few._replace(tokens=500), 5.0, budget=1024) is INTERACTIVE
    assert busy.next(few._replace(jobs=False), 5.0, budget=1024) is INTERACTIVE


def test_jobs_do_not_count_as_somebody_who_waits() -> None:
    """A job's own asks leave its batches as large as they were."""
    turns = Turns(batch_share=0.1)
    turns.measured(BATCH, 20_000, 1.0, now=0.0)
    turns.arrived(BATCH, 1.0)
    assert turns.job_tokens(1.1, 1024) == 1024


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0])
def test_a_share_that_starves_somebody_is_refused(share: float) -> None:
    """Neither kind may be given everything."""
    with pytest.raises(UsageError, match="batch_share"):
        Turns(batch_share=share)
