"""How long things take at a provider: calls, and the good, busy and stuck hours that all its jobs share.

Sans-IO: `now` and the generator of random numbers are arguments. How one job goes through the hours is in `jobs`.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embatch.emulator.options import JobTimes, Latency, RegimeName

_HOUR = 3600.0


def call_s(
    draw: random.Random, latency: Latency, *, items: int, tokens: int, output_tokens: int = 0
) -> float:
    """Virtual seconds that one synchronous request takes."""
    seconds = latency.item_s * items + latency.ktoken_s * tokens / 1000
    seconds += latency.output_token_s * output_tokens
    if latency.median_s > 0:
        seconds += latency.median_s * math.exp(latency.sigma * draw.gauss())
    if latency.stall_probability > 0 and draw.random() < latency.stall_probability:
        seconds += draw.uniform(*latency.stall_s)
    return seconds


def overloaded(draw: random.Random, latency: Latency, seed: int, now: float) -> bool:
    """Whether a call now meets an overloaded model. Once in each stretch of `burst_every_s` it is, for a while."""
    if latency.burst_every_s <= 0:
        return False
    stretch = math.floor(now / latency.burst_every_s)
    room = max(0.0, latency.burst_every_s - latency.burst_s)
    start = stretch * latency.burst_every_s + room * random.Random(f"{seed}:burst:{stretch}").random()  # noqa: S311  # a simulation
    return start <= now < start + latency.burst_s and draw.random() < latency.burst_probability


class Regimes:
    """Which regime holds when: a chain drawn from the seed, over which single stretches can be laid by hand.

    Args:
        times: mean stays, or one regime for all time.
        seed: of the chain.
        forced: (from, regime) pairs laid over it, in order of time; None ends one.
    """

    def __init__(
        self, times: JobTimes, seed: int, forced: list[tuple[float, RegimeName | None]] | None = None
    ) -> None:
        self._times = times
        self._draw = random.Random(f"{seed}:regimes")  # noqa: S311  # a simulation
        self._starts: list[float] = [0.0]
        self._names: list[RegimeName] = ["good"]
        self._end = self._stay("good")
        self.forced = list(forced or [])

    def force(self, regime: RegimeName | None, now: float) -> None:
        """From now on this regime holds; None: the chain again."""
        self.forced = [(start, name) for start, name in self.forced if start < now]
        self.forced.append((now, regime))

    def at(self, now: float) -> tuple[RegimeName, float]:
        """The regime at a time, and when it ends (infinite: not by itself)."""
        place = bisect_right([start for start, _ in self.forced], now)
        until = self.forced[place][0] if place < len(self.forced) else math.inf
        forced = self.forced[place - 1][1] if place else None
        if forced is not None:
            return forced, until
        if self._times.regime is not None:
            return self._times.regime, until
        name, end = self._of_chain(now)
        return name, min(end, until)

    def _of_chain(self, now: float) -> tuple[RegimeName, float]:
        while self._end <= now:
            name = self._next(self._names[-1])
            self._starts.append(self._end)
            self._names.append(name)
            self._end += self._stay(name)
        place = bisect_right(self._starts, now) - 1
        return self._names[place], self._starts[place + 1] if place + 1 < len(self._starts) else self._end

    def _next(self, name: RegimeName) -> RegimeName:
        if name != "stuck" and self._draw.random() < self._times.stuck_share:
            return "stuck"
        return "busy" if name == "good" else "good"

    def _stay(self, name: RegimeName) -> float:
        hours = {
            "good": self._times.good_hours,
            "busy": self._times.busy_hours,
            "stuck": self._times.stuck_hours,
        }
        return max(1.0, self._draw.expovariate(1.0) * hours[name] * _HOUR)
