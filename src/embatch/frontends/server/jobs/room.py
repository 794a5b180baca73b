"""Bounds how much several jobs have under way together, first come first served, so that they take turns."""

from __future__ import annotations

import asyncio
from collections import deque


class Room:
    """A number of places. Belongs to one event loop.

    Args:
        places: how many; who wants more gets all of them.
    """

    def __init__(self, places: int) -> None:
        self.places = places
        self._free = places
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, count: int) -> int:
        """Wait for so many places; how many were taken, to be given back."""
        count = min(count, self.places)
        if not self._waiting and count <= self._free:
            self._free -= count
            return count
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((count, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(count)
            else:
                self._waiting = deque(each for each in self._waiting if each[1] is not turn)
                self.give(0)
            raise
        return count

    def give(self, count: int) -> None:
        """Give places back."""
        self._free += count
        while self._waiting and self._waiting[0][0] <= self._free:
            wanted, turn = self._waiting.popleft()
            if not turn.done():
                self._free -= wanted
                turn.set_result(None)
