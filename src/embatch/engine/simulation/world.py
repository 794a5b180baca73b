"""A seeded provider: how long jobs and calls take in it, which quotas it has, and when it is in trouble.

Two things happen to all jobs alike, as they do in reality: a *regime* (good, busy, stuck) holds for hours and decides
how long jobs wait, and *bursts* of overload refuse calls for a minute or so. Everything is drawn from the seed: two
runs in worlds of equal seeds meet the same future. `run` drives a strategy through it, `clairvoyant` looks ahead.
"""

from __future__ import annotations

import bisect
import math
import random
from dataclasses import dataclass, field
from typing import NamedTuple

from embatch.remote import RateLimits

BURST_SHARE = 1 / 6
"""Of a minute's quota that may come at once; the rest flows in evenly."""

_NEXT = {
    "good": (("busy", "stuck"), (0.75, 0.25)),
    "busy": (("good", "stuck"), (0.8, 0.2)),
    "stuck": (("good", "busy"), (0.7, 0.3)),
}
_HORIZON_S = 40 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What a provider is like. Times in seconds."""

    seed: int = 0
    regime: str = "good"
    """To begin with."""
    good_s: float = 45.0
    good_spread: float = 0.6
    busy_s: float = 600.0
    busy_spread: float = 1.1
    dwell_s: tuple[float, float, float] = (43_200.0, 14_400.0, 18_000.0)
    """Mean length of good, busy and stuck regimes."""
    rows_per_s: float = 30.0
    rows_spread: float = 0.4
    slots: int = 16
    """Jobs of ours that are worked on side by side."""
    finish_s: tuple[float, float] = (2.0, 10.0)
    cancel_s: float = 20.0
    shows_rows: bool = True
    """Whether polls tell how many rows are done."""
    call_s: float = 0.45
    call_spread: float = 0.45
    item_s: float = 0.008
    ktoken_s: float = 0.0015
    stall: float = 0.005
    stall_s: tuple[float, float] = (5.0, 30.0)
    bursts_per_h: float = 0.5
    burst_s: float = 40.0
    quota: RateLimits = field(default_factory=RateLimits)
    """The true one, whatever the model's facts say."""
    says_delay: bool = True
    """Whether a refusal for the quota says how long to wait."""
    enqueued_tokens: int | None = None
    """The true limit."""
    concurrent: int | None = 100
    expires_s: float = 86_400.0
    partial: bool = True
    bills_lost: bool = False
    """Whether rows that were done before a job was cancelled or expired are billed though they are lost."""
    row_faults: float = 0.002
    bad_items: float = 0.0
    """Share of items that no call and no job can do."""
    tokens_ratio: float = 1.0
    """Tokens counted for each one estimated."""
    item_spread: float = 0.25
    """How far, relatively, one item's tokens are from the estimate, in the mean."""


class JobFate(NamedTuple):
    """What will become of a job that nobody cancels."""

    start: float
    """Its first row."""
    rate: float
    """Rows a second."""
    rows_end: float
    end: float
    slot: int


class Future:
    """The course of events in a world: the same for everybody who asks."""

    def __init__(self, world: World) -> None:
        self.world = world
        rng = random.Random(world.seed * 7919 + 1)  # noqa: S311  # a simulation
        self._starts, self._regimes = _timeline(world, rng)
        self._bursts = _bursts(world, random.Random(world.seed * 7919 + 2))  # noqa: S311  # a simulation
        self._burst_starts = [start for start, _ in self._bursts]

    def regime(self, now: float) -> str:
        """Which regime holds."""
        return self._regimes[bisect.bisect_right(self._starts, now) - 1]

    def overloaded(self, now: float) -> bool:
        """Whether calls are being refused."""
        at = bisect.bisect_right(self._burst_starts, now) - 1
        return at >= 0 and now < self._bursts[at][1]

    def calls_end(self, seconds: float) -> float:
        """When what takes `seconds` of calls is done, bursts of overload left out."""
        end = seconds
        for start, stop in self._bursts:
            if start >= end:
                break
            end += stop - start
        return end

    def fate(self, number: int, now: float, items: int, slots: list[float]) -> JobFate:
        """Of our `number`th job, submitted now. `slots`: when each place of the provider gets free."""
        world = self.world
        rng = random.Random(world.seed * 104_729 + number)  # noqa: S311  # a simulation
        z_wait, z_rate, finish = rng.gauss(0, 1), rng.gauss(0, 1), rng.uniform(*world.finish_s)
        ready = self._leaves_queue(now, z_wait)
        slot = min(range(len(slots)), key=slots.__getitem__)
        start = max(ready, slots[slot])
        rate = world.rows_per_s * math.exp(world.rows_spread * z_rate)
        rows_end = start + items / rate
        return JobFate(start, rate, rows_end, rows_end + finish, slot)

    def _leaves_queue(self, now: float, z: float) -> float:
        """When a job's wait is over: nothing moves while the provider is stuck."""
        world = self.world
        at = bisect.bisect_right(self._starts, now) - 1
        left: float | None = None
        while True:
            regime, end = self._regimes[at], self._starts[at + 1] if at + 1 < len(self._starts) else math.inf
            if regime != "stuck":
                if left is None:
                    good = regime == "good"
                    spread = world.good_spread if good else world.busy_spread
                    left = (world.good_s if good else world.busy_s) * math.exp(spread * z)
                if now + left <= end:
                    return now + left
                left -= end - now
            if end == math.inf:
                return end
            now, at = end, at + 1


def _timeline(world: World, rng: random.Random) -> tuple[list[float], list[str]]:
    starts, regimes = [-math.inf], [world.regime]
    now = 0.0
    dwell = dict(zip(("good", "busy", "stuck"), world.dwell_s, strict=True))
    while now < _HORIZON_S:
        now += rng.expovariate(1 / dwell[regimes[-1]])
        names, weights = _NEXT[regimes[-1]]
        starts.append(now)
        regimes.append(rng.choices(names, weights)[0])
    if regimes[-1] == "stuck":
        regimes[-1] = "good"
    return starts, regimes


def _bursts(world: World, rng: random.Random) -> list[tuple[float, float]]:
    if world.bursts_per_h <= 0:
        return []
    found, now = [], 0.0
    while now < _HORIZON_S / 10:
        now += rng.expovariate(world.bursts_per_h / 3600)
        end = now + rng.expovariate(1 / world.burst_s)
        found.append((now, end))
        now = end
    return found


class Bucket:
    """A quota of a minute on the provider's side."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._level = math.inf if limit is None else limit * BURST_SHARE
        self._at = 0.0

    def short(self, now: float, amount: float) -> float:
        """Seconds until so much is there; 0 if it is."""
        if self._limit is None:
            return 0.0
        full = max(self._limit * BURST_SHARE, min(amount, self._limit))
        self._level = min(full, self._level + (now - self._at) * self._limit / 60)
        self._at = now
        return max(0.0, (amount - self._level) / self._limit * 60)

    def take(self, amount: float) -> None:
        """Use so much."""
        self._level -= amount
