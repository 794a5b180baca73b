"""The strategy in random worlds: whatever a provider does, a run keeps its promises."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embatch.decisions.latency import Beliefs, Prior
from embatch.decisions.pacing import Pacer
from embatch.decisions.strategy import Strategy
from embatch.engine.simulation.run import Simulation
from embatch.engine.simulation.world import World
from embatch.events import (
    Arrived,
    CallEnded,
    Finish,
    JobAccepted,
    JobEnded,
    JobRefused,
    JobSeen,
    PollJob,
    SendCall,
    Started,
    SubmitJob,
    Wait,
)
from embatch.remote import CallLimits, Goal, JobLimits, ModelFacts, Prices, RateLimits

if TYPE_CHECKING:
    from embatch.engine.simulation.run import Outcome
    from embatch.events import Event, Instruction
    from embatch.remote import StrategyName

PRICES = Prices(individual=0.15, batch=0.075)


@dataclass
class Referee:
    """Watches every event and instruction of a run, and keeps its own books."""

    pacer: Pacer
    facts: ModelFacts
    waiting: int = 0
    calls: dict[int, int] = field(default_factory=dict)
    jobs: dict[int, tuple[int, int]] = field(default_factory=dict)
    polled: set[int] = field(default_factory=set)
    asked: set[int] = field(default_factory=set)

    def __call__(self, event: Event, wanted: list[Instruction]) -> None:
        self.note(event)
        ends = [one for one in wanted if isinstance(one, Finish)]
        waits = [one for one in wanted if isinstance(one, Wait)]
        assert len(ends) + len(waits) == 1
        assert all(one.until > event.now for one in waits)
        takes = [one for one in wanted if isinstance(one, SendCall | SubmitJob)]
        assert len(takes) <= 1
        for one in takes:
            assert 0 < one.items <= self.waiting
            assert one.tokens > 0
            assert one.id not in self.asked
            self.asked.add(one.id)
            self.check(one, event.now)
        for poll in (one for one in wanted if isinstance(one, PollJob)):
            assert poll.id in self.jobs
            assert poll.id not in self.polled
            self.polled.add(poll.id)

    def note(self, event: Event) -> None:
        match event:
            case Arrived():
                self.waiting += event.items
            case Started(lane="individual"):
                self.waiting -= event.items
                self.calls[event.id] = event.items
            case Started(lane="batch"):
                self.waiting -= event.items
                self.jobs[event.id] = (event.items, event.tokens)
            case CallEnded():
                assert event.done + event.failed + event.back == self.calls.pop(event.id)
                self.waiting += event.back
            case JobRefused():
                self.waiting += self.jobs.pop(event.id)[0]
            case JobEnded():
                assert event.done + event.failed + event.back == self.jobs.pop(event.id)[0]
                self.waiting += event.back
                self.polled.discard(event.id)
            case JobSeen() | JobAccepted():
                self.polled.discard(event.id)

    def check(self, one: SendCall | SubmitJob, now: float) -> None:
        """A call goes when the pacer lets it; a job stays within the limits of jobs."""
        if isinstance(one, SendCall):
            assert self.pacer.delay(now, one.items, 1) == 0
            assert self.pacer.in_flight < self.pacer.parallel
            assert one.items <= (self.facts.call.items or one.items)
            return
        limits = self.facts.job
        assert limits is not None
        assert one.items <= (limits.items or one.items)
        assert limits.concurrent is None or len(self.jobs) < limits.concurrent
        if limits.enqueued_tokens is not None:
            held = sum(tokens for _, tokens in self.jobs.values())
            assert held + one.tokens <= limits.enqueued_tokens


def maybe(strategy: st.SearchStrategy[int]) -> st.SearchStrategy[int | None]:
    return st.none() | strategy


WORLDS = st.builds(
    World,
    seed=st.integers(0, 100_000),
    regime=st.sampled_from(["good", "busy", "stuck"]),
    good_s=st.floats(5, 200),
    busy_s=st.floats(60, 3000),
    dwell_s=st.just((7200.0, 3600.0, 7200.0)),
    rows_per_s=st.floats(3, 100),
    slots=st.integers(1, 16),
    cancel_s=st.floats(1, 300),
    shows_rows=st.booleans(),
    call_s=st.floats(0.05, 5),
    stall=st.sampled_from([0.0, 0.01, 0.2]),
    bursts_per_h=st.sampled_from([0.0, 5.0, 20.0]),
    burst_s=st.sampled_from([20.0, 90.0]),
    says_delay=st.booleans(),
    expires_s=st.sampled_from([3600.0, 86_400.0]),
    partial=st.booleans(),
    bills_lost=st.booleans(),
    row_faults=st.sampled_from([0.0, 0.01]),
    bad_items=st.sampled_from([0.0, 0.01]),
    tokens_ratio=st.floats(0.7, 1.4),
)
LIMITS = st.builds(
    JobLimits,
    items=maybe(st.integers(50, 2000)),
    concurrent=maybe(st.integers(1, 20)),
    enqueued_tokens=maybe(st.integers(20_000, 2_000_000)),
    expires_s=st.just(3600.0),
)
RATES = st.builds(
    RateLimits,
    requests=maybe(st.integers(30, 3000)),
    items=maybe(st.integers(300, 5000)),
    tokens=maybe(st.integers(30_000, 1_000_000)),
)


def simulate(
    world: World,
    facts: ModelFacts,
    goal: Goal,
    *,
    name: StrategyName = "auto",
    items: int = 1000,
    belief: float = 1.0,
    threshold: int | None = None,
    head: int = 0,
    arrivals: tuple[tuple[float, int], ...] = (),
) -> Outcome:
    pacer = Pacer(facts.rates, now=0.0)
    prior = Prior()
    beliefs = Beliefs(replace(prior, good_s=prior.good_s * belief, call_s=prior.call_s * belief))
    strategy = Strategy(name, goal, facts, pacer, beliefs, now=0.0, threshold=threshold, head=head)
    referee = Referee(pacer, facts)
    world = replace(world, concurrent=facts.job.concurrent if facts.job else None)
    simulation = Simulation(
        world, facts.prices, items=items, item_tokens=100, arrivals=arrivals, watch=referee
    )
    outcome = simulation.run(strategy)
    assert not referee.calls
    assert outcome.left == referee.waiting
    assert not referee.jobs
    return outcome


@settings(max_examples=60, deadline=None)
@given(
    world=WORLDS,
    job=st.none() | LIMITS,
    rates=RATES,
    told=st.booleans(),
    name=st.sampled_from(["auto", "individual", "batch", "hybrid"]),
    items=st.one_of(st.integers(1, 30), st.integers(1, 8000)),
    deadline_s=st.none() | st.floats(5, 20_000),
    hour_worth=st.sampled_from([0.0, 0.01, 0.1, 5.0, 100.0]),
    belief=st.sampled_from([0.1, 1.0, 10.0]),
    head=st.sampled_from([0, 20]),
)
def test_every_run_ends_and_loses_nothing(  # noqa: PLR0917  # what a world is made of
    world: World,
    job: JobLimits | None,
    rates: RateLimits,
    told: bool,
    name: StrategyName,
    items: int,
    deadline_s: float | None,
    hour_worth: float,
    belief: float,
    head: int,
) -> None:
    """Whatever quotas, regimes, faults and beliefs: every item is answered once, within limits, and the run ends."""
    facts = ModelFacts(
        provider="openai",
        model="m",
        dimensions=8,
        call=CallLimits(items=100),
        job=job,
        rates=rates if told else RateLimits(),
        prices=PRICES,
    )
    world = replace(world, quota=rates, enqueued_tokens=job.enqueued_tokens if job else None)
    goal = Goal(deadline_s=deadline_s, hour_worth=hour_worth)
    outcome = simulate(world, facts, goal, name=name, items=items, belief=belief, head=head)
    assert outcome.left == 0
    assert outcome.finish == Finish(kind=None, reason="")
    assert outcome.done + outcome.failed == items


@settings(max_examples=40, deadline=None)
@given(
    world=WORLDS,
    name=st.sampled_from(["auto", "individual", "batch", "hybrid"]),
    items=st.integers(100, 20_000),
    share=st.floats(0.05, 1.3),
    hour_worth=st.sampled_from([0.01, 0.1, 10.0]),
    deadline_s=st.none() | st.floats(5, 20_000),
)
def test_a_budget_is_never_exceeded(
    world: World, name: StrategyName, items: int, share: float, hour_worth: float, deadline_s: float | None
) -> None:
    """However wrong estimates of tokens are, within reason, the bill stays below the budget, and the end says why."""
    budget = items * 100 * 0.15e-6 * share
    facts = ModelFacts(
        provider="openai", model="m", dimensions=8, call=CallLimits(items=100),
        job=JobLimits(items=5000, expires_s=3600.0), prices=PRICES,
    )  # fmt: skip
    goal = Goal(budget=budget, hour_worth=hour_worth, deadline_s=deadline_s)
    outcome = simulate(world, facts, goal, name=name, items=items)
    assert outcome.dollars <= budget
    if outcome.left:
        assert "budget" in outcome.finish.reason
    else:
        assert outcome.finish.reason == ""


@settings(max_examples=25, deadline=None)
@given(
    world=WORLDS,
    gaps=st.lists(st.tuples(st.floats(0.01, 30), st.integers(1, 3000)), min_size=1, max_size=6),
    name=st.sampled_from(["auto", "batch", "hybrid"]),
)
def test_items_may_arrive_at_any_time(
    world: World, gaps: list[tuple[float, int]], name: StrategyName
) -> None:
    """What arrives later is done like what was there at first."""
    at, arrivals = 0.0, []
    for gap, items in gaps:
        at += gap
        arrivals.append((at, items))
    facts = ModelFacts(
        provider="gemini", model="m", dimensions=8, call=CallLimits(items=100), job=JobLimits(), prices=PRICES
    )
    outcome = simulate(world, facts, Goal(), name=name, items=5, arrivals=tuple(arrivals))
    assert outcome.left == 0


@pytest.mark.parametrize(("regime", "more"), [("good", 1.02), ("busy", 1.1)])
def test_the_bill_of_a_large_pile_is_that_of_jobs(regime: str, more: float) -> None:
    """100,000 items without a goal cost about what they do as jobs, also with the waiting counted."""
    facts = ModelFacts(
        provider="gemini", model="gemini-embedding-001", dimensions=3072, call=CallLimits(items=100),
        job=JobLimits(concurrent=100, enqueued_tokens=10_000_000), prices=PRICES,
        rates=RateLimits(items=5000, tokens=5_000_000),
    )  # fmt: skip
    world = World(seed=4, regime=regime, quota=facts.rates, enqueued_tokens=10_000_000)
    auto, batch = (simulate(world, facts, Goal(), name=name, items=100_000) for name in ("auto", "batch"))
    assert auto.dollars <= more * batch.dollars
    assert auto.cost(0.1) <= 1.03 * batch.cost(0.1)


def test_few_items_end_as_soon_as_calls_do() -> None:
    """Two items without a goal take about a second, not a minute."""
    facts = ModelFacts(
        provider="gemini", model="m", dimensions=8, call=CallLimits(items=100), job=JobLimits(), prices=PRICES
    )
    outcome = simulate(World(seed=1), facts, Goal(), items=2)
    assert outcome.jobs == 0
    assert outcome.seconds < 3
