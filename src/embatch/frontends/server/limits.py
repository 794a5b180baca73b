"""What one API key may ask for in a minute and at once: token buckets. Pure; the clock is an argument."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embatch.frontends.server.settings import ApiKey

_MINUTE_S = 60.0


@dataclass(slots=True)
class Bucket:
    """So much a minute, refilled all the time, with a minute's worth to begin with.

    What is taken may be more than a minute's worth: then the bucket must be full, and owes the rest afterwards. So
    nothing is refused for ever, and the rate holds on average.
    """

    per_minute: float
    left: float
    at: float
    """When `left` held; seconds."""

    @classmethod
    def full(cls, per_minute: float, now: float) -> Bucket:
        """One that nothing was taken from."""
        return cls(per_minute, per_minute, now)

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until so much may be taken; 0.0 if it may now."""
        self._refill(now)
        missing = min(amount, self.per_minute) - self.left
        # Sums of small refills fall short of whole numbers by rounding.
        return 0.0 if missing <= 1e-6 * self.per_minute else missing / self.per_minute * _MINUTE_S

    def take(self, amount: float, now: float) -> None:
        """Take it, or give back what is negative."""
        self._refill(now)
        self.left = min(self.per_minute, self.left - amount)

    def reset_s(self, now: float) -> float:
        """Seconds until it is full again."""
        self._refill(now)
        return (self.per_minute - self.left) / self.per_minute * _MINUTE_S

    def _refill(self, now: float) -> None:
        self.left = min(self.per_minute, self.left + (now - self.at) / _MINUTE_S * self.per_minute)
        self.at = now


class Allowance:
    """What one key has left.

    Args:
        key: the limits.
        now: seconds, monotonic.
    """

    def __init__(self, key: ApiKey, now: float) -> None:
        requests, tokens = key.requests_per_minute, key.tokens_per_minute
        self.requests = None if requests is None else Bucket.full(requests, now)
        self.tokens = None if tokens is None else Bucket.full(tokens, now)
        self.parallel = key.parallel
        self.under_way = 0

    def headers(self, now: float) -> list[tuple[str, str]]:
        """How it stands, in the headers that OpenAI's clients know; empty without limits by the minute."""
        headers = []
        for name, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            if bucket is not None:
                reset_s = bucket.reset_s(now)
                headers += [
                    (f"x-ratelimit-limit-{name}", str(int(bucket.per_minute))),
                    (f"x-ratelimit-remaining-{name}", str(max(0, math.floor(bucket.left + 1e-6)))),
                    (f"x-ratelimit-reset-{name}", f"{reset_s:.3f}s"),
                ]
        return headers
