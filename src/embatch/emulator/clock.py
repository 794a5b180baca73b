"""Virtual time: real time, faster, with jumps. Of the emulator's parts the only one that looks at a clock."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time


class Clock:
    """Virtual seconds since the emulator first started.

    Args:
        scale: virtual seconds in a real one.
        start: virtual second to begin at.
    """

    def __init__(self, scale: float, start: float = 0.0) -> None:
        self.scale = scale
        self.started = start
        """Virtual second that it began at: 0, unless an earlier emulator's state was found."""
        self._offset = start
        self._origin = time.monotonic()
        self._lock = threading.Lock()
        self._sleepers: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._closed = False

    def now(self) -> float:
        """Virtual seconds."""
        with self._lock:
            return self._offset + (time.monotonic() - self._origin) * self.scale

    def advance(self, seconds: float) -> float:
        """Jump ahead; whoever sleeps that long wakes up. Gives the new time.

        Raises:
            ValueError: time goes forward only.
        """
        if not seconds >= 0:
            raise ValueError(f"time goes forward only, not by {seconds!r} seconds")
        with self._lock:
            self._offset += seconds
        self._wake()
        return self.now()

    async def sleep(self, seconds: float) -> None:
        """Return when so many virtual seconds are over, by passing or by a jump."""
        until = self.now() + seconds
        if seconds <= 0:
            return
        jumped = asyncio.Event()
        sleeper = (asyncio.get_running_loop(), jumped)
        with self._lock:
            self._sleepers.add(sleeper)
        try:
            while not self._closed and (left := until - self.now()) > 0:
                jumped.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(jumped.wait(), left / self.scale)
        finally:
            with self._lock:
                self._sleepers.discard(sleeper)

    def close(self) -> None:
        """End all sleeps, now and later."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            sleepers = list(self._sleepers)
        for loop, jumped in sleepers:
            with contextlib.suppress(RuntimeError):  # its loop has ended
                loop.call_soon_threadsafe(jumped.set)
