"""When the next synchronous call may be sent to a provider's model under one key, and how much it may hold.

A pure state machine: it is told what was sent and what came of it, and is asked for the delay before the next call. It
stands between the strategy, which wants to send, and the lanes, which do. It does not choose items, repeat calls or
stop them: it only says when. Quotas are `pacing_axis`, a provider in trouble is `pacing_health`.

Ideas: the retry budget and the measured cap of a growing rate are those of the AWS SDKs' adaptive mode, growth is
CUBIC's, the number of calls under way follows AIMD.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embatch.decisions.pacing_axis import Axis, Slot
from embatch.decisions.pacing_health import HARD, REFUSED, Health

if TYPE_CHECKING:
    from embatch.remote import ErrorKind, LimitHints, RateLimits

UNLIMITED = 1_000_000_000
"""What `room` says where nothing limits a call."""

_TOKENS_USE = 0.99  # tokens are estimates until the provider has counted them
_SHARE = 1 / 30  # of a minute's quota for which a call waits: larger ones leave gaps that nothing fits into
_LONG = 2.0  # times the mean: an item of that length should fit into the room that a call waits for
_SHORTEST_S = 0.001  # a delay that is not 0: less would make a caller ask again and again
_FOLLOW = 0.1  # weight of a call's own ratio of used to estimated tokens
_RATIO = (0.25, 4.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What can be kept up now, a second; infinite where no limit is known."""

    items_per_s: float
    tokens_per_s: float
    requests_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What a run has learned of a provider: plain numbers, to begin the next run with. None: nothing."""

    requests: float | None = None
    """A minute."""
    items: float | None = None
    """A minute."""
    tokens: float | None = None
    """A minute."""
    parallel: int | None = None
    """Calls under way."""


@dataclass(slots=True)
class _Sent:
    """A call under way, and where it was counted."""

    at: float
    items: int
    tokens: int
    """As the caller said."""
    charged: int
    """Tokens as they were counted."""
    slots: tuple[Slot, Slot, Slot]
    """Requests, items, tokens."""

    @property
    def slot_gone(self) -> bool:
        """Whether it was sent more than a minute ago."""
        return self.slots[0].gone


class Pacer:
    """Says when calls may go to one model under one key.

    A call may be sent when `delay` is 0 and fewer than `parallel` calls are under way. `delay` and `room` are about
    quotas and pauses only: the end of a call is an event, no time that could be told in advance.

    Args:
        limits: quotas of a minute, as far as they are known.
        now: seconds, by a clock that does not go back; a `now` below an earlier one counts as that.
        parallel: most calls that may be under way at once.
        learned: what an earlier run has learned.
    """

    def __init__(
        self, limits: RateLimits, *, now: float, parallel: int = 64, learned: Learned | None = None
    ) -> None:
        known = learned or Learned()
        self._requests = Axis(limits.requests, now=now, guess=known.requests)
        self._items = Axis(limits.items, now=now, guess=known.items)
        self._tokens = Axis(limits.tokens, now=now, use=_TOKENS_USE, guess=known.tokens)
        self._axes = (self._requests, self._items, self._tokens)
        self._health = Health(now=now, ceiling=parallel, parallel=known.parallel)
        self._flying: list[_Sent] = []
        self._ratio = 1.0
        self._now = now
        self._accepted = False  # whether anything that was sent after the last refusal was answered
        self._stopped: ErrorKind | None = None

    @property
    def in_flight(self) -> int:
        """Calls under way."""
        return len(self._flying)

    @property
    def parallel(self) -> int:
        """Calls that may be under way at once.

        While the pacer probes whether the provider takes calls again this is one, besides those that were sent
        before: a call that hangs must not keep the probe from being sent.
        """
        if not self._health.probing:
            return self._health.parallel
        return 1 + sum(call.at < self._health.round for call in self._flying)

    @property
    def stopped(self) -> ErrorKind | None:
        """Why nothing can be sent any more in this run: a day's quota, money, the key."""
        return self._stopped

    def delay(self, now: float, items: int, tokens: int) -> float:
        """Seconds until a call of this size may go, 0.0 for now; infinity if none can in this run.

        Calls of several items that are larger than some seconds' worth of the quota do not wait for all of it: the
        delay is that of a part, and `room` tells then how much that is. Calls of one item cannot be cut: they wait
        until it fits, and if it has more tokens than a whole minute takes, the delay is infinite. So if the first
        item that waits does not fit into the room by itself, ask for its own delay.
        """
        self._advance(now)
        if self._stopped is not None or self._never(items, tokens):
            return math.inf
        share = 1.0 if items <= 1 else max(_SHARE, 2 / self._requests.whole)
        charge = self._charge_of(tokens)
        wait = max(
            self._health.until - self._now,
            self._requests.delay(1),
            self._items.delay(items, share),
            self._tokens.delay(charge, share, _LONG * charge / max(1, items)),
        )
        return 0.0 if wait <= 0 else max(wait, _SHORTEST_S)

    def room(self, now: float) -> tuple[int, int]:
        """How many items and tokens one call may hold that is sent right now; (0, 0) while none may be."""
        self._advance(now)
        if self._stopped is not None or self._health.until > self._now or self._requests.room() < 1:
            return (0, 0)
        items = int(min(self._items.room(), UNLIMITED))
        tokens = int(min(self._tokens.room() / self._ratio, UNLIMITED))
        return (items, tokens) if items > 0 and tokens > 0 else (0, 0)

    def sent(self, now: float, items: int, tokens: int) -> None:
        """A call was sent. `tokens` is an estimate."""
        self._advance(now)
        charged = self._charge_of(tokens)
        slots = (self._requests.charge(1), self._items.charge(items), self._tokens.charge(charged))
        self._flying.append(_Sent(self._now, items, tokens, charged, slots))

    def answered(
        self,
        now: float,
        items: int,
        tokens: int,
        *,
        used_tokens: int | None = None,
        hints: LimitHints | None = None,
    ) -> None:
        """A call brought results.

        Args:
            now: seconds.
            items: as `sent` was told.
            tokens: as `sent` was told.
            used_tokens: as the provider counted; None if it does not say.
            hints: what the answer's headers say.
        """
        self._advance(now)
        call, later = self._land(items, tokens)
        if call is not None and used_tokens is not None and used_tokens >= 0:
            self._tokens.correct(call.slots[2], used_tokens - call.charged)
            if tokens > 0 and used_tokens > 0:
                low, high = _RATIO
                self._ratio += _FOLLOW * (min(high, max(low, used_tokens / tokens)) - self._ratio)
        sent_at = self._now if call is None else call.at
        if self._health.news(sent_at):
            self._accepted = True
        else:
            for axis, accepted in zip(self._axes, self._answered(), strict=True):
                axis.proven(accepted)
        self._health.answered(sent_at)
        if hints is not None:
            self._believe(hints, later)

    def failed(
        self,
        now: float,
        items: int,
        tokens: int,
        kind: ErrorKind,
        *,
        retry_after_s: float | None = None,
        draw: float = 0.5,
    ) -> None:
        """A call was refused or lost.

        Args:
            now: seconds.
            items: as `sent` was told.
            tokens: as `sent` was told.
            kind: what happened.
            retry_after_s: how long the provider asks to wait; never undercut, for no call.
            draw: drawn evenly from [0, 1): spreads the retries of many processes.
        """
        self._advance(now)
        call, _ = self._land(items, tokens)
        sent_at = self._now if call is None else call.at
        after = None if retry_after_s is None or not math.isfinite(retry_after_s) else max(0.0, retry_after_s)
        if call is not None and kind not in HARD:
            # Refused as a whole: it was a request, but nothing of it was worked on.
            self._items.correct(call.slots[1], -call.items)
            self._tokens.correct(call.slots[2], -call.charged)
        if kind.stops:
            self._stopped = self._stopped or kind
        elif kind in REFUSED:
            self._refused(sent_at, after, draw)
        elif kind in HARD:
            self._health.failed(self._now, sent_at, kind, after, draw)
        else:
            self._health.reached(sent_at)
        if not kind.stops:
            for axis in self._axes:
                axis.hold(self._health.until)

    def rate(self) -> Rate:
        """What can be kept up now: the known quota, or what was learned of it. Nothing once `stopped`."""
        if self._stopped is not None:
            return Rate(items_per_s=0.0, tokens_per_s=0.0, requests_per_s=0.0)
        return Rate(
            items_per_s=self._items.rate,
            tokens_per_s=self._tokens.rate / self._ratio,
            requests_per_s=self._requests.rate,
        )

    def learned(self) -> Learned:
        """What to begin the next run with."""
        return Learned(
            requests=self._requests.guessed,
            items=self._items.guessed,
            tokens=self._tokens.guessed,
            parallel=self._health.usual,
        )

    def _advance(self, now: float) -> None:
        self._now = max(self._now, now)
        for axis in self._axes:
            axis.advance(self._now)

    def _charge_of(self, tokens: int) -> int:
        return math.ceil(tokens * self._ratio)

    def _never(self, items: int, tokens: int) -> bool:
        """Whether not even one of these items fits into a whole minute."""
        if any(axis.limit is not None and axis.limit < 1 for axis in self._axes):
            return True
        return items <= 1 and self._tokens.limit is not None and tokens > self._tokens.limit

    def _land(self, items: int, tokens: int) -> tuple[_Sent | None, list[_Sent]]:
        """Take the call that has ended from those under way: the oldest of its size. And those sent after it."""
        for index, call in enumerate(self._flying):
            if call.items == items and call.tokens == tokens:
                del self._flying[index]
                return call, self._flying[index:]
        if not self._flying:
            return None, []
        return self._flying.pop(0), self._flying[:]

    def _refused(self, sent_at: float, retry_after_s: float | None, draw: float) -> None:
        news = self._health.news(sent_at)
        self._health.refused(self._now, sent_at, retry_after_s, draw)
        if not news or not self._accepted:
            return  # all of it is known already, or the quota was used up before anything was sent
        self._accepted = False
        blind = all(axis.limit is None for axis in self._axes)
        for axis, accepted in zip(self._axes, self._answered(), strict=True):
            axis.refused(accepted, self._health.until, learn=blind and axis is not self._requests)

    def _answered(self) -> tuple[int, int, int]:
        """Requests, items and tokens of the last minute, without those of calls under way."""
        flying = [call for call in self._flying if not call.slot_gone]
        return (
            self._requests.window.total - len(flying),
            self._items.window.total - sum(call.items for call in flying),
            self._tokens.window.total - sum(call.charged for call in flying),
        )

    def _believe(self, hints: LimitHints, later: list[_Sent]) -> None:
        """Headers come first: the quota, and what is left of it, less what was sent after the call they are about."""
        sent_later = (len(later), sum(call.charged for call in later))
        said = (
            (self._requests, hints.requests_limit, hints.requests_remaining, hints.requests_reset_s),
            (self._tokens, hints.tokens_limit, hints.tokens_remaining, hints.tokens_reset_s),
        )
        for (axis, limit, remaining, reset_s), under_way in zip(said, sent_later, strict=True):
            if limit is not None and limit > 0:
                axis.believe(limit)
            if remaining is not None and remaining >= 0:
                known = reset_s is not None and math.isfinite(reset_s) and reset_s >= 0
                axis.left(max(0.0, remaining - under_way), reset_s if known and reset_s is not None else 60.0)
