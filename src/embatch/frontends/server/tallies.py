"""Counts and logarithmic histograms under the board: what one series (a model and a priority) did.

A histogram's borders are powers of 2^(1/8), so that a percentile is right within 4.5 %, and every eighth border is one
of `SECONDS`, the borders that Prometheus gets. Plain data without locks; the board keeps threads apart.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from embatch.seen import AskSeen, BatchSeen

SECONDS = tuple(0.0005 * 2**octave for octave in range(18))
"""Upper borders of latencies for Prometheus: 0.5 ms to 65.5 s."""
COUNTS = tuple(2**power for power in range(21))
"""Upper borders of sizes of batches, in texts and in tokens."""
SHARES = tuple(step / 20 for step in range(1, 21))
"""Upper borders of the share of a batch that is padding."""

_STEPS = 8  # buckets in an octave
_FLOOR = SECONDS[0] / 2**5  # shorter times are all alike
_LAST = (5 + 18) * _STEPS + 1  # longer than the last border


def bucket_of(seconds: float) -> int:
    """The bucket of a time: 0 below the floor, then eight to an octave."""
    if seconds < _FLOOR:
        return 0
    return min(_LAST, 1 + int(math.log2(seconds / _FLOOR) * _STEPS))


def percentile(buckets: Mapping[int, int], share: float) -> float | None:
    """The time that a share of all stayed under, in seconds; None if there are none."""
    total = sum(buckets.values())
    if not total:
        return None
    rank = max(1, math.ceil(share * total))
    reached = 0
    for bucket in sorted(buckets):
        reached += buckets[bucket]
        if reached >= rank:
            break
    # The middle of the bucket, on its logarithmic scale.
    return float(_FLOOR * 2 ** ((bucket - 0.5) / _STEPS))


def cumulative_seconds(buckets: Mapping[int, int]) -> list[int]:
    """How many were at most as long as each of `SECONDS`, and all of them at the end."""
    found = []
    for octave in range(len(SECONDS)):
        border = (octave + 5) * _STEPS
        found.append(sum(count for bucket, count in buckets.items() if bucket <= border))
    return [*found, sum(buckets.values())]


def cumulative(buckets: Mapping[int, int], borders: int) -> list[int]:
    """How many were at most as large as each of so many borders, and all of them at the end."""
    found = [sum(count for bucket, count in buckets.items() if bucket <= border) for border in range(borders)]
    return [*found, sum(buckets.values())]


class Tally:
    """What one series did, in a second or since the start."""

    __slots__ = (
        "batch_errors",
        "batch_items",
        "batch_padded",
        "batch_tokens",
        "batches",
        "cached",
        "device_seconds",
        "errors",
        "inputs",
        "items",
        "outcomes",
        "padded_tokens",
        "padding",
        "real_tokens",
        "seconds",
        "seconds_sum",
        "tokens",
        "wait_sum",
        "waits",
    )

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.inputs = 0
        """Of answered asks."""
        self.tokens = 0
        """Of answered asks."""
        self.cached = 0
        self.seconds: Counter[int] = Counter()
        """Histogram of the whole time of answered asks."""
        self.seconds_sum = 0.0
        self.waits: Counter[int] = Counter()
        """Histogram of their time in the queue."""
        self.wait_sum = 0.0
        self.batches = 0
        self.batch_errors: Counter[str] = Counter()
        self.items = 0
        self.real_tokens = 0
        self.padded_tokens = 0
        self.device_seconds = 0.0
        self.batch_items: Counter[int] = Counter()
        self.batch_tokens: Counter[int] = Counter()
        self.padding: Counter[int] = Counter()
        """Histogram of the share of a batch that is padding."""
        self.batch_padded = 0.0
        """Sum of these shares."""

    def add_ask(self, seen: AskSeen) -> None:
        """Count an ask."""
        self.outcomes[seen.outcome] += 1
        if seen.outcome != "answered":
            if seen.error:
                self.errors[seen.error] += 1
            return
        self.inputs += seen.inputs
        self.tokens += seen.tokens
        self.cached += seen.cached
        self.seconds[bucket_of(seen.seconds)] += 1
        self.seconds_sum += seen.seconds
        self.waits[bucket_of(seen.waited_s)] += 1
        self.wait_sum += seen.waited_s

    def add_batch(self, seen: BatchSeen) -> None:
        """Count a batch. One that failed counts its time and its error only."""
        self.batches += 1
        self.device_seconds += seen.seconds
        if seen.error:
            self.batch_errors[seen.error] += 1
            return
        self.items += seen.items
        self.real_tokens += seen.tokens
        self.padded_tokens += seen.padded_tokens
        self.batch_items[max(0, seen.items - 1).bit_length()] += 1
        self.batch_tokens[max(0, seen.padded_tokens - 1).bit_length()] += 1
        if seen.padded_tokens > 0:
            share = max(0.0, 1.0 - seen.tokens / seen.padded_tokens)
            self.padding[max(0, math.ceil(share * len(SHARES)) - 1)] += 1
            self.batch_padded += share

    def add(self, other: Tally) -> None:
        """Count all that another counted."""
        for name in self.__slots__:
            value = getattr(other, name)
            if isinstance(value, Counter):
                if value:
                    getattr(self, name).update(value)
            elif value:
                setattr(self, name, getattr(self, name) + value)

    def copy(self) -> Tally:
        """A tally of its own with the same counts."""
        return summed([self])

    def to_dict(self) -> dict[str, Any]:
        """The counts, as the dashboard gets them."""
        return {
            "asks": dict(self.outcomes),
            "errors": dict(self.errors),
            "inputs": self.inputs,
            "tokens": self.tokens,
            "cached": self.cached,
            "batches": self.batches,
            "batch_errors": dict(self.batch_errors),
            "items": self.items,
            "real_tokens": self.real_tokens,
            "padded_tokens": self.padded_tokens,
            "device_seconds": self.device_seconds,
        }

    def rates(self, span_s: float) -> dict[str, Any]:
        """Figures of so many seconds: throughput, percentiles, shapes of batches."""
        good = self.batches - sum(self.batch_errors.values())
        return {
            "span_s": span_s,
            "asks": dict(self.outcomes),
            "asks_per_s": sum(self.outcomes.values()) / span_s,
            "inputs_per_s": self.inputs / span_s,
            "tokens_per_s": self.tokens / span_s,
            "items_per_s": self.items / span_s,
            "cached": self.cached,
            "latency_s": _times(self.seconds, self.seconds_sum),
            "wait_s": _times(self.waits, self.wait_sum),
            "batches_per_s": self.batches / span_s,
            "batch_errors": sum(self.batch_errors.values()),
            "items_per_batch": self.items / good if good else None,
            "padding": 1.0 - self.real_tokens / self.padded_tokens if self.padded_tokens else None,
            "device_busy": self.device_seconds / span_s,
        }


def summed(tallies: Iterable[Tally]) -> Tally:
    """One tally of all."""
    total = Tally()
    for tally in tallies:
        total.add(tally)
    return total


def _times(buckets: Mapping[int, int], total: float) -> dict[str, float | None]:
    count = sum(buckets.values())
    return {
        "count": count,
        "mean": total / count if count else None,
        "p50": percentile(buckets, 0.50),
        "p90": percentile(buckets, 0.90),
        "p99": percentile(buckets, 0.99),
    }
