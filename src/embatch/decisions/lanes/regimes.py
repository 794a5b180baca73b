"""Turnaround of jobs: a queue whose wait depends on a regime that all jobs of a model share, then rows at some rate.

Three regimes, because outages hit every job of a model at once: *good*, *busy*, *stuck*. How probable each is now
follows from how long jobs waited, and how long those under way have waited so far. `latency` owns what is learned here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embatch.decisions.lanes.scale import normal_quantile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.decisions.lanes.scale import Scale

REGIMES = ("good", "busy", "stuck")

_GRID_FIRST_S, _GRID_STEP, _GRID_LAST_S = 2.0, 1.35, 180_000.0
_TAIL = 3.0  # of the stuck regime's Lomax distribution: the longer it lasted, the longer it goes on
_POINTS = tuple(normal_quantile((i + 0.5) / 3) for i in range(3))  # rates of a job, for a sum over three
_LEAST_WEIGHT = 1e-3  # of a regime: what is less probable is left out
_INDEPENDENT = 3.0  # jobs count as so many independent witnesses at most: they are not, quite
_TINY = 1e-12
_MOST_COUNTS = 40.0
_PRIOR_COUNTS = 8.0  # jobs that the prior's shares are worth


def _grid() -> tuple[float, ...]:
    times = [_GRID_FIRST_S]
    while times[-1] < _GRID_LAST_S:
        times.append(times[-1] * _GRID_STEP)
    return tuple(times)


GRID = _grid()
"""Seconds from now at which curves are known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A job under way."""

    items: int
    age_s: float
    """Since it was accepted."""
    running_s: float | None = None
    """Since it was first seen to run; None while it waits, or nothing is known."""
    completed: int | None = None
    ending_s: float | None = None
    """Expected seconds to its end if it was cancelled; None if it was not."""
    behind_s: float | None = None
    """Expected seconds until it runs, if it only waits for jobs of the same run; None if it waits for the provider."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pile:
    """Items that would be submitted now as equal jobs, side by side."""

    items: float
    jobs: int
    size: float | None = None
    """Items of each; None: all of them, spread evenly."""
    waves: float = 1.0
    """How often that many are needed, one after the other, until all items are done."""
    abreast: float = math.inf
    """How many of them the provider works on at once."""
    delay_s: float = 0.0
    """Until they can be submitted."""

    @property
    def each(self) -> float:
        """Items of each job."""
        return self.items / self.jobs / self.waves if self.size is None else self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """When several jobs will all have ended, at each time of `GRID`."""

    done: tuple[float, ...]
    """P(all ended by then)."""
    left: tuple[float, ...]
    """Items whose jobs have not ended by then, if not all have."""

    def within(self, seconds: float) -> float:
        """P(all ended within `seconds`), interpolated."""
        if seconds <= 0:
            return 0.0
        last_t, last_p = 0.0, 0.0
        for t, p in zip(GRID, self.done, strict=True):
            if t >= seconds:
                return last_p + (p - last_p) * (seconds - last_t) / (t - last_t)
            last_t, last_p = t, p
        return self.done[-1]

    def quantile(self, probability: float) -> float:
        """Seconds by which all have ended with this probability; infinity if that lies beyond the grid."""
        last_t, last_p = 0.0, 0.0
        for t, p in zip(GRID, self.done, strict=True):
            if p >= probability:
                return last_t + (t - last_t) * (probability - last_p) / max(_TINY, p - last_p)
            last_t, last_p = t, p
        return math.inf


@dataclass(slots=True, kw_only=True)
class Queue:
    """How long a job waits before its first row, by regime."""

    good: Scale
    busy: Scale
    stuck_s: float

    def cdf(self, regime: int, seconds: float) -> float:
        """P(wait <= seconds) for a job submitted in a regime."""
        if seconds <= 0:
            return 0.0
        if regime == 0:
            return self.good.cdf(seconds)
        if regime == 1:
            return self.busy.cdf(seconds)
        return 1.0 - math.pow(1.0 + seconds / (self.stuck_s * (_TAIL - 1)), -_TAIL)

    def density(self, regime: int, seconds: float) -> float:
        """Of the wait's logarithm."""
        if regime == 0:
            return self.good.density_of_log(seconds)
        if regime == 1:
            return self.busy.density_of_log(seconds)
        scale_s = self.stuck_s * (_TAIL - 1)
        return _TAIL * seconds / scale_s * math.pow(1.0 + seconds / scale_s, -_TAIL - 1)

    def typical(self, regime: int) -> float:
        """Median wait of a job that follows another in a regime; what follows a stuck one finds a good one."""
        return self.busy.median if regime == 1 else self.good.median


class Regimes:
    """How probable each regime is, and what follows from it.

    Args:
        waits: of the queue.
        shares: how probable each regime is while nothing was seen.
        memory_s: time after which a regime that was seen says little.
    """

    def __init__(self, *, waits: Queue, shares: tuple[float, float, float], memory_s: float) -> None:
        self.waits = waits
        self.counts = [share * _PRIOR_COUNTS for share in shares]
        self.latest = list(shares)
        self._at: float | None = None
        self._memory_s = memory_s

    def now(self, now: float, jobs: Sequence[Pending] = ()) -> list[float]:
        """P(regime), given what was learned and the jobs under way."""
        weights = self._faded(now)
        live = [job for job in jobs if job.ending_s is None]
        if not live:
            return weights
        power = min(1.0, _INDEPENDENT / len(live))
        for regime in range(3):
            for job in live:
                weights[regime] *= max(_TINY, self._seen(regime, job)) ** power
        return _normalized(weights)

    def learn(self, now: float, wait_s: float, seconds: float) -> None:
        """A job ended that had waited so long, and was accepted `seconds` ago."""
        then = self._faded(now - seconds)
        weights = _normalized(
            [share * max(_TINY, self.waits.density(r, wait_s)) for r, share in enumerate(then)]
        )
        self.waits.good.learn(wait_s, share=weights[0])
        self.waits.busy.learn(wait_s, share=weights[1])
        total = sum(self.counts)
        keep = min(1.0, _MOST_COUNTS / (total + 1))
        self.counts = [count * keep + weight for count, weight in zip(self.counts, weights, strict=True)]
        # What it was when the job was submitted has faded since then; a job that ran says that it is over now.
        weights = self._relaxed(weights, seconds)
        if weights[2] > 0.5:
            weights = _normalized([weights[0] + weights[2] / 2, weights[1] + weights[2] / 2, _TINY])
        self.latest, self._at = weights, now

    def remember(self, now: float, jobs: Sequence[Pending]) -> None:
        """Keep what jobs under way say now: they will say nothing more."""
        self.latest, self._at = self.now(now, jobs), now

    def restore(self, counts: Any, shares: Any, at: float) -> None:
        """Take what was kept, if it makes sense."""
        for name, data in (("counts", counts), ("latest", shares)):
            if isinstance(data, (list, tuple)) and len(data) == 3:
                numbers = [float(x) for x in data if isinstance(x, (int, float)) and 0 <= x <= 1000]
                if len(numbers) == 3 and sum(numbers) > 0:
                    setattr(self, name, numbers if name == "counts" else _normalized(numbers))
                    self._at = at if name == "latest" else self._at

    def ends(self, now: float, rows: Scale, finish_s: float, jobs: Sequence[Pending]) -> Ends:
        """When jobs under way will end, regime by regime."""
        weights = self.now(now, jobs)
        kept = [(regime, weight) for regime, weight in enumerate(weights) if weight >= _LEAST_WEIGHT]
        total = sum(weight for _, weight in kept)
        parts = []
        for regime, weight in kept:
            done, left = [1.0] * len(GRID), [0.0] * len(GRID)
            for job, count in _alike(jobs):
                for i, p in enumerate(self._ending(regime, rows, finish_s, job)):
                    done[i] *= p**count
                    left[i] += (1 - p) * job.items * count
            parts.append((regime, weight / total, done, left))
        return Ends(self, rows, finish_s, parts)

    def pile(self, regime: int, rows: Scale, finish_s: float, pile: Pile) -> tuple[list[float], list[float]]:
        """P(all jobs submitted now have ended), and the items left if not all have, at each time of the grid."""
        per_job = pile.each
        run = per_job / rows.median + finish_s
        turns = max(1.0, pile.jobs / pile.abreast)
        later = pile.delay_s + (turns - 1) * run * pile.waves + self._later(regime, run, pile.waves - 1)
        runs = [later + per_job / math.exp(rows.log_median + z * rows.reach) + finish_s for z in _POINTS]
        power = pile.jobs / turns
        cdf = self.waits.cdf
        done = [(sum(cdf(regime, t - run) for run in runs if t > run) / len(runs)) ** power for t in GRID]
        if pile.waves <= 1:
            return done, [pile.items * (1 - p) for p in done]
        # Wave by wave, items get fewer evenly, once the first wave has left the queue.
        whole = later + run + self.waits.typical(regime)
        left = [
            pile.items * max(1e-3, 1 - cdf(regime, t) * min(1.0, t / whole)) * (1 - p)
            for t, p in zip(GRID, done, strict=True)
        ]
        return done, left

    def _later(self, regime: int, run: float, waves: float) -> float:
        """Seconds that waves after the first take: at the pace of the regime while it lasts, then at that of all."""
        if waves <= 0:
            return 0.0
        step = run + self.waits.typical(regime)
        fast = min(waves, self._memory_s / step)
        total = sum(self.counts)
        busy = self.counts[1] / total
        usual = run + (1 - busy) * self.waits.good.median + busy * self.waits.busy.median
        return fast * step + (waves - fast) * usual / max(0.3, 1 - self.counts[2] / total)

    def _ending(self, regime: int, rows: Scale, finish_s: float, job: Pending) -> list[float]:
        """P(this job has ended), at each time of the grid from now."""
        if job.ending_s is not None:
            return [1 - math.exp(-t / max(0.1, job.ending_s)) for t in GRID]
        rates = [math.exp(rows.log_median + z * rows.reach) for z in _POINTS]
        if job.running_s is not None or job.behind_s is not None:
            return _running(job, rates, finish_s)
        past = self.waits.cdf(regime, job.age_s)
        open_ = max(_TINY, 1 - past)
        runs = [job.items / rate + finish_s for rate in rates]
        waits = self.waits
        return [
            sum(max(0.0, waits.cdf(regime, job.age_s + t - run) - past) for run in runs if t > run)
            / (len(runs) * open_)
            for t in GRID
        ]

    def _seen(self, regime: int, job: Pending) -> float:
        """How probable what is seen of a job would be in a regime."""
        if job.behind_s is not None:
            return 1.0
        if job.running_s is not None:
            return self.waits.density(regime, max(1.0, job.age_s - job.running_s))
        return 1 - self.waits.cdf(regime, job.age_s)

    def _faded(self, now: float) -> list[float]:
        return self._relaxed(self.latest, math.inf if self._at is None else now - self._at)

    def _relaxed(self, weights: Sequence[float], seconds: float) -> list[float]:
        keep = math.exp(-max(0.0, seconds) / self._memory_s)
        total = sum(self.counts)
        return [
            keep * weight + (1 - keep) * count / total
            for weight, count in zip(weights, self.counts, strict=True)
        ]


class Ends:
    """When jobs under way will end, and what it would be with more of them: made once, asked for many plans."""

    def __init__(
        self,
        regimes: Regimes,
        rows: Scale,
        finish_s: float,
        parts: Sequence[tuple[int, float, list[float], list[float]]],
    ) -> None:
        self._regimes = regimes
        self._rows = rows
        self._finish_s = finish_s
        self._parts = parts

    def curve(self, pile: Pile | None = None) -> Curve:
        """Of all jobs under way, and of a pile that would be submitted now."""
        done, left = [0.0] * len(GRID), [0.0] * len(GRID)
        for regime, weight, base, items in self._parts:
            if pile is None:
                pairs = zip(base, items, strict=True)
            else:
                more, rest = self._regimes.pile(regime, self._rows, self._finish_s, pile)
                pairs = zip(
                    [b * m for b, m in zip(base, more, strict=True)],
                    [n + m for n, m in zip(items, rest, strict=True)],
                    strict=True,
                )
            for i, (p, count) in enumerate(pairs):
                done[i] += weight * p
                left[i] += weight * count
        return Curve(
            done=tuple(min(1.0, p) for p in done),
            left=tuple(count / max(_TINY, 1 - p) for count, p in zip(left, done, strict=True)),
        )


def _running(job: Pending, rates: Sequence[float], finish_s: float) -> list[float]:
    """For a job whose rows are being worked on, or will be next: what it has done tells its rate."""
    run_s = job.running_s or 0.0
    if job.completed and run_s > 5:
        rate = job.completed / run_s
        rest = max(0.0, job.items - job.completed)
        ends = [rest / (rate * f) + finish_s for f in (0.75, 0.95, 1.05, 1.3)]
    else:
        ends = [
            max(0.1 * job.items / rate, job.items / rate - run_s) + finish_s + (job.behind_s or 0.0)
            for rate in rates
        ]
    # Each end is a guess with a spread of its own, so that a late job is not thought to end at once for ever.
    return [sum(1 - math.exp(-((t / max(1.0, end)) ** 3)) for end in ends) / len(ends) for t in GRID]


def _alike(jobs: Sequence[Pending]) -> list[tuple[Pending, int]]:
    """Jobs that were submitted together and have come as far count as one, so many times."""
    found: dict[tuple[object, ...], tuple[Pending, int]] = {}
    for job in jobs:
        key = (
            _rough(job.age_s),
            _rough(job.running_s),
            None if job.completed is None else round(10 * job.completed / max(1, job.items)),
            _rough(job.items),
            job.ending_s is None,
            _rough(job.behind_s),
        )
        first, count = found.get(key, (job, 0))
        found[key] = (first, count + 1)
    return list(found.values())


def _rough(value: float | None) -> int | None:
    """To 12 %: jobs that differ by less are taken as alike."""
    return None if value is None else round(8 * math.log(10.0 + value))


def _normalized(weights: Sequence[float]) -> list[float]:
    total = sum(weights)
    return [weight / total for weight in weights] if total > 0 else [1 / len(weights)] * len(weights)
