"""One axis of a provider's quota, such as items a minute: what was sent, what may go, what refusals have taught.

Three rules hold at once. A *bucket* spreads calls over the minute. A *window* remembers what was sent in the last
minute and never lets it exceed a quota that is known, however the provider counts its minute. A *guess* stands in for
a quota that is not known, or that turned out to be less than was said: it falls when calls are refused and grows again
as CUBIC does. Used by `pacing`, which knows about calls, pauses and errors; nothing of these is in here.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

MINUTE_S = 61.0
"""How long a call counts. A second more than a minute: a call reaches the provider some time after it was sent."""

_SLOT_S = 0.25  # sends this close together are remembered as one, so that memory stays small
_BURST = 1 / 6  # of a minute's quota that may go at once after a rest
_GUESS_BURST_S = 0.5  # the same for a guess, in seconds at its rate: spread evenly, it is accurate
_GUESS_CALL = 1 / 6  # of a guess that one call may hold: a few large calls would find a quota only roughly
_BACK_S = 20.0  # a guess is back where it was refused after this time ...
_SCALE_S = 60.0  # ... and has doubled this much later
_DOUBLING_S = 15.0  # while a guess rests on less than a minute of experience
_KEPT = 1 - (_BACK_S / _SCALE_S) ** 3  # of a guess, after a refusal
_SHORT_S = 10.0
_LEAST = 4.0  # what a call waits for at least, if it needs that much: one of less is hardly a call
_TINY = 1e-9


@dataclass(slots=True)
class Slot:
    """What was sent within a quarter of a second."""

    first: float
    last: float
    amount: int
    gone: bool = False
    """Whether it is older than a minute and counts no more."""


class Window:
    """What was sent in the last minute. Times must not go back."""

    def __init__(self) -> None:
        self._slots: deque[Slot] = deque()
        self.total = 0

    def add(self, now: float, amount: int) -> Slot:
        """Count `amount` as sent now."""
        if self._slots and now - self._slots[-1].first < _SLOT_S:
            slot = self._slots[-1]
            slot.last = now
            slot.amount += amount
        else:
            slot = Slot(now, now, amount)
            self._slots.append(slot)
        self.total += amount
        return slot

    def correct(self, slot: Slot, more: int) -> None:
        """What was sent then turned out to be so much more, or less."""
        if not slot.gone:
            slot.amount += more
            self.total += more

    def forget(self, now: float) -> None:
        """Drop what is older than a minute."""
        while self._slots and self._slots[0].last + MINUTE_S <= now + _TINY:
            slot = self._slots.popleft()
            slot.gone = True
            self.total -= slot.amount

    def since(self, then: float) -> int:
        """How much was sent after `then`."""
        total = 0
        for slot in reversed(self._slots):
            if slot.last <= then:
                break
            total += slot.amount
        return total

    def releases(self) -> list[tuple[float, int]]:
        """When how much stops counting, soonest first."""
        return [(slot.last + MINUTE_S, slot.amount) for slot in self._slots]


@dataclass(slots=True)
class Guess:
    """What a minute's quota may be, as a function of time since it was last refused (CUBIC, RFC 9438, scale-free)."""

    top: float
    """Where it was refused."""
    at: float
    """When sending began again after that."""
    fast: bool
    """Whether it rests on too little: then it doubles until it is refused again."""

    def value(self, now: float) -> float:
        """Units a minute."""
        t = max(0.0, now - self.at)
        if self.fast:
            return self.top * _KEPT * math.pow(2.0, min(t / _DOUBLING_S, 60.0))
        return self.top * (1 + math.pow((t - _BACK_S) / _SCALE_S, 3))


class Axis:
    """How much may be sent when, of one thing that a quota counts.

    Args:
        limit: quota of a minute; None if it is not known.
        now: seconds, by any clock that does not go back.
        use: share of the quota to use at most: less than 1 where amounts are estimates.
        guess: what an earlier run learned about the quota.
    """

    def __init__(
        self, limit: float | None, *, now: float, use: float = 1.0, guess: float | None = None
    ) -> None:
        self.window = Window()
        self._use = use
        self._limit = limit
        self._guess = None if guess is None else Guess(max(1.0, guess), now - _BACK_S, fast=False)
        self._others = 0.0
        self._others_until = now
        self._strikes: list[float] = []
        self._born: float | None = None
        self._now = now
        self._level = self._burst()

    @property
    def limit(self) -> float | None:
        """Quota of a minute as far as it is known."""
        return self._limit

    @property
    def guessed(self) -> float | None:
        """Quota of a minute as learned from refusals; None if there was no need to learn it."""
        return None if self._guess is None else self._guessed()

    @property
    def whole(self) -> float:
        """Most that a minute takes."""
        known = math.inf if self._limit is None else self._usable(self._limit)
        return min(known, math.inf if self._guess is None else max(1.0, self._guessed()))

    @property
    def rate(self) -> float:
        """Units a second that can be kept up."""
        return self.whole / MINUTE_S

    def advance(self, now: float) -> None:
        """Let time pass."""
        if self._level < math.inf:
            self._level += self.rate * (now - self._now)
        self._now = now
        self.window.forget(now)
        if self._guess is not None and self._limit is not None and self._guessed() >= self._limit:
            self._guess = None
        self._level = min(self._level, self._burst())

    def room(self) -> float:
        """How much one call may hold now."""
        if self._level + _TINY < self._burst():
            return max(0.0, min(self._level + _TINY, self._free()))
        return max(0.0, min(self._most(), self._free()))

    def delay(self, amount: float, share: float = 1.0, least: float = 0.0) -> float:
        """Seconds until `amount` may go, or a `share` of a minute's quota, and `least`, if that is less."""
        if self.whole == math.inf:
            return 0.0
        amount = min(amount, self._most(), max(self.whole * share, least, _LEAST))
        short = min(amount, self._burst()) - self._level
        wait = 0.0 if short <= _TINY else short / self.rate
        return max(wait, self._window_delay(amount))

    def charge(self, amount: int) -> Slot:
        """Count `amount` as sent now."""
        self._level -= amount
        if self._born is None:
            self._born = self._now
        return self.window.add(self._now, amount)

    def correct(self, slot: Slot, more: int) -> None:
        """What was counted into `slot` turned out to be so much more, or less."""
        self._level = min(self._level - more, self._burst())
        self.window.correct(slot, more)

    def refused(self, accepted: float, resume: float, *, learn: bool) -> None:
        """A call did not fit into the quota.

        Args:
            accepted: what the provider took in the last minute.
            resume: when sending begins again.
            learn: whether to guess, on an axis without a known quota.
        """
        self._strikes = [t for t in self._strikes if t > self._now - 3 * MINUTE_S]
        self._strikes.append(self._now)
        if self._limit is None and not learn:
            return
        if self._limit is not None and self._guess is None and len(self._strikes) == 1:
            return  # somebody else used the quota before: no reason to doubt what is known
        young = self._born is None or self._now - self._born < MINUTE_S
        old = self.whole
        top = accepted if old == math.inf else max(min(old, accepted), old / 2)
        self._guess = Guess(max(1.0, top), resume, fast=young and self._limit is None)
        self._level = min(self._level, self._burst())

    def proven(self, accepted: float) -> None:
        """More than it seemed was taken in the minute before a refusal: some answers came after it."""
        if self._guess is not None:
            self._guess.top = max(self._guess.top, accepted)

    def hold(self, resume: float) -> None:
        """Sending begins again only then: time that passes until then teaches nothing."""
        if self._guess is not None:
            self._guess.at = max(self._guess.at, resume)

    def believe(self, limit: float) -> None:
        """The provider says what its quota is."""
        if limit == self._limit:
            return
        self._limit = limit
        self._guess = None
        self._level = min(self._level, self._burst())

    def left(self, remaining: float, reset_s: float) -> None:
        """The provider says what is left, after everything sent up to now, until its minute is over."""
        if self._limit is None:
            return
        self._others = 0.0
        self._others = max(0.0, self._free() - remaining * self._use)
        self._others_until = self._now + reset_s

    def _most(self) -> float:
        """What one call may hold after a rest: a whole minute's quota if it is known."""
        return self.whole if self._guess is None else max(1.0, self.whole * _GUESS_CALL)

    def _usable(self, limit: float) -> float:
        return max(math.floor(limit * self._use), min(limit, 1.0))

    def _guessed(self) -> float:
        """The guess, no more than twice what was really sent: a quota that nobody uses says nothing."""
        assert self._guess is not None
        sent = max(self.window.total, self.window.since(self._now - _SHORT_S) * MINUTE_S / _SHORT_S)
        return min(self._guess.value(self._now), max(self._guess.top, 2.0 * sent))

    def _burst(self) -> float:
        if self._guess is not None:
            return max(1.0, self.rate * _GUESS_BURST_S)
        return math.inf if self._limit is None else max(min(1.0, self.whole), self.whole * _BURST)

    def _free(self) -> float:
        """What the window still takes of a known quota."""
        if self._limit is None:
            return math.inf
        others = self._others if self._now < self._others_until else 0.0
        return self._usable(self._limit) - self.window.total - others

    def _window_delay(self, amount: float) -> float:
        excess = amount - self._free()
        if excess <= _TINY:
            return 0.0
        releases = self.window.releases()
        if self._now < self._others_until and self._others > 0:
            releases.append((self._others_until, math.ceil(self._others)))
            releases.sort()
        for when, freed in releases:
            excess -= freed
            if excess <= _TINY:
                return max(0.0, when - self._now)
        return 0.0
