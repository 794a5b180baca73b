"""What `piles` keeps of asks and of piles on their way, without threads: everything here is used under its lock."""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from embatch.decisions.pile_turns import Load, Pile

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Hashable, Iterator, Sequence

    from embatch.decisions.pile_turns import Room
    from embatch.errors import EmbatchError
    from embatch.serving import Priority

_SPARE_DEADLINES = 1000  # looks at deadlines before those of asks that have ended are swept out

P = TypeVar("P")
R = TypeVar("R")


@dataclass(slots=True)
class Counts:
    """Since the piles were opened."""

    asks: int = 0
    answered: int = 0
    refused: int = 0
    expired: int = 0
    cancelled: int = 0
    failed: int = 0
    items: int = 0
    """Sent, and come back."""
    tokens: int = 0
    piles: int = 0
    seconds: float = 0.0
    """Of all senders together."""
    running: int = 0
    """Items under way."""
    waiting: dict[Priority, Load] = field(default_factory=dict)
    tokens_per_s: float = 0.0
    alive: bool = True


class PileTicket:
    """An ask that was let in.

    Args:
        leave: takes it out again.
    """

    def __init__(self, leave: Callable[[], None]) -> None:
        self._leave = leave

    def cancel(self) -> None:
        """What is not sent yet never will be. Nothing is told afterwards."""
        self._leave()


class Part(NamedTuple, Generic[P]):
    """A piece of an ask that goes into one pile, whole."""

    payload: P
    load: Load


@dataclass(frozen=True, slots=True)
class Ended(Generic[R]):
    """How an ask ended."""

    results: Sequence[R]
    """One a part, in order; empty if there is an error."""
    error: EmbatchError | None
    """What befell the ask as a whole."""
    waited_s: float
    """Until the first of it was sent; `seconds` if nothing was."""
    seconds: float


@dataclass(slots=True, eq=False)
class PileAsk(Generic[P, R]):
    """An ask that was let in and has not ended."""

    number: int
    terms: Hashable
    priority: Priority
    parts: Sequence[Part[P]]
    done: Callable[[Ended[R]], None]
    came: float
    deadline: float
    results: dict[int, R] = field(default_factory=dict)
    """By part, those that are there."""
    at: int = 0
    """The first part that waits."""
    sent_at: float | None = None
    ended: bool = False
    piles: set[PileOnItsWay[P, R]] = field(default_factory=set)

    @property
    def waiting(self) -> Load:
        """Its parts that are not in a pile yet."""
        load = Load()
        for part in self.parts[self.at :]:
            load = load.plus(part.load)
        return load

    def end(self, now: float, error: EmbatchError | None) -> Ended[R]:
        """How it ended."""
        self.ended = True
        seconds = now - self.came
        waited_s = seconds if self.sent_at is None else self.sent_at - self.came
        results = [] if error is not None else [self.results[i] for i in range(len(self.parts))]
        return Ended(results, error, waited_s, seconds)


@dataclass(slots=True, eq=False)
class PileOnItsWay(Generic[P, R]):
    """What one sender was given."""

    terms: Hashable
    priority: Priority
    members: list[tuple[PileAsk[P, R], int]]
    """Asks and which of their parts."""
    load: Load
    began: float
    wanted_by: int = 0
    """Asks in it that have not ended."""
    on_unwanted: Callable[[], None] | None = None
    """Called once nobody waits for it any more."""

    @property
    def payloads(self) -> list[P]:
        """What is to be sent, oldest first."""
        return [ask.parts[i].payload for ask, i in self.members]

    @property
    def wanted(self) -> bool:
        """Whether anybody waits for any of it."""
        return self.wanted_by > 0

    @property
    def asks(self) -> int:
        """How many asks share it."""
        return len({ask.number for ask, _ in self.members})


class Deadlines:
    """When asks must have ended, soonest first; those of asks that have ended already are swept out in time."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._looks = 0

    @property
    def next(self) -> float:
        """The soonest; infinite if there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def add(self, at: float, number: int) -> None:
        """One more, unless it is never."""
        if at < math.inf:
            heapq.heappush(self._heap, (at, number))

    def over(self, now: float, still_open: Container[int]) -> list[int]:
        """Asks that are open and whose time is over; they are asked for once."""
        found: list[int] = []
        while self._heap and self._heap[0][0] <= now:
            number = heapq.heappop(self._heap)[1]
            if number in still_open:
                found.append(number)
        self._looks += 1
        if self._looks > len(self._heap) + _SPARE_DEADLINES:
            self._heap = sorted(each for each in self._heap if each[1] in still_open)  # which is a heap
            self._looks = 0
        return found


class Waiting(Generic[P, R]):
    """Asks of which something waits, piled by terms and priority, each pile in the order of arrival."""

    def __init__(self) -> None:
        self._piles: dict[tuple[Hashable, Priority], OrderedDict[int, PileAsk[P, R]]] = {}
        self._loads: dict[tuple[Hashable, Priority], Load] = {}

    def add(self, ask: PileAsk[P, R]) -> None:
        """One more, the newest."""
        key = (ask.terms, ask.priority)
        self._piles.setdefault(key, OrderedDict())[ask.number] = ask
        self._loads[key] = self._loads.get(key, Load()).plus(ask.waiting)

    def drop(self, ask: PileAsk[P, R]) -> None:
        """What of it waits will not be sent."""
        key = (ask.terms, ask.priority)
        if ask.number in self._piles.get(key, ()):
            del self._piles[key][ask.number]
            self._shrink(key, ask.waiting)

    def take(self, pile: Pile, room: Room, now: float) -> PileOnItsWay[P, R]:
        """The oldest parts of a pile that go into the room; one at least."""
        key = (pile.terms, pile.priority)
        taken: list[tuple[PileAsk[P, R], int]] = []
        load = Load()
        full = False
        while self._piles[key] and not full:
            ask = next(iter(self._piles[key].values()))
            while ask.at < len(ask.parts):
                more = load.plus(ask.parts[ask.at].load)
                full = bool(taken) and not room.takes(more)
                if full:
                    break
                taken.append((ask, ask.at))
                load = more
                ask.at += 1
            else:
                del self._piles[key][ask.number]
        self._shrink(key, load)
        on_its_way: PileOnItsWay[P, R] = PileOnItsWay(pile.terms, pile.priority, taken, load, now)
        for ask in {id(ask): ask for ask, _ in taken}.values():
            ask.piles.add(on_its_way)
            ask.sent_at = now if ask.sent_at is None else ask.sent_at
            on_its_way.wanted_by += 1
        return on_its_way

    def piles(self) -> Iterator[Pile]:
        """What waits."""
        for (terms, priority), asks in self._piles.items():
            number, oldest = next(iter(asks.items()))
            yield Pile(terms, priority, number, oldest.came, self._loads[terms, priority])

    def load(self, priority: Priority | None = None) -> Load:
        """All that waits, or all of one priority."""
        total = Load()
        for (_, each), load in self._loads.items():
            total = total.plus(load) if priority in {None, each} else total
        return total

    def _shrink(self, key: tuple[Hashable, Priority], load: Load) -> None:
        if self._piles[key]:
            self._loads[key] = self._loads[key].minus(load)
        else:
            del self._piles[key], self._loads[key]
