"""Beliefs about latency: the prior, what is learned, and what waiting says."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embatch.decisions.lanes.regimes import GRID, Pending, Pile
from embatch.decisions.lanes.scale import normal_quantile, scale
from embatch.decisions.lanes.speed import Speed
from embatch.decisions.latency import Beliefs, Prior
from embatch.remote import CallLimits

SPEED = Speed(
    items_per_s=math.inf,
    tokens_per_s=math.inf,
    requests_per_s=math.inf,
    room_items=1e9,
    room_tokens=1e9,
    parallel=64,
    limits=CallLimits(items=100),
)


# --- scales ---------------------------------------------------------------------------------------------------


@given(median=st.floats(0.01, 1000), wrong=st.sampled_from([0.1, 1.0, 10.0]), seed=st.integers(0, 1000))
def test_a_median_is_learned_from_a_few_dozen_values(median: float, wrong: float, seed: int) -> None:
    """From a prior that is ten times off, thirty values bring the median to within a factor of 1.6."""
    rng = random.Random(seed)
    one = scale(median * wrong, 0.5, 0.9)
    for _ in range(30):
        one.learn(median * math.exp(0.5 * rng.gauss(0, 1)))
    assert median / 1.6 < one.median < median * 1.6
    assert one.quantile(0.1) < one.median < one.quantile(0.9)


def test_a_changed_quantity_is_followed() -> None:
    """Old values fade: after a change, as many new ones count more."""
    one = scale(1.0, 0.3, 0.5)
    for _ in range(200):
        one.learn(1.0)
    for _ in range(60):
        one.learn(5.0)
    assert 3.5 < one.median < 5.1


def test_nonsense_is_not_learned() -> None:
    """A value that no logarithm has changes nothing."""
    one = scale(1.0, 0.3, 0.5)
    one.learn(0.0)
    one.learn(-1.0)
    assert one.median == 1.0
    assert one.cdf(0) == 0


# --- calls ----------------------------------------------------------------------------------------------------


def test_the_prior_of_a_call_is_as_stated() -> None:
    """One text takes 0.45 s, a hundred less than a second more."""
    beliefs = Beliefs()
    assert beliefs.call_s(1, 0) == pytest.approx(0.458)
    assert beliefs.call_s(100, 20_000) == pytest.approx(0.45 + 0.8 + 0.03)


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_calls_that_are_faster_or_slower_are_learned(factor: float) -> None:
    """Both the fixed part and the part that grows with items are found, each from the calls that show it."""
    truth = Beliefs(Prior(call_s=0.45 * factor, item_s=0.008 / factor))
    beliefs = Beliefs()
    rng = random.Random(3)
    for n in range(400):
        items = (1, 10, 100)[n % 3]
        beliefs.observe_call(
            items, items * 100, truth.call_s(items, items * 100) * math.exp(0.2 * rng.gauss(0, 1))
        )
    for items in (1, 100):
        assert beliefs.call_s(items, items * 100) == pytest.approx(truth.call_s(items, items * 100), rel=0.35)


def test_stalls_are_no_latency() -> None:
    """One call in ten that takes half a minute makes calls risky, not slow."""
    beliefs = Beliefs()
    for n in range(300):
        beliefs.observe_call(1, 100, 30.0 if n % 10 == 9 else 0.45)
    assert beliefs.call_s(1, 100) < 1.0
    assert beliefs.stalls > 0.7
    assert beliefs.calls_s(1, 100, count=20) > 5


def test_the_last_of_many_calls_is_later() -> None:
    """More calls at once end later, and a careful estimate is later than the expected one."""
    beliefs = Beliefs()
    assert beliefs.calls_s(10, 1000, count=1) < beliefs.calls_s(10, 1000, count=50)
    assert beliefs.calls_s(10, 1000, count=5) < beliefs.calls_s(10, 1000, count=5, worst=0.95)
    assert beliefs.calls_s(10, 1000, count=0) == 0


@given(items=st.integers(1, 100_000))
def test_time_by_calls_grows_with_the_pile(items: int) -> None:
    """Twice the items never take less time, and quotas only add to it."""
    beliefs = Beliefs()
    once = SPEED.seconds(beliefs, items, 100.0)
    assert once > 0
    assert SPEED.seconds(beliefs, items * 2, 100.0) >= once * 0.98
    bound = replace(SPEED, items_per_s=10.0, room_items=100.0)
    assert bound.seconds(beliefs, items, 100.0) >= max(once * 0.98, (items - 100) / 10)


# --- jobs -----------------------------------------------------------------------------------------------------


def test_the_prior_of_a_job_is_as_stated() -> None:
    """A small job most probably takes a minute or two; but one in ten takes hours."""
    curve = Beliefs.of("gemini").ends(0.0).curve(Pile(items=100, jobs=1))
    assert 40 < curve.quantile(0.5) < 200
    assert curve.quantile(0.9) > 1800
    assert curve.within(0) == 0
    assert list(curve.done) == sorted(curve.done)


def test_more_jobs_side_by_side_work_faster_and_wait_longer() -> None:
    """A large pile ends sooner in several jobs; the more there are, the later the last one leaves the queue."""
    ends = Beliefs().ends(0.0)
    large = [ends.curve(Pile(items=50_000, jobs=n)).quantile(0.5) for n in (1, 16)]
    assert large[0] > 3 * large[1]
    small = [ends.curve(Pile(items=16, jobs=n)).quantile(0.5) for n in (1, 16)]
    assert small[0] < small[1]


def test_a_provider_that_works_on_one_job_at_a_time_is_no_faster_with_many() -> None:
    """Where jobs wait for each other, cutting a pile does not help."""
    ends = Beliefs().ends(0.0)
    alone = ends.curve(Pile(items=20_000, jobs=1)).quantile(0.5)
    cut = ends.curve(Pile(items=20_000, jobs=16, abreast=1.0)).quantile(0.5)
    assert cut > 0.8 * alone


def test_waiting_says_that_the_provider_is_stuck() -> None:
    """The longer a job waits for its first row, the less probable is a good regime, and the longer the rest."""
    beliefs = Beliefs()
    seen = [beliefs.regime(0.0, [Pending(items=100, age_s=age)]) for age in (1, 120, 900, 20_000)]
    assert [round(one["good"], 3) for one in seen] == sorted(
        (round(o["good"], 3) for o in seen), reverse=True
    )
    assert seen[-1]["stuck"] > 0.8
    rest = [
        beliefs.ends(0.0, [Pending(items=100, age_s=age)]).curve().quantile(0.5)
        for age in (1.0, 600.0, 20_000.0)
    ]
    assert rest == sorted(rest)


def test_a_job_that_runs_ends_when_its_rows_are_done() -> None:
    """Once rows are counted, the rest follows from their rate, whatever the regime."""
    job = Pending(items=1000, age_s=3000.0, running_s=100.0, completed=500)
    curve = Beliefs().ends(0.0, [job]).curve()
    assert 50 < curve.quantile(0.5) < 200
    assert curve.within(600) > 0.95


def test_jobs_that_ended_are_learned_from() -> None:
    """After ten jobs of twenty minutes each, the next is expected to take that long, not a minute."""
    beliefs = Beliefs()
    for n in range(10):
        beliefs.observe_job(2000.0 * (n + 1), 1000, 1200.0, queued_s=1150.0)
    curve = beliefs.ends(20_100.0).curve(Pile(items=1000, jobs=1))
    assert 500 < curve.quantile(0.5) < 3000
    assert beliefs.regime(20_100.0)["busy"] > 0.5


def test_a_regime_is_forgotten() -> None:
    """What was seen long ago says little about now."""
    beliefs = Beliefs()
    beliefs.observe_job(1000.0, 100, 30.0, queued_s=20.0)
    soon, late = beliefs.regime(1100.0), beliefs.regime(1000.0 + 10 * 86_400)
    assert soon["good"] > 0.85
    assert late["good"] < soon["good"]


def test_waiting_in_vain_is_remembered() -> None:
    """A job that is cancelled after hours in the queue says that the next would wait as well."""
    beliefs = Beliefs()
    beliefs.remember(7200.0, [Pending(items=100, age_s=7200.0)])
    assert beliefs.regime(7210.0)["stuck"] > 0.6


def test_cancelling_is_learned() -> None:
    """How long cancelled jobs take to end is followed."""
    beliefs = Beliefs.of("gemini")
    for _ in range(20):
        beliefs.observe_cancel(60.0)
    assert 40 < beliefs.cancel.median < 70


# --- kept between runs ----------------------------------------------------------------------------------------


def test_what_was_learned_is_kept_as_plain_numbers() -> None:
    """A belief survives the way to a store and back."""
    beliefs = Beliefs.of("openai")
    for n in range(20):
        beliefs.observe_call(10, 1000, 2.0)
        beliefs.observe_job(1000.0 * (n + 1), 500, 400.0, queued_s=350.0)
    beliefs.observe_cancel(3.0)
    beliefs.abreast = 4.0
    kept = beliefs.to_dict(20_000.0)
    again = Beliefs.from_dict(kept, provider="openai", now=5.0, away_s=0.0)
    assert again.call_s(10, 1000) == pytest.approx(beliefs.call_s(10, 1000))
    assert again.cancel.median == pytest.approx(beliefs.cancel.median)
    assert again.abreast == 4.0
    assert again.regime(5.0) == pytest.approx(beliefs.regime(20_000.0))
    pile = Pile(items=100, jobs=1)
    assert again.ends(5.0).curve(pile).done == pytest.approx(beliefs.ends(20_000.0).curve(pile).done)
    weeks = Beliefs.from_dict(kept, provider="openai", away_s=30 * 86_400.0)
    assert weeks.regime(0.0) != pytest.approx(beliefs.regime(20_000.0), abs=0.01)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"fixed": "x", "rows": [1, 2], "good": [math.nan, 1, 1], "busy": [0, -1, 1], "stall": "a"},
        {"stall": 7, "counts": [1, 2], "shares": ["a", 1, 2], "abreast": -1},
        {"counts": [0, 0, 0], "shares": None, "cancel": [999, 1, 1]},
    ],
)
def test_what_makes_no_sense_is_left_at_its_prior(data: dict[str, object]) -> None:
    """A broken store costs what was learned, not the run."""
    beliefs = Beliefs.from_dict(data, provider="gemini")
    prior = Beliefs.of("gemini")
    assert beliefs.call_s(10, 100) == prior.call_s(10, 100)
    assert beliefs.regime(0.0) == pytest.approx(prior.regime(0.0))
    assert beliefs.cancel.median == prior.cancel.median


def test_curves_interpolate() -> None:
    """Between two times of the grid a curve is a line, and beyond it nothing is known."""
    curve = Beliefs().ends(0.0).curve(Pile(items=10, jobs=1))
    middle = (GRID[8] + GRID[9]) / 2
    assert curve.within(middle) == pytest.approx((curve.done[8] + curve.done[9]) / 2)
    assert curve.within(curve.quantile(0.7)) == pytest.approx(0.7)
    assert curve.quantile(1.1) == math.inf
    assert normal_quantile(0.5) == 0
