"""Hands batches to the streams of a backend, one at a time, formed as late as possible.

A stream asks when it is free; only then is the next batch cut from the current window, under the budget of that moment.
What fails comes back here: a batch that did not fit or that the engine refused is halved, until the one text that is
to blame stands alone. It runs no model and decides no budget.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embatch.decisions.planning import Budget, batch_end, order, share
from embatch.engine.outcomes import Patience, blame, halves

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embatch.decisions.planning import Positions
    from embatch.engine.window import Window
    from embatch.errors import BackendError, ItemError
    from embatch.types import IntArray, Limits

_ALONE = Budget(items=1)


@dataclass(frozen=True, slots=True)
class Batch:
    """Units of one window that go to the backend in one call."""

    window: Window
    units: Sequence[int]
    budget: Budget
    """What it was formed under."""
    fresh: bool = True
    """False for a retry or a levelled rest, whose size says nothing about budgets."""

    @property
    def payloads(self) -> list[object]:
        """What the backend takes, in the order of `units`."""
        return [self.window.payloads[unit] for unit in self.units]

    @property
    def lengths(self) -> IntArray:
        """`(n,)` tokens of each unit."""
        return self.window.lengths[list(self.units)]


class BatchFormer:
    """The one queue between windows and streams. Thread-safe.

    Args:
        limits: what the backend takes.
        streams: how many ask for batches.
        budget: asked each time a batch is formed.
        next_window: blocks until the next window is ready; None when there is none any more.
    """

    def __init__(
        self,
        limits: Limits,
        streams: int,
        budget: Callable[[], Budget],
        next_window: Callable[[], Window | None],
    ) -> None:
        self._limits = limits
        self._streams = streams
        self._budget = budget
        self._next_window = next_window
        self._lock = threading.Lock()  # over the state below; never held while waiting
        self._fetching = threading.Lock()  # one stream waits for the next window, the others for it
        self._retries: deque[Batch] = deque()
        self._window: Window | None = None
        self._positions: Positions = order(np.empty(0, np.int32))
        self._ordered: IntArray = np.empty(0, np.int32)
        self._at = 0
        self._left = 0  # tokens of the window's items from `_at` on
        self._ended = False
        self._patience = Patience()

    def take(self) -> Batch | None:
        """The next batch; None when all windows are used up. Blocks while the next window is being made.

        A stream that gets None may leave: whoever takes a failed batch back also takes its halves.
        """
        while True:
            batch = self._form()
            if batch is not None:
                return batch
            if self._ended:
                return None
            with self._fetching:
                if not self._has_work() and not self._ended:
                    window = self._next_window()
                    with self._lock:
                        self._enter(window)

    def succeeded(self) -> None:
        """A batch came back with vectors: the engine works."""
        self._patience.succeeded()

    def retry(self, window: Window, units: Sequence[int]) -> None:
        """Compute these units again, each alone."""
        with self._lock:
            self._retries.extend(Batch(window, [unit], _ALONE, fresh=False) for unit in units)

    def failed(self, batch: Batch, error: BackendError) -> list[tuple[int, ItemError]]:
        """Take a batch back that raised: its halves are tried again; a single unit is to blame itself.

        Returns:
            The units that have failed for good, with their errors.

        Raises:
            BackendError: nothing works any more; trying every text alone would only take longer.
        """
        self._patience.failed(error)
        if len(batch.units) == 1:
            return [(batch.units[0], blame(error))]
        with self._lock:
            self._retries.extend(
                Batch(batch.window, half, batch.budget, fresh=False) for half in halves(batch.units)
            )
        return []

    def _has_work(self) -> bool:
        with self._lock:
            return bool(self._retries) or self._at < len(self._positions)

    def _form(self) -> Batch | None:
        with self._lock:
            if self._retries:
                return self._retries.popleft()
            if self._window is None or self._at >= len(self._positions):
                return None
            wanted = self._budget()
            budget = wanted
            if self._window.last:
                budget = share(self._left, int(self._ordered[self._at]), wanted, self._streams)
            end = batch_end(self._ordered, self._at, budget, self._limits)
            units = self._positions[self._at : end].tolist()
            self._left -= int(self._ordered[self._at : end].sum())
            self._at = end
            return Batch(self._window, units, budget, fresh=budget == wanted)

    def _enter(self, window: Window | None) -> None:
        if window is None:
            self._ended = True
            return
        self._window = window
        self._positions = order(window.lengths)
        self._ordered = window.lengths[self._positions]
        self._left = int(self._ordered.sum())
        self._at = 0
