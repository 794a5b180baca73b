"""What waits: asks that are not made ready yet, and units that are, by kind and in the order of their turns.

The one queue between the door and the streams. It is plain data under the coalescer's lock; whose turn it is and what
goes together is decided in `decisions`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from embatch.decisions.late_forming import LOOK_AHEAD, pick
from embatch.decisions.planning import Budget
from embatch.decisions.turns import Waiting as Waits
from embatch.engine.coalesce.opening import Portion
from embatch.serving import PRIORITIES, Priority

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embatch.decisions.turns import Turns
    from embatch.engine.coalesce.asks import Waiting
    from embatch.engine.coalesce.opening import Opened
    from embatch.engine.coalesce.units import Text, Unit
    from embatch.types import IntArray, Limits

_OPEN_ROWS = 256
_OPEN_CHARS = 1 << 15
"""Made ready at once: some ten milliseconds of work at most, unless a single text is longer."""
_SHORT_CHARS = 1 << 12
"""The same of a job while somebody interactive is about."""
_AHEAD, _AHEAD_OF_JOBS = 2, 64
"""Budgets for each stream that are made ready ahead of the streams."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Units that go to the backend in one call."""

    units: Sequence[Unit]
    budget: Budget
    """What it was formed under."""
    priority: Priority
    fresh: bool = True
    """False for a retry, whose size says nothing about budgets."""

    @property
    def lengths(self) -> IntArray:
        """`(n,)` tokens of each unit."""
        return np.fromiter((unit.length for unit in self.units), np.int32, len(self.units))

    def living(self) -> Batch | None:
        """The part of it that somebody still waits for."""
        units = [unit for unit in self.units if unit.text.live]
        return replace(self, units=units) if units else None


class Room:
    """Asks and units that wait.

    Args:
        limits: what the backend takes.
        streams: batches that are computed side by side.
        turns: decides who is next.
    """

    def __init__(self, limits: Limits, streams: int, turns: Turns) -> None:
        self._limits = limits
        self._streams = streams
        self._turns = turns
        self._asks: dict[Priority, deque[Waiting]] = {kind: deque() for kind in PRIORITIES}
        self._ready: dict[Priority, list[Unit]] = {kind: [] for kind in PRIORITIES}
        self._ready_tokens = dict.fromkeys(PRIORITIES, 0)
        self._opening = dict.fromkeys(PRIORITIES, 0)
        self._deserted: set[Priority] = set()  # kinds of which an ask has left that may have units here
        self.inputs = dict.fromkeys(PRIORITIES, 0)
        """Rows that wait, of each kind."""
        self.tokens = dict.fromkeys(PRIORITIES, 0)
        """About how many tokens these have."""

    @property
    def has_work(self) -> bool:
        """Whether a stream would find something to do."""
        return any(self._asks.values()) or any(self._ready.values())

    def add(self, waiting: Waiting) -> None:
        """An ask was let in."""
        kind = waiting.ask.priority
        self._asks[kind].append(waiting)
        self.inputs[kind] += waiting.untaken
        self.tokens[kind] += waiting.tokens_untaken

    def left(self, waiting: Waiting) -> None:
        """An ask has ended: what of it still waited is gone."""
        kind = waiting.ask.priority
        if waiting.pending or waiting.failures:
            self._deserted.add(kind)
        self.inputs[kind] -= waiting.untaken
        self.tokens[kind] -= waiting.tokens_untaken
        waiting.untaken = waiting.tokens_untaken = 0

    def turns(self, now: float, budget: int) -> list[Priority]:
        """Whose turn it is, and who comes next if there is nothing to take of that: all is being made ready, say."""
        waits = {kind: self._asks[kind] or self._ready[kind] or self._opening[kind] for kind in PRIORITIES}
        quick = Priority.INTERACTIVE
        first = self._ready[quick][0].text.owners[0][0] if self._ready[quick] else None
        if first is None and self._asks[quick]:
            first = self._asks[quick][0]
        waiting = Waits(
            interactive=bool(waits[quick]),
            jobs=bool(waits[Priority.BATCH]),
            tokens=self.tokens[quick],
            oldest_s=0.0 if first is None else now - first.came,
        )
        chosen = self._turns.next(waiting, now, budget=budget)
        return [kind for kind in sorted(PRIORITIES, key=lambda kind: kind is not chosen) if waits[kind]]

    def to_open(self, kind: Priority, budget: int, now: float) -> list[Portion]:
        """Rows to make ready now: none if enough are, or none are left."""
        if not self._asks[kind]:
            return []
        job = kind is Priority.BATCH
        most_chars = _SHORT_CHARS if job and self._turns.short(now) else _OPEN_CHARS
        # What nobody waits for is made ready further ahead, so that texts of like length find each other.
        ahead = _AHEAD_OF_JOBS if job else _AHEAD
        if len(self._living(kind)) >= LOOK_AHEAD or self._ready_tokens[kind] >= (
            ahead * self._streams * max(budget, 1)
        ):
            return []
        asks, portions, rows, chars = self._asks[kind], [], 0, 0
        while asks and rows < _OPEN_ROWS and chars < most_chars:
            waiting = asks[0]
            stop = start = waiting.opened
            inputs = waiting.ask.inputs
            while stop < len(inputs) and rows < _OPEN_ROWS and chars < most_chars and not waiting.ended:
                chars += len(inputs[stop]) if hasattr(inputs[stop], "__len__") else 1
                rows += 1
                stop += 1
            if stop > start:
                waiting.opened = stop
                portions.append(Portion(waiting, start, stop))
            if stop == len(inputs) or waiting.ended:
                asks.popleft()
        self._opening[kind] += bool(portions)
        return portions

    def opened(self, kind: Priority, opened: Opened) -> None:
        """Portions were made ready."""
        self._opening[kind] -= 1
        units = [unit for unit in opened.units if unit.text.live]
        self._ready[kind].extend(units)
        self._ready_tokens[kind] += sum(unit.length for unit in units)

    def opening_failed(self, kind: Priority) -> None:
        """Portions could not be made ready."""
        self._opening[kind] -= 1

    def form(self, kind: Priority, next_budget: Callable[[], Budget], now: float) -> Batch | None:
        """The next batch of this kind; None if nobody waits for any of it."""
        ready = self._living(kind)
        window = ready[:LOOK_AHEAD]
        if not window:
            return None
        wanted = next_budget()
        lengths = np.fromiter((unit.length for unit in window), np.int32, len(window))
        contended = any(self._asks[other] or self._ready[other] for other in PRIORITIES if other is not kind)
        budget = self._bounded(kind, wanted, now, contended=contended)
        # While both kinds wait, the other streams have work: nothing is left for them of a few texts.
        streams = 1 if contended else self._streams
        chosen = pick(lengths, budget, self._limits, streams=streams).tolist()
        units = [window[at] for at in chosen]
        gone = set(chosen)
        ready[: len(window)] = [unit for at, unit in enumerate(window) if at not in gone]
        tokens = sum(unit.length for unit in units)
        self._ready_tokens[kind] -= tokens
        self._took(units, kind, now)
        self._turns.served(kind, tokens, contended=contended)
        return Batch(units, wanted, kind)

    def _living(self, kind: Priority) -> list[Unit]:
        """The units that are ready, without those that nobody waits for any more."""
        ready = self._ready[kind]
        if kind in self._deserted:
            self._deserted.discard(kind)
            ready[:] = [unit for unit in ready if unit.text.live]
            self._ready_tokens[kind] = sum(unit.length for unit in ready)
        return ready

    def _bounded(self, kind: Priority, wanted: Budget, now: float, *, contended: bool) -> Budget:
        if wanted.tokens is None:
            return wanted
        tokens = wanted.tokens
        if kind is Priority.BATCH:
            tokens = self._turns.job_tokens(now, tokens)
        elif contended:
            tokens = self._turns.ask_tokens(tokens)
        return Budget(tokens=tokens, items=wanted.items)

    def passed(self, text: Text, now: float) -> None:
        """A text needs no batch: its rows wait no more."""
        self._leave(text, text.owners[0][0].ask.priority, now)

    def _took(self, units: list[Unit], kind: Priority, now: float) -> None:
        for unit in units:
            if not unit.text.taken:
                self._leave(unit.text, kind, now)

    def _leave(self, text: Text, kind: Priority, now: float) -> None:
        for waiting, _ in text.owners:
            if not waiting.ended and waiting.untaken:
                part = waiting.tokens_untaken // waiting.untaken
                waiting.tokens_untaken -= part
                self.tokens[kind] -= part
        self.inputs[kind] -= text.take(now)
