"""Hybrid: the head by calls, the tail as jobs."""

from __future__ import annotations

from tests.fake_provider import facts

from embatch.decisions.latency import Beliefs
from embatch.decisions.pacing import Pacer
from embatch.decisions.strategy import Strategy
from embatch.events import Arrived, Closed, Instruction, SendCall, Started, SubmitJob
from embatch.remote import Goal


def test_the_head_is_what_came_first() -> None:
    """Calls for the head are asked for before any job takes items."""
    known = facts()
    strategy = Strategy(
        "hybrid", Goal(), known, Pacer(known.rates, now=0.0), Beliefs.of("gemini"), now=0.0, head=5
    )
    strategy.handle(Arrived(now=0.0, items=900, tokens=90_000))
    asked: list[Instruction] = strategy.handle(Closed(now=0.1))
    taken: list[tuple[str, int]] = []
    while found := [one for one in asked if isinstance(one, SendCall | SubmitJob)]:
        (one,) = found
        lane = "individual" if isinstance(one, SendCall) else "batch"
        taken.append((lane, one.items))
        started = Started(now=0.2, id=one.id, lane=lane, items=one.items, tokens=one.items * 100)  # type: ignore[arg-type]  # one of both
        asked = strategy.handle(started)
    lanes = [lane for lane, _ in taken]
    assert "batch" in lanes
    assert lanes[0] == "individual"
    assert sum(items for lane, items in taken if lane == "individual") >= 5
    assert lanes == sorted(lanes, reverse=True), "a job took items before the head was sent"
