"""Choosing between two ways by what they took."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from embatch.decisions.faster import Faster


def use(faster: Faster, seconds: tuple[float, float], times: int, rng: random.Random) -> list[int]:
    ways = []
    for _ in range(times):
        way = faster.choose()
        faster.observe(way, seconds[way] * rng.uniform(1.0, 1.1))
        ways.append(way)
    return ways


@given(
    fast=st.floats(1e-6, 10.0),
    factor=st.floats(1.2, 100.0),
    way=st.integers(0, 1),
    seed=st.integers(0, 1000),
)
def test_the_faster_way_is_found_and_used(fast: float, factor: float, way: int, seed: int) -> None:
    """After a comparison of both, only the winner is used until the next one."""
    seconds = (fast, fast * factor) if way == 0 else (fast * factor, fast)
    faster = Faster(probes=5, every=50)
    ways = use(faster, seconds, 60, random.Random(seed))
    assert ways[:10] == [0] * 5 + [1] * 5
    assert ways[10:] == [way] * 50
    assert faster.best == way


def test_a_machine_that_changes_changes_the_choice() -> None:
    """What lost is tried again later."""
    faster = Faster(probes=3, every=20)
    use(faster, (1.0, 2.0), 26, random.Random(0))
    assert faster.best == 0
    use(faster, (2.0, 1.0), 6, random.Random(0))
    assert faster.best == 1


def test_an_interruption_decides_nothing() -> None:
    """Single slow uses of the better way do not make it lose."""
    faster = Faster(probes=7, every=100)
    for number in range(14):
        way = faster.choose()
        slow = number in (8, 10, 13)
        faster.observe(way, 10.0 if slow else (1.0, 0.6)[way])
    assert faster.best == 1
