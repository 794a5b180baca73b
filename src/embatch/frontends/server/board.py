"""What a server has done, and is doing: an observer that adds up asks and batches for the dashboard and the metrics.

Every engine of the server tells it, from threads of its own, so that `see` is a lock and a few additions; all that is
dear is worked out by whoever looks. Holds no text, and does not know what waits: that is a coalescer's `Snapshot`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from embatch.frontends.server.tallies import Tally, summed
from embatch.frontends.server.transport.traffic import Traffic
from embatch.seen import AskSeen, BatchSeen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from embatch.seen import Observer, Seen

KEPT_SECONDS = 300
KEPT_BATCHES = 500
RECENT_S = 60

_BATCH = tuple(field.name for field in fields(BatchSeen))

Series = tuple[str, str]
"""Model, and priority (empty where a batch has several)."""


class Board:
    """Adds up what it sees. Thread-safe.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._totals: dict[Series, Tally] = {}
        # One dictionary a second; only the last is ever changed, so that the others can be read without the lock.
        self._seconds: deque[tuple[int, dict[Series, Tally]]] = deque(maxlen=KEPT_SECONDS)
        self._batches: deque[tuple[str, BatchSeen]] = deque(maxlen=KEPT_BATCHES)
        self.started = clock()
        self.traffic = Traffic()
        """What goes through the door; counted by the transport."""

    def see(self, seen: Seen, model: str = "") -> None:
        """Count an ask or a batch; whatever else is left alone. Never raises, holds its lock for microseconds."""
        if isinstance(seen, AskSeen):
            series = (model or seen.model, str(seen.priority))
            with self._lock:
                for tally in self._tallies(series):
                    tally.add_ask(seen)
        elif isinstance(seen, BatchSeen):
            series = (model, "" if seen.priority is None else str(seen.priority))
            with self._lock:
                for tally in self._tallies(series):
                    tally.add_batch(seen)
                self._batches.append((model, seen))

    def named(self, model: str) -> Observer:
        """An observer for one model: what it sees is counted under that name."""
        return _Named(self, model)

    def totals(self) -> dict[Series, Tally]:
        """Counts since the start, by model and priority; the caller's own."""
        with self._lock:
            return {series: tally.copy() for series, tally in self._totals.items()}

    def snapshot(self, *, since: float = 0.0) -> dict[str, Any]:
        """All there is to see, as plain data that goes into JSON.

        Args:
            since: leave out seconds and batches that were over by then (a dashboard has them already).

        Returns:
            at, started, uptime_s: seconds since the epoch, and between.
            totals: since the start: asks (by outcome), errors (by name), inputs, tokens, cached (of answered asks),
                batches, batch_errors (by name), items, real_tokens, padded_tokens, device_seconds.
            recent: of the last 60 s (`span_s`, less after a start): asks by outcome; asks_per_s, inputs_per_s,
                tokens_per_s (of answered asks); items_per_s, batches_per_s (computed); latency_s and wait_s of
                answered asks, each with count, mean, p50, p90, p99 (seconds, or None); batch_errors; items_per_batch;
                padding (share of computed tokens, or None); device_busy (streams at work on average).
            models, priorities: by name, each with `totals` and `recent`.
            seconds: up to 300, oldest first, the running second left out: at, asks (by outcome), inputs, tokens,
                items, batches, real_tokens, padded_tokens, device_seconds, p50 and p99 of answered asks. Seconds
                without anything are not there.
            batches: the last 500, oldest first: the fields of `BatchSeen` and `model`.
        """
        now = self._clock()
        with self._lock:
            seconds = list(self._seconds)
            if seconds and seconds[-1][0] >= int(now):
                second, running = seconds[-1]
                seconds[-1] = (second, {series: tally.copy() for series, tally in running.items()})
            batches = list(self._batches)
        totals = self.totals()
        span_s = max(1.0, min(float(RECENT_S), now - self.started))
        recent = _merged(cells for second, cells in seconds if second > now - RECENT_S)
        return {
            "at": now,
            "started": self.started,
            "uptime_s": now - self.started,
            "totals": summed(totals.values()).to_dict(),
            "recent": summed(recent.values()).rates(span_s),
            "models": _figures(totals, recent, span_s, part=0),
            "priorities": _figures(totals, recent, span_s, part=1),
            "seconds": [
                _second(second, cells)
                for second, cells in seconds
                if since < second + 1 <= now and second > now - KEPT_SECONDS
            ],
            "batches": [
                {"model": model, **{name: getattr(seen, name) for name in _BATCH}}
                for model, seen in batches
                if seen.at + seen.seconds > since
            ],
        }

    def _tallies(self, series: Series) -> tuple[Tally, Tally]:
        """The series' tallies of all time and of this second. The lock is held."""
        second = int(self._clock())
        if not self._seconds or self._seconds[-1][0] < second:
            self._seconds.append((second, {}))
        cells = self._seconds[-1][1]
        cell = cells.get(series)
        if cell is None:
            cell = cells[series] = Tally()
        total = self._totals.get(series)
        if total is None:
            total = self._totals[series] = Tally()
        return total, cell


class _Named:
    """Tells the board which model it was."""

    __slots__ = ("_board", "_model")

    def __init__(self, board: Board, model: str) -> None:
        self._board = board
        self._model = model

    def see(self, seen: Seen) -> None:
        self._board.see(seen, self._model)


def _merged(parts: Iterable[Mapping[Series, Tally]]) -> dict[Series, Tally]:
    merged: dict[Series, Tally] = {}
    for cells in parts:
        for series, tally in cells.items():
            if series not in merged:
                merged[series] = Tally()
            merged[series].add(tally)
    return merged


def _figures(
    totals: Mapping[Series, Tally], recent: Mapping[Series, Tally], span_s: float, *, part: int
) -> dict[str, Any]:
    """Totals and recent figures by model (part 0) or priority (part 1)."""
    return {
        name: {
            "totals": summed(tally for series, tally in totals.items() if series[part] == name).to_dict(),
            "recent": summed(tally for series, tally in recent.items() if series[part] == name).rates(span_s),
        }
        for name in sorted({series[part] for series in totals} - {""})
    }


def _second(second: int, cells: Mapping[Series, Tally]) -> dict[str, Any]:
    tally = summed(cells.values())
    figures = tally.rates(1.0)
    counts = tally.to_dict()
    names = ("asks", "inputs", "tokens", "items", "batches", "real_tokens", "padded_tokens", "device_seconds")
    times = figures["latency_s"]
    return {"at": second, **{name: counts[name] for name in names}, "p50": times["p50"], "p99": times["p99"]}
