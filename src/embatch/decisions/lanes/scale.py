"""A quantity whose logarithm is normal, and whose median is learned: one number with its doubt.

Used by `latency` for every time and rate that it learns. It knows nothing of lanes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

_UNIT = NormalDist()
_ROOT2 = math.sqrt(2.0)
_LEAST_DOUBT = (
    1 / 30
)  # of the spread's square: an observation always moves the median a little, so old ones fade


def normal_cdf(z: float) -> float:
    """P(Z <= z) of the unit normal."""
    return 0.5 * math.erfc(-z / _ROOT2)


def normal_quantile(probability: float) -> float:
    """Z with P(Z <= z) = probability, which is clamped into [1e-6, 1 - 1e-6]."""
    return _UNIT.inv_cdf(min(1 - 1e-6, max(1e-6, probability)))


def highest_of(count: float) -> float:
    """About the median z of the largest among `count` independent unit normals (Blom's positions)."""
    return 0.0 if count <= 1 else normal_quantile((count - 0.375) / (count + 0.25))


@dataclass(slots=True, kw_only=True)
class Scale:
    """A learned median with the spread of single values around it.

    The median's logarithm has a normal belief of variance `doubt`; observing is a Kalman step. Because `doubt` never
    falls below a thirtieth of the spread's square, observations older than about thirty have no weight.
    """

    log_median: float
    spread: float
    """Standard deviation of the logarithm of single values."""
    doubt: float
    """Variance of the belief in `log_median`."""

    @property
    def median(self) -> float:
        """In the quantity's own unit."""
        return math.exp(self.log_median)

    @property
    def reach(self) -> float:
        """Standard deviation of the next value's logarithm: spread and doubt together."""
        return math.sqrt(self.spread**2 + self.doubt)

    @property
    def mean(self) -> float:
        """Expected value of a single one, doubt of the median left out: it would be all tail."""
        return math.exp(self.log_median + self.spread**2 / 2)

    def quantile(self, probability: float) -> float:
        """Of the next single value."""
        return math.exp(self.log_median + self.reach * normal_quantile(probability))

    def cdf(self, value: float) -> float:
        """P(next value <= value)."""
        return 0.0 if value <= 0 else normal_cdf((math.log(value) - self.log_median) / self.reach)

    def density_of_log(self, value: float) -> float:
        """Density of the logarithm of the next value, at `value` > 0."""
        z = (math.log(value) - self.log_median) / self.reach
        return math.exp(-z * z / 2) / (self.reach * math.sqrt(2 * math.pi))

    def learn(self, value: float, *, share: float = 1.0) -> None:
        """Take one value; `share` in (0, 1] is how surely it belongs here."""
        if value <= 0 or share <= 1e-3:
            return
        gain = self.doubt / (self.doubt + self.spread**2 / share)
        self.log_median += gain * (math.log(value) - self.log_median)
        self.doubt = max(self.doubt * (1 - gain), self.spread**2 * _LEAST_DOUBT)


def scale(median: float, spread: float, unsure: float) -> Scale:
    """A prior: its median, the spread of single values, and the standard deviation of the median's own logarithm."""
    return Scale(log_median=math.log(median), spread=spread, doubt=unsure**2)
