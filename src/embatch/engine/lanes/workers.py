"""Threads that carry requests out, so that the driver never waits for a provider.

They are daemons: an answer that never comes must not keep a process alive. Every task has a timeout of its own, and
what it returns or raises is handed to one queue. There are as many threads as tasks under way at the busiest moment.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Workers:
    """A pool that grows when all threads are busy, up to `most`; further tasks wait their turn.

    Args:
        most: threads at most.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._busy = 0

    @property
    def busy(self) -> int:
        """Tasks that were begun or wait, and have not ended."""
        return self._busy

    def begin(self, task: Callable[[], None]) -> None:
        """Run `task` in a thread soon. It must raise nothing."""
        self._tasks.put(task)  # before a thread is started: Ctrl-C may come while it is
        with self._lock:
            self._busy += 1
            if self._busy > self._threads and self._threads < self._most:
                self._threads += 1
                threading.Thread(target=self._work, name="embatch-lane", daemon=True).start()

    def close(self) -> None:
        """Let the threads end once they are free. Nothing may be begun afterwards."""
        for _ in range(self._threads):
            self._tasks.put(None)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task()
            finally:
                with self._lock:
                    self._busy -= 1
