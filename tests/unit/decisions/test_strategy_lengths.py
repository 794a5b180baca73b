"""Items of very different lengths: what is left must not stand for what is under way."""

from __future__ import annotations

from tests.fake_provider import facts

from embatch.decisions.latency import Beliefs
from embatch.decisions.pacing import Pacer
from embatch.decisions.strategy import Strategy
from embatch.events import (
    Arrived,
    CancelJob,
    Closed,
    Instruction,
    JobAccepted,
    JobSeen,
    Started,
    SubmitJob,
    Tick,
    Wait,
)
from embatch.remote import Goal, JobState, Prices, RateLimits


def test_short_items_at_the_end_do_not_make_long_ones_cheap() -> None:
    """Jobs with long items are not given up because the items taken last were short."""
    known = facts(rates=RateLimits(items=3000, tokens=1_000_000), prices=Prices(individual=0.15, batch=0.075))
    strategy = Strategy("auto", Goal(), known, Pacer(known.rates, now=0.0), Beliefs.of("gemini"), now=0.0)
    items, tokens = 2548, 2_000_000
    asked: list[Instruction] = strategy.handle(Arrived(now=0.0, items=items, tokens=tokens))
    asked = strategy.handle(Closed(now=0.1))
    jobs: list[int] = []
    while submits := [one for one in asked if isinstance(one, SubmitJob)]:
        (one,) = submits
        last = items <= one.items
        taken = tokens if last else int(tokens * 0.97)  # the long ones first
        asked = strategy.handle(
            Started(now=0.2, id=one.id, lane="batch", items=min(one.items, items), tokens=taken)
        )
        jobs.append(one.id)
        items, tokens = items - min(one.items, items), tokens - taken
    assert jobs
    assert items == 0
    for id_ in jobs:
        asked = strategy.handle(JobAccepted(now=1.0, id=id_))
    for second in range(2, 40):
        (wait,) = [one for one in asked if isinstance(one, Wait)]
        asked = strategy.handle(Tick(now=max(float(second), wait.until)))
        assert not [one for one in asked if isinstance(one, CancelJob)]
        for id_ in jobs:
            asked = strategy.handle(
                JobSeen(now=float(second) + 0.5, id=id_, state=JobState.RUNNING, completed=0)
            )
            assert not [one for one in asked if isinstance(one, CancelJob)]
