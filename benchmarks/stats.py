"""Summaries over rounds: medians, spreads, and ratios that are taken within a round before they are summarised.

A machine drifts between rounds, and two systems of one round see the same machine. So a ratio is computed per
round, and the median of the ratios is what is reported.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from collections.abc import Sequence


class Spread(TypedDict):
    """Median, lowest and highest of the rounds."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float], *, digits: int = 4) -> Spread:
    """Median, lowest and highest, each rounded to `digits` significant digits.

    >>> spread([3.0, 1.0, 2.0])
    {'median': 2.0, 'low': 1.0, 'high': 3.0}
    """
    return Spread(
        median=significant(median(values), digits),
        low=significant(min(values), digits),
        high=significant(max(values), digits),
    )


def ratios(values: Sequence[float], base: Sequence[float]) -> list[float]:
    """Value over base, round by round."""
    return [value / one for value, one in zip(values, base, strict=True)]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of the values do not exceed.

    >>> percentile([4.0, 1.0, 3.0, 2.0], 0.5)
    2.0
    """
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def significant(value: float, digits: int = 4) -> float:
    """`value` rounded to so many significant digits.

    >>> significant(12345.6, 3)
    12300.0
    """
    return float(f"{value:.{digits}g}")
