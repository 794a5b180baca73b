"""A time by which something must have happened, moved often at almost no cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_EARLY_S = 0.0015  # loops count milliseconds, and may fire within the one before


class Deadline:
    """Calls back once it has passed. A later time than before leaves the loop's timer alone: it looks again then.

    Args:
        loop: everything happens in its thread.
        overdue: called when the time has passed and nobody moved or cleared it.
    """

    __slots__ = ("_due", "_fires_at", "_loop", "_overdue", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, overdue: Callable[[], None]) -> None:
        self._loop = loop
        self._overdue = overdue
        self._due: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = 0.0

    def move(self, seconds: float) -> None:
        """So long from now."""
        self._due = due = self._loop.time() + seconds
        if self._timer is None:
            self._arm(due)
        elif due < self._fires_at:
            self._timer.cancel()
            self._arm(due)

    def clear(self) -> None:
        """Nothing is awaited."""
        self._due = None

    def close(self) -> None:
        """Give the timer back."""
        self._due = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, due: float) -> None:
        self._fires_at = due
        self._timer = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._due is None:
            return
        if self._due > self._loop.time() + _EARLY_S:
            self._arm(self._due)
            return
        self._due = None
        self._overdue()
