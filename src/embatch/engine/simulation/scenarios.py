"""Seeded scenarios: a pile, a goal, a provider, and what is believed of it, rightly or wrongly.

Shared by the benchmark and the tests. One seed is one scenario, for ever.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from embatch.decisions.latency import Beliefs, Prior
from embatch.decisions.pacing import Pacer
from embatch.decisions.strategy import Strategy
from embatch.engine.simulation.clairvoyant import Best, Clairvoyant
from embatch.engine.simulation.run import Outcome, Simulation
from embatch.engine.simulation.world import World
from embatch.remote import CallLimits, Goal, JobLimits, ModelFacts, Prices, RateLimits

if TYPE_CHECKING:
    from collections.abc import Callable

    from embatch.events import Event, Instruction
    from embatch.remote import StrategyName

_PARALLEL = 64
_LARGE = 300_000
_GEMINI = [(3000, 1_000_000, 500_000), (5000, 5_000_000, 5_000_000), (10_000, 10_000_000, 10_000_000)]
_OPENAI = [(3000, 1_000_000, 3_000_000), (5000, 5_000_000, 100_000_000), (10_000, 10_000_000, 4_000_000_000)]
_LEAST_BUDGET = 0.01  # nobody sets a budget of a thousandth of a cent
_MOST_CALLS = 600  # beyond it, one simulated call stands for several that are sent together


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One run to be simulated."""

    seed: int
    items: int
    item_tokens: int
    world: World
    facts: ModelFacts
    goal: Goal
    prior: Prior
    parallel: int = _PARALLEL
    belief: str = "right"
    """Whether the prior is `right`, or its times are ten times `too long` or `too short`."""

    def run(
        self,
        name: StrategyName,
        *,
        threshold: int | None = None,
        luck: int = 0,
        watch: Callable[[Event, list[Instruction]], None] | None = None,
    ) -> Outcome:
        """Simulate a strategy."""
        strategy = Strategy(
            name,
            self.goal,
            self.facts,
            Pacer(self.facts.rates, now=0.0, parallel=self.parallel),
            Beliefs(self.prior),
            now=0.0,
            threshold=threshold,
        )
        simulation = Simulation(
            self.world,
            self.facts.prices,
            items=self.items,
            item_tokens=self.item_tokens,
            luck=luck,
            watch=watch,
        )
        return simulation.run(strategy)

    def clairvoyant(self) -> Best:
        """What one who knows the future would do."""
        assert self.facts.prices is not None
        seer = Clairvoyant(
            self.world, self.facts.prices, self.facts.call, self.facts.job, parallel=self.parallel
        )
        return seer.best(self.items, self.item_tokens, self.goal)


def scenario(seed: int) -> Scenario:
    """The scenario of a seed."""
    rng = random.Random(seed * 65_537 + 11)  # noqa: S311  # a simulation
    items = round(math.exp(rng.uniform(0, math.log(5_000_000))))
    item_tokens = round(math.exp(rng.uniform(math.log(20), math.log(600))))
    facts = _facts(rng, large=items > _LARGE)
    world = _world(rng, seed, facts)
    if rng.random() < 0.3:  # quotas that nobody has told
        facts = replace(facts, rates=RateLimits())
    made = Scenario(
        seed=seed,
        items=items,
        item_tokens=item_tokens,
        world=world,
        facts=facts,
        goal=Goal(),
        prior=_prior(world),
    )
    made = _believed(rng, made)
    return _coarse(replace(made, goal=_goal(rng, made)))


def _facts(rng: random.Random, *, large: bool) -> ModelFacts:
    """A model at one of three tiers of quotas; who has hundreds of thousands of texts is not at the lowest."""
    if rng.random() < 0.5:
        tier = rng.choice(_GEMINI[large:])
        return ModelFacts(
            provider="gemini", model="gemini-embedding-001", dimensions=3072,
            call=CallLimits(items=100, item_tokens=2048),
            job=JobLimits(concurrent=100, enqueued_tokens=tier[2], expires_s=172_800.0, partial=False),
            rates=RateLimits(items=tier[0], tokens=tier[1]), prices=Prices(individual=0.15, batch=0.075),
        )  # fmt: skip
    tier = rng.choice(_OPENAI[large:])
    price = rng.choice([0.02, 0.13])
    return ModelFacts(
        provider="openai", model="text-embedding-3", dimensions=1536,
        call=CallLimits(items=2048, tokens=300_000),
        job=JobLimits(items=50_000, enqueued_tokens=tier[2], expires_s=86_400.0, partial=True),
        rates=RateLimits(requests=tier[0], tokens=tier[1]), prices=Prices(individual=price, batch=price / 2),
    )  # fmt: skip


def _world(rng: random.Random, seed: int, facts: ModelFacts) -> World:
    gemini = facts.provider == "gemini"
    assert facts.job is not None
    enqueued = facts.job.enqueued_tokens
    if enqueued is not None and rng.random() < 0.2:  # the published limit is not the real one
        enqueued = int(enqueued * rng.uniform(0.3, 0.9))
    return World(
        seed=seed,
        regime=rng.choices(["good", "busy", "stuck"], [0.5, 0.3, 0.2])[0],
        good_s=45.0 * math.exp(rng.gauss(0, 0.3)),
        busy_s=600.0 * math.exp(rng.gauss(0, 0.3)),
        rows_per_s=30.0 * math.exp(rng.gauss(0, 0.3)),
        slots=rng.choice([1, 4, 16, 64]),
        cancel_s=5.0 if gemini else 45.0,
        shows_rows=rng.random() < 0.7,
        call_s=0.45 * math.exp(rng.gauss(0, 0.3)),
        bursts_per_h=rng.choice([0.0, 0.5, 3.0]),
        quota=facts.rates,
        says_delay=rng.random() < 0.7,
        enqueued_tokens=enqueued,
        concurrent=facts.job.concurrent,
        expires_s=facts.job.expires_s,
        partial=facts.job.partial,
        row_faults=rng.choice([0.0, 0.0005, 0.005]),
        bad_items=rng.choice([0.0, 0.0, 0.001]),
        tokens_ratio=math.exp(rng.gauss(0, 0.15)),
    )


def _prior(world: World) -> Prior:
    return Prior(cancel_s=world.cancel_s)


def _believed(rng: random.Random, made: Scenario) -> Scenario:
    belief = rng.choices(["right", "too long", "too short"], [0.6, 0.2, 0.2])[0]
    if belief == "right":
        return made
    factor = 10.0 if belief == "too long" else 0.1
    prior = made.prior
    wrong = replace(
        prior,
        call_s=prior.call_s * factor,
        item_s=prior.item_s * factor,
        ktoken_s=prior.ktoken_s * factor,
        good_s=prior.good_s * factor,
        busy_s=prior.busy_s * factor,
        stuck_s=prior.stuck_s * factor,
        rows_per_s=prior.rows_per_s / factor,
        cancel_s=prior.cancel_s * factor,
    )
    return replace(made, prior=wrong, belief=belief)


def _goal(rng: random.Random, made: Scenario) -> Goal:
    deadline_s = math.exp(rng.uniform(math.log(10), math.log(86_400))) if rng.random() < 0.5 else None
    hour_worth = 0.10 if rng.random() < 0.4 else math.exp(rng.uniform(math.log(0.01), math.log(100)))
    budget = None
    if rng.random() < 0.3:
        assert made.facts.prices is not None
        dear = made.items * made.item_tokens * made.facts.prices.individual / 1e6
        budget = max(_LEAST_BUDGET, dear * rng.uniform(0.4, 1.5))
    return Goal(deadline_s=deadline_s, budget=budget, hour_worth=hour_worth)


def _coarse(made: Scenario) -> Scenario:
    """With millions of items in small calls, one simulated call stands for several that are sent side by side."""
    assert made.facts.call.items is not None
    size = made.facts.call.items
    if made.facts.call.tokens is not None:
        size = min(size, made.facts.call.tokens // made.item_tokens)
    factor = min(_PARALLEL // 2, max(1, math.ceil(made.items / size / _MOST_CALLS)))
    if factor == 1:
        return made
    call = made.facts.call
    limits = CallLimits(
        items=call.items * factor if call.items else None,
        tokens=call.tokens * factor if call.tokens else None,
        item_tokens=call.item_tokens,
    )
    world = replace(
        made.world,
        quota=_fewer(made.world.quota, factor),
        item_s=made.world.item_s / factor,
        ktoken_s=made.world.ktoken_s / factor,
    )
    prior = replace(made.prior, item_s=made.prior.item_s / factor, ktoken_s=made.prior.ktoken_s / factor)
    facts = replace(made.facts, call=limits, rates=_fewer(made.facts.rates, factor))
    return replace(made, world=world, prior=prior, facts=facts, parallel=_PARALLEL // factor)


def _fewer(quota: RateLimits, factor: int) -> RateLimits:
    """The same quota for calls that stand for several requests."""
    requests = None if quota.requests is None else max(1, quota.requests // factor)
    return RateLimits(requests=requests, items=quota.items, tokens=quota.tokens)
