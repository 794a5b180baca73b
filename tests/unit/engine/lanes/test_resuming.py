"""Runs that are interrupted or stopped by a bound, and what the same call finds afterwards."""

from __future__ import annotations

import _thread
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.fake_provider import FakeProvider, facts, vector

from embatch.decisions.strategy import Strategy
from embatch.engine.lanes.clock import Clock
from embatch.engine.window import as_items
from embatch.errors import GoalError, NotSentError, OutputMismatchError, ProviderError, UsageError
from embatch.events import CancelJob, JobSeen
from embatch.frontends.remote_host import RemoteHost
from embatch.remote import ErrorKind, Goal, JobLimits, JobState, Prices
from embatch.storage.cache import MemoryStore
from embatch.storage.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.fake_provider import FakeJob
    from tests.unit.engine.lanes.conftest import OpenLanes

    from embatch.events import Event, Instruction
    from embatch.remote import CallAnswer, StrategyName
    from embatch.types import FloatArray, Report

pytestmark = pytest.mark.timeout(60)


def texts(count: int) -> list[str]:
    return [f"text {n}" for n in range(count)]


def expected(some: Sequence[str]) -> FloatArray:
    return np.stack([vector(text) for text in some])


def total(report: Report) -> int:
    return report.embedded + report.duplicates + report.cached + report.failed


class Interrupting(FakeProvider):
    """Interrupts the main thread, as Ctrl-C does, when it is asked for the n-th time."""

    def __init__(self, polls: int | None = None, calls: int | None = None, **fields: object) -> None:
        super().__init__(**fields)  # type: ignore[arg-type]  # FakeProvider's own
        self.polls_left, self.calls_left = polls, calls

        def before_poll(_: FakeJob) -> None:
            if self.polls_left is not None:
                self.polls_left -= 1
                if not self.polls_left:
                    _thread.interrupt_main()

        self.before_poll = before_poll

    def call(self, texts: Sequence[str], work, *, timeout_s: float) -> CallAnswer:  # type: ignore[no-untyped-def]  # as FakeProvider
        if self.calls_left is not None:
            self.calls_left -= 1
            if not self.calls_left:
                _thread.interrupt_main()
        return super().call(texts, work, timeout_s=timeout_s)


@pytest.mark.parametrize("strategy", ["batch", "hybrid"])
def test_the_same_call_takes_the_jobs_up_again(lanes: OpenLanes, strategy: StrategyName) -> None:
    """After Ctrl-C jobs go on at the provider; the same call finds them, and nothing is submitted twice."""
    provider = Interrupting(polls=4, polls_until_done=3, facts=facts(job=JobLimits(items=20, partial=True)))
    with pytest.raises(KeyboardInterrupt):
        lanes(provider, strategy).embed(texts(100))
    assert not any(job.cancelled for job in provider.jobs.values())
    result = lanes(provider, strategy).embed(list(reversed(texts(100))))
    np.testing.assert_array_equal(result.vectors, expected(texts(100))[::-1])
    assert set(provider.billed().values()) == {1}
    report = result.report
    assert report.lanes is not None
    assert report.lanes.jobs_attached >= 1
    assert report.duplicates == 0
    assert total(report) == 100


def test_progress_waits_for_jobs_of_the_run_before(lanes: OpenLanes) -> None:
    """Texts in a job that was found again are not done before the job is."""
    provider = Interrupting(polls=1, polls_until_done=3)
    embedder = lanes(provider, "batch")
    with pytest.raises(KeyboardInterrupt):
        embedder.embed(texts(100))
    assert isinstance(embedder.host, RemoteHost)
    run = embedder.host.run(None, list(as_items(texts(100))), store=None)
    seen: list[int] = []

    def before_poll(_: FakeJob) -> None:
        assert run.pipeline is not None
        seen.append(run.pipeline.rows_done)

    provider.before_poll = before_poll
    assert sum(len(block.items) for block in run.blocks()) == 100
    assert set(seen) == {0}


def test_an_interrupted_run_of_calls_keeps_what_was_paid(lanes: OpenLanes) -> None:
    """Ctrl-C waits for the answers under way and stores them: with a cache nothing is paid twice."""
    provider, store = Interrupting(calls=7), MemoryStore()
    with pytest.raises(KeyboardInterrupt):
        lanes(provider, cache=store, parallel=3).embed(texts(300))
    assert provider.billed().total() >= 70
    result = lanes(provider, cache=store).embed(texts(300))
    np.testing.assert_array_equal(result.vectors, expected(texts(300)))
    assert set(provider.billed().values()) == {1}


def test_jobs_are_found_again_in_any_number_of_runs(lanes: OpenLanes) -> None:
    """Interrupted at every poll, run after run, a job is still paid for once."""
    provider = Interrupting(polls_until_done=6)
    for polls in (1, 2, 1, 1):
        provider.polls_left = polls
        with pytest.raises(KeyboardInterrupt):
            lanes(provider, "batch").embed(texts(40))
    provider.polls_left = None
    np.testing.assert_array_equal(lanes(provider, "batch").embed(texts(40)).vectors, expected(texts(40)))
    assert len(provider.jobs) == 1


def test_a_job_that_failed_meanwhile_is_submitted_again(lanes: OpenLanes) -> None:
    """A job that is found again and has failed gives its texts back."""
    provider = Interrupting(polls=1)
    with pytest.raises(KeyboardInterrupt):
        lanes(provider, "batch").embed(texts(40))
    provider.end_state, provider.without_results = JobState.FAILED, True

    def before_poll(job: FakeJob) -> None:
        if not job.tag.endswith("-1"):
            provider.end_state, provider.without_results = JobState.SUCCEEDED, False

    provider.before_poll = before_poll
    np.testing.assert_array_equal(lanes(provider, "batch").embed(texts(40)).vectors, expected(texts(40)))
    assert len(provider.jobs) == 2


def test_a_provider_that_is_away_does_not_cost_the_jobs(lanes: OpenLanes) -> None:
    """If an orphan cannot be looked for when the run goes on, it is not taken for lost: the run stops instead."""

    def lost() -> None:
        raise ProviderError("no route", kind=ErrorKind.CONNECTION)

    provider = FakeProvider(after_submit=lost, before_find=lost)
    for _ in range(2):
        with pytest.raises(ProviderError, match="no route"):
            lanes(provider, "batch").embed(texts(40))
    provider.after_submit = provider.before_find = None
    np.testing.assert_array_equal(lanes(provider, "batch").embed(texts(40)).vectors, expected(texts(40)))
    assert len(provider.jobs) == 1


# --- the ledger of a file, as a job of the command line keeps it -----------------------------------------------------


def test_an_intent_that_never_became_a_job_is_submitted(lanes: OpenLanes, tmp_path: Path) -> None:
    """A run killed before its job reached the provider submits it, once it is sure that it is not there."""
    provider = FakeProvider()
    embedder = lanes(provider, "batch")
    path, fingerprint = tmp_path / "out.lanes", embedder.spec.fingerprint
    ledger = Ledger.open(path, fingerprint=fingerprint, about={})
    ledger.add([(bytes([n]) * 16, f"left {n}", 2) for n in range(5)])
    ledger.intend_job(5, 5, 10, Clock(1000).wall())
    ledger.close()
    ledger = Ledger.open(path, fingerprint=fingerprint, about={})
    blocks = list(embedder.pipeline(store=MemoryStore(), ledger=ledger).run(as_items(texts(20))))
    ledger.finish()
    np.testing.assert_array_equal(np.concatenate([block.vectors for block in blocks]), expected(texts(20)))
    assert set(provider.billed().values()) == {1}
    assert provider.billed().total() == 25


def test_jobs_of_another_model_are_not_forgotten(lanes: OpenLanes, tmp_path: Path) -> None:
    """While jobs of one model are under way for an output, a run of another one for it is refused."""
    path = tmp_path / "out.lanes"
    ledger = Ledger.open(path, fingerprint="one", about={"model": "gemini:one"})
    ledger.add([(b"1" * 16, "text", 2)])
    ledger.intend_job(1, 1, 2, 0.0)
    run_id = ledger.run_id
    ledger.close()
    with pytest.raises(OutputMismatchError, match="gemini:one") as caught:
        Ledger.open(path, fingerprint="two", about={})
    assert f"embatch runs resume {run_id}" in str(caught.value.hint)


# --- cancelling -----------------------------------------------------------------------------------------------------


class Cancelling(Strategy):
    """Cancels every job once it was seen, and leaves its texts to calls."""

    def handle(self, event: Event) -> list[Instruction]:
        asked = super().handle(event)
        return [CancelJob(id=event.id), *asked] if isinstance(event, JobSeen) else asked


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("lost", [False, True])
def test_a_cancelled_job_gives_what_it_has(
    lanes: OpenLanes, monkeypatch: pytest.MonkeyPatch, share: float, *, lost: bool
) -> None:
    """The rows that a cancelled job has are used, and only the rest is sent again; so if the reply was lost."""
    monkeypatch.setattr("embatch.frontends.remote.Strategy", Cancelling)
    provider = FakeProvider(
        polls_until_done=1_000_000, after_cancel=share, facts=facts(job=JobLimits(items=200))
    )

    def before_cancel() -> None:
        for job in provider.jobs.values():
            job.cancelled = True
        raise ZeroDivisionError

    def before_poll(job: FakeJob) -> None:
        if not job.tag.endswith("-1"):
            job.polls = provider.polls_until_done + 1

    provider.before_poll = before_poll
    provider.before_cancel = before_cancel if lost else None
    embedder = lanes(provider, "batch")
    result = embedder.embed(texts(200))
    np.testing.assert_array_equal(result.vectors, expected(texts(200)))
    again = [text for text in texts(200) if provider.billed()[text] > 1]
    assert again == texts(200)[round(200 * share) :]
    assert result.report.lanes is not None
    assert result.report.lanes.jobs_cancelled == 1


def test_a_job_that_does_not_end_when_cancelled_is_not_waited_for(
    lanes: OpenLanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a cancelled job neither ends nor answers, its texts are sent again; what it cost is looked up at the end."""
    monkeypatch.setattr("embatch.frontends.remote.Strategy", Cancelling)
    provider = FakeProvider(polls_until_done=1_000_000)
    refuse = [True]

    def before_cancel() -> None:
        raise ProviderError("not now", kind=ErrorKind.OVERLOADED)

    def before_poll(job: FakeJob) -> None:
        if not job.tag.endswith("-1"):
            job.polls = provider.polls_until_done + 1
            refuse[0] = False

    provider.before_cancel, provider.before_poll = before_cancel, before_poll
    result = lanes(provider, "batch").embed(texts(50))
    np.testing.assert_array_equal(result.vectors, expected(texts(50)))
    assert len(provider.jobs) == 2


# --- bounds ---------------------------------------------------------------------------------------------------------


def cheap(provider: FakeProvider, each: int = 2) -> float:
    """Dollars for one text by a call."""
    assert provider.facts.prices is not None
    return each * provider.facts.prices.individual / 1e6


@pytest.mark.parametrize("strategy", ["individual", "batch", "hybrid", "auto"])
def test_a_budget_is_never_exceeded(lanes: OpenLanes, strategy: StrategyName) -> None:
    """With a budget for a part of the texts, at most that is spent, and the error names how many are left."""
    provider = FakeProvider(facts=facts(prices=Prices(individual=2.0, batch=1.0)))
    budget = 100 * cheap(provider)
    embedder = lanes(provider, strategy, goal=Goal(budget=budget))
    assert isinstance(embedder.host, RemoteHost)
    run = embedder.host.run(None, list(as_items(texts(1000))), store=None)
    with pytest.raises(GoalError, match="texts were not sent") as caught:
        list(run.blocks())
    assert "budget" in str(caught.value)
    assert run.report.lanes is not None
    assert 0 < run.report.lanes.dollars <= budget
    billed = provider.billed()
    assert len(billed) < 1000
    assert set(billed.values()) == {1}


def test_what_the_budget_did_not_reach_is_named(lanes: OpenLanes) -> None:
    """With `collect`, texts without their turn are named as not sent, and the report adds up."""
    provider = FakeProvider()
    embedder = lanes(provider, goal=Goal(budget=100 * cheap(provider)))
    result = embedder.embed(texts(1000), on_error="collect")
    assert {type(failure.error) for failure in result.errors} == {NotSentError}
    assert len(result.errors) + len(provider.billed()) == 1000
    sent = [int(text.split()[1]) for text in provider.billed()]
    np.testing.assert_array_equal(result.vectors[sent], expected([f"text {n}" for n in sent]))
    assert np.isnan(result.vectors[[failure.row for failure in result.errors]]).all()
    assert total(result.report) == 1000


def test_a_larger_budget_goes_on(lanes: OpenLanes) -> None:
    """The same call with more money pays only for what is left."""
    provider = FakeProvider()
    with pytest.raises(GoalError):
        lanes(provider, "batch", goal=Goal(budget=20 * cheap(provider))).embed(texts(200))
    before = provider.billed()
    assert before
    result = lanes(provider, "batch").embed(texts(200))
    np.testing.assert_array_equal(result.vectors, expected(texts(200)))
    assert set(provider.billed().values()) == {1}
    assert result.report.cached == before.total()


def test_a_budget_without_prices_is_refused(lanes: OpenLanes) -> None:
    """Where prices are not known, a budget cannot be kept: nothing is sent."""
    provider = FakeProvider(facts=facts(prices=None))
    with pytest.raises(UsageError, match="no price is known"):
        lanes(provider, goal=Goal(budget=1.0)).embed(texts(10))
    assert not provider.billed()
