"""Rate limits as token buckets per model: how much of a minute and of a day is used, and when there is room again.

Sans-IO: `now` is an argument.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from embatch.emulator.options import Quotas

Axis = Literal["requests", "items", "tokens"]
AXES: tuple[Axis, ...] = ("requests", "items", "tokens")
MINUTE = 60.0
DAY = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Exceeded:
    """A limit that a request would go over."""

    axis: Axis
    per: Literal["minute", "day"]
    limit: int
    used: int
    asked: int
    wait_s: float
    """Until there is room; infinite if there never is, because one request alone is over the limit."""


class Bucket:
    """A bucket of one minute's amount that fills evenly.

    Args:
        limit: its size, and what flows in per minute.
        now: when it is full.
    """

    def __init__(self, limit: int, now: float) -> None:
        self.limit = limit
        self._level = float(limit)
        self._at = now

    def level(self, now: float) -> float:
        """What is in it."""
        if now > self._at:
            self._level = min(float(self.limit), self._level + (now - self._at) * self.limit / MINUTE)
            self._at = now
        return self._level

    def wait_s(self, amount: float, now: float) -> float:
        """Until so much is in it; infinite if it never is."""
        missing = amount - self.level(now)
        if missing <= 0:
            return 0.0
        return missing * MINUTE / self.limit if amount <= self.limit else math.inf

    def take(self, amount: float, now: float) -> None:
        """Take so much out."""
        self._level = self.level(now) - amount

    def resize(self, limit: int, now: float) -> None:
        """Another size from now on; what is in it stays, as far as it fits."""
        self._level = min(self.level(now), float(limit))
        self.limit = limit


class Meter:
    """The quotas of one model.

    Args:
        quotas: limits of a minute and of a day.
        now: when all of it is unused.
        midnight: virtual second of some midnight at which days begin.
    """

    def __init__(self, quotas: Quotas, now: float, midnight: float = 0.0) -> None:
        self._midnight = midnight
        self._buckets: dict[Axis, Bucket] = {}
        self._day_limits: dict[Axis, int] = {}
        self._day = -1
        self._used: dict[Axis, int] = dict.fromkeys(AXES, 0)
        self.change(quotas, now)

    def change(self, quotas: Quotas, now: float) -> None:
        """Other limits from now on."""
        limits: dict[Axis, tuple[int | None, int | None]] = {
            "requests": (quotas.requests, quotas.requests_day),
            "items": (quotas.items, quotas.items_day),
            "tokens": (quotas.tokens, quotas.tokens_day),
        }
        for axis, (minute, day) in limits.items():
            if minute is None:
                self._buckets.pop(axis, None)
            elif axis in self._buckets:
                self._buckets[axis].resize(minute, now)
            else:
                self._buckets[axis] = Bucket(minute, now)
            self._day_limits.pop(axis, None)
            if day is not None:
                self._day_limits[axis] = day

    def admit(self, now: float, *, items: int, tokens: int) -> Exceeded | None:
        """Take one request's amounts from all limits; or, when one has no room, from none, and say which."""
        self._turn_day(now)
        amounts: dict[Axis, int] = {"requests": 1, "items": items, "tokens": tokens}
        for axis, limit in self._day_limits.items():
            if self._used[axis] + amounts[axis] > limit:
                wait = self._midnight + (self._day + 1) * DAY - now
                return Exceeded(
                    axis=axis,
                    per="day",
                    limit=limit,
                    used=self._used[axis],
                    asked=amounts[axis],
                    wait_s=wait,
                )
        short = [(bucket.wait_s(amounts[axis], now), axis) for axis, bucket in self._buckets.items()]
        wait, axis = max(short, default=(0.0, "requests"))
        if wait > 0:
            bucket = self._buckets[axis]
            used = round(bucket.limit - bucket.level(now))
            return Exceeded(
                axis=axis, per="minute", limit=bucket.limit, used=used, asked=amounts[axis], wait_s=wait
            )
        for axis, bucket in self._buckets.items():
            bucket.take(amounts[axis], now)
        for axis in AXES:
            self._used[axis] += amounts[axis]
        return None

    def left(self, axis: Axis, now: float) -> tuple[int, int, float] | None:
        """Limit of the minute, what is left of it, seconds until all of it is there again; None: no limit."""
        bucket = self._buckets.get(axis)
        if bucket is None:
            return None
        return bucket.limit, max(0, int(bucket.level(now))), bucket.wait_s(bucket.limit, now)

    def _turn_day(self, now: float) -> None:
        day = math.floor((now - self._midnight) / DAY)
        if day != self._day:
            self._day = day
            self._used = dict.fromkeys(AXES, 0)
