"""Outlooks before a run and savings after it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fake_provider import facts

from embatch.decisions.costs import Terms, outlook, savings
from embatch.decisions.latency import Beliefs
from embatch.decisions.pacing import Pacer
from embatch.remote import Goal, ModelFacts, Prices, RateLimits
from embatch.types import LaneReport


def terms(goal: Goal | None = None, known: ModelFacts | None = None) -> Terms:
    known = known or facts()
    return Terms(
        facts=known,
        goal=goal or Goal(),
        beliefs=Beliefs.of("gemini"),
        pacer=Pacer(known.rates, now=0.0),
        call_limits=lambda: known.call,
        now=0.0,
    )


@given(st.integers(1, 5_000_000), st.integers(1, 2000))
def test_outlooks_hold_together(items: int, item_tokens: int) -> None:
    """Every way sends every text, times are ordered, and prices are those of the facts."""
    tokens = items * item_tokens
    auto, individual, batch, hybrid = outlook(terms(), items, tokens)
    for one in (auto, individual, batch, hybrid):
        assert one.call_items + one.job_items == items
        assert 0 <= one.seconds_p10 <= one.seconds_p50 <= one.seconds_p90
        assert one.afforded
        assert one.dollars is not None
        assert tokens / 1e6 * 0.999 <= one.dollars
    assert batch.dollars == pytest.approx(tokens / 1e6)
    assert individual.dollars == pytest.approx(tokens * 2 / 1e6)
    assert individual.jobs == 0
    assert individual.calls >= items / 10
    assert batch.calls == 0
    assert hybrid.call_items == min(items, 5)


def test_few_texts_go_by_calls_and_many_as_jobs() -> None:
    """The choice follows price and waiting."""
    (few, *_), (many, *_) = outlook(terms(), 3, 300), outlook(terms(), 1_000_000, 200_000_000)
    assert few.call_items == 3
    assert many.job_items > 900_000


def test_a_model_without_jobs_or_prices_has_fewer_ways() -> None:
    """Without jobs there is nothing to compare, and without prices no bill."""
    found = outlook(terms(known=facts(job=None, prices=None)), 100, 1000)
    assert [one.strategy for one in found] == ["auto", "individual"]
    assert all(one.dollars is None and one.call_items == 100 for one in found)


def test_a_budget_that_does_not_suffice_is_told() -> None:
    """Half the price of the cheapest way leaves texts out."""
    found = outlook(terms(Goal(budget=0.5)), 1000, 1_000_000)
    assert not any(one.afforded for one in found)


def test_quotas_make_calls_slow() -> None:
    """A hundred texts a minute take ten minutes for a thousand."""
    known = facts(rates=RateLimits(items=100))
    _, individual, *_ = outlook(terms(known=known), 1000, 10_000)
    assert individual.seconds_p50 > 400


def test_savings_are_against_the_other_lanes() -> None:
    """A run by calls saves the time of jobs and no money; one by jobs half the money."""
    calls = savings(
        terms(), LaneReport(calls=1, call_items=10, call_tokens=1000, call_dollars=0.002, seconds=1.0), 10
    )
    assert calls.seconds > 10
    assert calls.dollars == pytest.approx(0.0)
    jobs = savings(
        terms(), LaneReport(jobs=1, job_items=10, job_tokens=1000, job_dollars=0.001, seconds=60.0), 10
    )
    assert jobs.seconds == pytest.approx(0.0)
    assert jobs.dollars == pytest.approx(0.001)


def test_answers_count_in_what_was_saved() -> None:
    """Of a model that generates most of the bill is answers: by calls they cost more, as the price list says."""
    prices = Prices(individual=0.1, batch=0.05, output_individual=4.0, output_batch=2.0)
    known = terms(known=facts(dimensions=0, prices=prices))
    jobs = LaneReport(jobs=1, job_items=10, job_tokens=30, job_dollars=0.5, seconds=60.0)
    assert savings(known, jobs, 10).dollars == pytest.approx(0.5)
    calls = LaneReport(calls=10, call_items=10, call_tokens=30, call_dollars=1.0, seconds=1.0)
    assert savings(known, calls, 10).dollars == pytest.approx(0.0)


def test_nothing_to_send_has_no_outlook() -> None:
    """Everything is stored already."""
    assert outlook(terms(), 0, 0) == []
