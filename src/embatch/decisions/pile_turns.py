"""Which pile a free sender takes, and how much of it: late forming for a slow sender such as a provider's API.

Asks that want the same pile up while all senders are busy. A free sender takes what waits longest, interactive piles
before those of jobs, which never get less than their share; a pile may be held back for a window, or until it is full.
Pure: the queue, its threads and its clock are `engine.coalesce.piles`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from embatch.decisions.turns import Share
from embatch.serving import Priority

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

_KEPT_FREE = (
    4  # one sender in so many takes no job's pile, lest somebody interactive waits for the end of one
)
_FADES = 0.5 ** (1 / 30)  # of the memory of the speed, with every second of work: half of it is 30 s old


class Load(NamedTuple):
    """How much something is."""

    items: int = 0
    tokens: int = 0
    """About."""
    size: int = 0
    """Bytes in UTF-8."""

    def plus(self, other: Load) -> Load:
        """Both together."""
        return Load(self.items + other.items, self.tokens + other.tokens, self.size + other.size)

    def minus(self, other: Load) -> Load:
        """What is left without the other."""
        return Load(self.items - other.items, self.tokens - other.tokens, self.size - other.size)


class Room(NamedTuple):
    """What may be sent, and when. `None` is no limit."""

    items: int | None = None
    tokens: int | None = None
    size: int | None = None
    wait_s: float = 0.0
    """Nothing may be sent before so many seconds are over."""

    def takes(self, load: Load) -> bool:
        """Whether so much goes into one call."""
        limits = zip(load, (self.items, self.tokens, self.size), strict=True)
        return all(limit is None or value <= limit for value, limit in limits)

    def filled(self, load: Load) -> bool:
        """Whether nothing more goes in beside this much. Without limits nothing ever is full."""
        limits = zip(load, (self.items, self.tokens, self.size), strict=True)
        return any(limit is not None and value >= limit for value, limit in limits)


EMPTY = Room()
"""No limits."""


class Pile(NamedTuple):
    """What waits under one set of terms at one priority."""

    terms: Hashable
    priority: Priority
    number: int
    """Of its oldest ask: the order of arrival."""
    since: float
    """When that came, in seconds."""
    load: Load


class PileTurns:
    """Chooses among piles.

    Args:
        senders: piles that may be under way at once.
        batch_share: least share of the tokens that jobs get while both kinds wait, above 0 and below 1.
        window_s: so long a pile is held back at most, unless it is full.
        full: a pile of so much is full.
    """

    def __init__(
        self, *, senders: int, batch_share: float, window_s: float = 0.0, full: Room | None = None
    ) -> None:
        self._most_jobs = max(1, senders - max(1, senders // _KEPT_FREE))
        self._turns = Share(batch_share)
        self._window_s = window_s
        self._full = full or EMPTY

    def next(
        self,
        piles: Iterable[Pile],
        *,
        now: float,
        room: Room = EMPTY,
        jobs_under_way: int = 0,
        closing: bool = False,
    ) -> Pile | None:
        """The pile whose turn it is; None if none may go now.

        Args:
            piles: all that wait, in any order.
            now: seconds.
            room: about what will be taken of it.
            jobs_under_way: senders that are busy with jobs' piles.
            closing: nothing more comes, so that nothing is held back.
        """
        heads: dict[Priority, Pile] = {}
        for pile in piles:
            held_back = not closing and self._ready_at(pile) > now
            if held_back or (pile.priority is Priority.BATCH and jobs_under_way >= self._most_jobs):
                continue
            head = heads.get(pile.priority)
            if head is None or pile.number < head.number:
                heads[pile.priority] = pile
        batch = heads.get(Priority.BATCH)
        turn = self._turns.next(heads, batch_tokens=0 if batch is None else _work(batch.load, room))
        return None if turn is None else heads[turn]

    def taken(self, priority: Priority, load: Load, *, contended: bool) -> None:
        """So much of a pile was taken; `contended`: while one of the other priority waited."""
        self._turns.served(priority, _work(load), contended=contended)

    def wait_s(self, piles: Iterable[Pile], *, now: float) -> float:
        """Seconds until the next pile that is held back may go; infinite if none is."""
        later = (at for pile in piles if (at := self._ready_at(pile)) > now)
        return min(later, default=math.inf) - now

    def _ready_at(self, pile: Pile) -> float:
        return pile.since if self._full.filled(pile.load) else pile.since + self._window_s


def _work(load: Load, room: Room = EMPTY) -> int:
    """What counts of a load, or of as much of it as goes into the room: tokens, and items where nobody counts those."""
    parts = [
        limit / value
        for value, limit in zip(load, (room.items, room.tokens, room.size), strict=True)
        if limit is not None and value > limit
    ]
    return math.ceil(max(load.items, load.tokens) * min(parts, default=1.0))


class Recent:
    """How fast all senders together are while any of them works; old news fade."""

    def __init__(self) -> None:
        self._running = 0
        self._at = 0.0
        self._busy_s = 0.0
        self._tokens = 0.0

    @property
    def tokens_per_s(self) -> float:
        """Recent speed; 0.0 before anything has come back."""
        return self._tokens / self._busy_s if self._busy_s > 0 else 0.0

    def began(self, now: float) -> None:
        """A sender has something to do."""
        self._advance(now)
        self._running += 1

    def ended(self, now: float, tokens: int) -> None:
        """It is done with so many tokens."""
        self._advance(now)
        self._running = max(0, self._running - 1)
        self._tokens += tokens

    def _advance(self, now: float) -> None:
        passed, self._at = max(0.0, now - self._at), max(now, self._at)
        if self._running and passed > 0:
            faded = _FADES**passed
            self._busy_s = self._busy_s * faded + passed
            self._tokens *= faded
