"""The simulated provider: seeded, honest in its books, and fast; and the clairvoyant who knows its future."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean, median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embatch.decisions.latency import Beliefs
from embatch.decisions.pacing import Pacer
from embatch.decisions.strategy import Strategy
from embatch.engine.simulation.clairvoyant import Clairvoyant
from embatch.engine.simulation.run import Outcome, Simulation
from embatch.engine.simulation.scenarios import scenario
from embatch.engine.simulation.world import Bucket, Future, World
from embatch.events import Event, Instruction, Wait
from embatch.remote import CallLimits, Goal, JobLimits, ModelFacts, Prices, RateLimits

CALM = World(
    seed=1,
    bursts_per_h=0.0,
    stall=0.0,
    row_faults=0.0,
    dwell_s=(1e9, 1e9, 1e9),
    rows_spread=0.0,
    good_spread=0.0,
    finish_s=(5.0, 5.0),
    item_spread=0.0,
    slots=4,
)
FACTS = ModelFacts(
    provider="openai",
    model="m",
    dimensions=8,
    call=CallLimits(items=100),
    job=JobLimits(partial=True),
    prices=Prices(individual=1.0, batch=0.5),
)


def run(
    world: World, items: int, name: str = "batch", *, facts: ModelFacts = FACTS, luck: int = 0
) -> Outcome:
    strategy = Strategy(
        name,  # type: ignore[arg-type]  # a name of the tests' own choice
        Goal(),
        facts,
        Pacer(facts.rates, now=0.0),
        Beliefs.of("openai"),
        now=0.0,
    )
    return Simulation(world, facts.prices, items=items, item_tokens=100, luck=luck).run(strategy)


def test_the_same_seed_is_the_same_run() -> None:
    """Nothing but the seed decides what happens."""
    first, again = (scenario(5).run("auto") for _ in range(2))
    assert first == again
    assert scenario(6).world != scenario(5).world


def test_luck_is_only_that_of_single_calls() -> None:
    """Another luck gives calls other durations, in the same world: a job ends when it would have ended."""
    calls = {scenario(5).run("individual", luck=luck).seconds for luck in range(3)}
    assert len(calls) == 3
    assert len({run(CALM, 300, luck=luck).seconds for luck in range(3)}) == 1


def test_money_and_time_of_a_job_add_up() -> None:
    """A calm job waits, runs, is finished, and is noticed by a poll soon after; its bill is that of its tokens."""
    outcome = run(CALM, 300)
    assert outcome.dollars == pytest.approx(300 * 100 * 0.5e-6)
    ended = 1.0 + 45.0 + 300 / 30 + 5
    assert ended <= outcome.seconds <= ended * 1.1
    assert (outcome.jobs, outcome.calls, outcome.left) == (1, 0, 0)


def test_money_of_calls_adds_up() -> None:
    """Calls cost the other price, once for each item."""
    outcome = run(CALM, 300, "individual")
    assert outcome.dollars == pytest.approx(300 * 100 * 1e-6)
    assert outcome.done == 300


def test_items_that_cannot_be_done_fail_once() -> None:
    """Bad items are reported as failed, faulty rows are done again, and nothing is left."""
    outcome = run(replace(CALM, bad_items=0.1, row_faults=0.1), 2000)
    assert outcome.done + outcome.failed == 2000
    assert 100 <= outcome.failed <= 300
    assert outcome.left == 0


def test_the_quota_of_a_minute_is_kept() -> None:
    """A bucket gives a sixth of a minute at once, and the rest evenly."""
    bucket = Bucket(600)
    assert bucket.short(0.0, 100) == 0
    bucket.take(100)
    assert bucket.short(0.0, 60) == pytest.approx(6.0)
    assert bucket.short(6.0, 60) == pytest.approx(0.0, abs=1e-9)
    assert Bucket(None).short(0.0, 1e9) == 0


def test_a_quota_slows_a_run_down() -> None:
    """600 items a minute are no more than that."""
    facts = replace(FACTS, rates=RateLimits(items=600))
    outcome = run(replace(CALM, quota=facts.rates), 3000, "individual", facts=facts)
    assert 240 <= outcome.seconds <= 400


def test_a_stuck_provider_moves_no_job() -> None:
    """A job that was submitted while nothing moves ends only after that."""
    world = replace(CALM, regime="stuck", dwell_s=(1e9, 1e9, 5000.0))
    future = Future(world)
    fate = future.fate(0, 10.0, 100, [0.0])
    assert future.regime(10.0) == "stuck"
    assert future.regime(fate.start) != "stuck"
    assert fate.start > 10.0


@given(seed=st.integers(0, 500), at=st.floats(0, 1e6), later=st.floats(0, 1e5))
def test_who_submits_later_does_not_end_sooner(seed: int, at: float, later: float) -> None:
    """Of the same job submitted at two times, the later one never ends first, but for a regime that is over."""
    future = Future(World(seed=seed, regime="good", dwell_s=(1e9, 1e9, 1e9)))
    assert future.fate(3, at, 50, [0.0]).end <= future.fate(3, at + later, 50, [0.0]).end


def test_jobs_wait_for_a_free_place() -> None:
    """With one place, the second job runs after the first."""
    future = Future(replace(CALM, slots=1))
    slots = [0.0]
    first = future.fate(0, 0.0, 3000, slots)
    slots[first.slot] = first.rows_end
    assert future.fate(1, 0.0, 3000, slots).start == first.rows_end


def test_a_job_expires() -> None:
    """Stuck for longer than jobs live, a batch is tried again until it succeeds."""
    world = replace(CALM, regime="stuck", dwell_s=(1e9, 1e9, 20_000.0), expires_s=3600.0, seed=2)
    outcome = run(world, 100)
    assert outcome.left == 0
    assert outcome.jobs + outcome.calls > 1


def test_a_run_that_never_ends_is_an_error() -> None:
    """A strategy that only waits is found out."""

    class Idle:
        def handle(self, event: Event) -> list[Instruction]:
            return [Wait(until=event.now + 86_400.0)]

    simulation = Simulation(CALM, None, items=1, item_tokens=1)
    with pytest.raises(RuntimeError, match="no end"):
        simulation.run(Idle())  # type: ignore[arg-type]  # all that a simulation uses of it


# --- the clairvoyant ------------------------------------------------------------------------------------------


def seer(world: World) -> Clairvoyant:
    assert FACTS.prices is not None
    return Clairvoyant(world, FACTS.prices, FACTS.call, FACTS.job)


def test_the_clairvoyant_takes_calls_for_few_and_jobs_for_many() -> None:
    """One item by a call at once; a million as jobs, since nothing is urgent."""
    one = seer(CALM).best(1, 100, Goal())
    assert (one.calls, one.jobs) == (1, 0)
    many = seer(CALM).best(1_000_000, 100, Goal())
    assert many.jobs > 900_000
    assert many.dollars < 0.6 * 1_000_000 * 100 * 1e-6


def test_the_clairvoyant_knows_that_jobs_are_stuck() -> None:
    """Where jobs would take days, everything goes by calls."""
    world = replace(CALM, regime="stuck", dwell_s=(1e9, 1e9, 1e6))
    assert seer(world).best(10_000, 100, Goal(hour_worth=1.0)).jobs == 0


def test_the_clairvoyant_keeps_deadline_and_budget_if_anybody_can() -> None:
    """It says so where nobody could."""
    fast = seer(CALM).best(1000, 100, Goal(deadline_s=20.0, hour_worth=0.0))
    assert fast.meets
    assert fast.jobs == 0
    assert not seer(CALM).best(1_000_000, 100, Goal(deadline_s=0.01)).meets
    poor = seer(CALM).best(1000, 100, Goal(budget=0.06, hour_worth=100.0))
    assert poor.meets
    assert poor.dollars <= 0.06
    assert not seer(CALM).best(1000, 100, Goal(budget=0.01)).affordable


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 400))
def test_nobody_does_much_better_than_the_clairvoyant(seed: int) -> None:
    """In any scenario the baselines cost no less than nine tenths of its plan, single calls' luck aside."""
    made = scenario(seed)
    if made.items < 200:
        return
    best = made.clairvoyant()
    if not best.affordable or made.goal.budget is not None or made.goal.deadline_s is not None:
        return
    costs = [made.run("individual", luck=luck).cost(made.goal.hour_worth) for luck in range(4)]
    assert fmean(costs) >= 0.9 * best.cost


def test_the_strategy_is_close_to_the_clairvoyant() -> None:
    """Over forty scenarios cost and waiting are within 15 % in the median, and budgets are kept."""
    ratios = []
    for seed in range(2000, 2060):
        made = scenario(seed)
        if made.items > 50_000:
            continue
        best, outcome = made.clairvoyant(), made.run("auto")
        assert made.goal.budget is None or outcome.dollars <= made.goal.budget
        if best.meets and outcome.whole:
            ratios.append(outcome.cost(made.goal.hour_worth) / best.cost)
    assert len(ratios) >= 25
    assert median(ratios) <= 1.15
