"""The live feed of a server: looks once a second while somebody watches, and tells all watchers the same.

One look serves every listener; each is sent everything once and then what is new. It holds some minutes of what only
looking shows (queues, memory); throughput and batches are the board's, whose sums are made in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson
import psutil

from embatch._version import __version__
from embatch.errors import EmbatchError
from embatch.frontends.opening import is_remote
from embatch.frontends.server.dashboard import status
from embatch.frontends.server.dashboard.job_list import JobList
from embatch.frontends.server.dashboard.searching import index_name
from embatch.frontends.server.dashboard.status import ModelSeen
from embatch.frontends.server.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from embatch.frontends.server.state import ServerState

LISTENERS = 32
"""Pages that may listen at once; the next is refused, and asks now and then instead."""
EVERY_S = 1.0
KEPT = 300
"""Looks that are kept."""
_WATCHED_S = 120.0
"""So long after the last page has gone, looking goes on: it may only be loading anew."""
_NOTICES_S = 0.2
"""Draining is noticed within so long."""

_log = logging.getLogger("embatch")


class Live:
    """The feed. To be used from one event loop.

    Args:
        state: the server.
        every_s: seconds between two looks.
    """

    def __init__(self, state: ServerState, *, every_s: float = EVERY_S) -> None:
        self._state = state
        self._every_s = every_s
        self._process = psutil.Process()
        self._memory_bytes = psutil.virtual_memory().total
        self._gauges: deque[status.Gauge] = deque(maxlen=KEPT)
        self._jobs: JobList | None = None
        self._today: float | None = None
        self._listeners = 0
        self._wanted_until = 0.0
        self._task: asyncio.Task[None] | None = None
        self._looked = asyncio.Event()
        self._number = 0
        self._message = b""

    @property
    def listeners(self) -> int:
        """Pages that listen now."""
        return self._listeners

    async def status(self, *, since: float = 0.0) -> dict[str, Any]:
        """How the server stands.

        Args:
            since: leave out seconds, batches and looks up to this moment (seconds since the epoch).
        """
        self._keep_looking()
        return self._shaped(await self._board(since), since)

    def listen(self) -> AsyncGenerator[bytes]:
        """Messages of server-sent events: everything at once, then once a second what is new, until the server drains.

        Raises:
            ApiError: 503, so many listen already.
        """
        if self._listeners >= LISTENERS:
            raise ApiError(
                503,
                f"{LISTENERS} pages listen already; ask /dashboard/status now and then instead.",
                type="server_error",
                code="too_many_listeners",
                headers={"Retry-After": "5"},
            )
        return self._events()

    # --- inside -----------------------------------------------------------------------------------------------

    async def _events(self) -> AsyncGenerator[bytes]:
        # Counted from the first message on: one that is never asked for would be counted for ever.
        if self._listeners >= LISTENERS:
            yield b"event: full\ndata: {}\n\n"
            return
        self._listeners += 1
        try:
            number = self._number
            yield b"retry: 2000\n\n" + _event(await self.status())
            while not self._state.draining:
                self._keep_looking()
                looked = self._looked
                try:
                    await asyncio.wait_for(looked.wait(), self._every_s * 3)
                except TimeoutError:
                    continue  # the loop was held up
                missed = self._number != number + 1
                number = self._number
                # Whoever took a message too slowly has missed one, and gets everything again.
                yield _event(await self.status()) if missed else self._message
            yield b"event: end\ndata: {}\n\n"
        finally:
            self._listeners -= 1

    def _keep_looking(self) -> None:
        self._wanted_until = time.monotonic() + _WATCHED_S
        if (self._task is None or self._task.done()) and not self._state.draining:
            self._task = asyncio.get_running_loop().create_task(self._look_on(), name="embatch-dashboard")

    async def _look_on(self) -> None:
        """Look until nobody has watched for long, or the server drains."""
        due = time.monotonic()
        while not self._state.draining and (time.monotonic() < self._wanted_until or self._listeners):
            try:
                await self._look()
            except Exception:  # noqa: BLE001  # a page that cannot be drawn must not stop for ever
                _log.exception("the dashboard could not be told how the server stands")
            due = max(due + self._every_s, time.monotonic())
            await self._until(due)
        self._wake()  # whoever listens sees that the server drains

    async def _until(self, due: float) -> None:
        """Wait for a moment, but not beyond the beginning of draining."""
        while not self._state.draining and (left_s := due - time.monotonic()) > 0:  # noqa: ASYNC110  # a plain flag
            await asyncio.sleep(min(left_s, _NOTICES_S))

    async def _look(self) -> None:
        """Look once, and wake everybody who listens."""
        before = self._gauges[-1].at if self._gauges else time.time()
        if self._state.jobs is not None:
            self._jobs = self._jobs or JobList(self._state.jobs)
            await self._jobs.look()
        if self._state.purse is not None:
            with suppress(EmbatchError):  # then the page shows what was known last
                self._today = sum((await asyncio.to_thread(self._state.purse.spent_today)).values())
        board = await self._board(before)
        rss_bytes = self._process.memory_info().rss
        gauge = status.gauge_of(self._models(), board["recent"], at=board["at"], rss_bytes=rss_bytes)
        self._gauges.append(gauge)
        self._message = _event(self._shaped(board, before)) if self._listeners else b""
        self._wake()

    def _wake(self) -> None:
        self._number += 1
        self._looked.set()
        self._looked = asyncio.Event()

    async def _board(self, since: float) -> dict[str, Any]:
        # Some milliseconds for five busy minutes, in which the loop has requests to answer.
        return await asyncio.to_thread(self._state.board.snapshot, since=since)

    def _models(self) -> list[ModelSeen]:
        opened = self._state.pool.open_models()
        return [
            ModelSeen(
                name=served.name,
                model=served.model,
                provider=is_remote(served.model),
                snapshot=opened[served.name].snapshot() if served.name in opened else None,
            )
            for served in self._state.settings.models
        ]

    def _shaped(self, board: dict[str, Any], since: float) -> dict[str, Any]:
        state, models, now = self._state, self._models(), board["at"]
        return {
            "object": "dashboard.status",
            "at": now,
            "since": since,
            "version": __version__,
            "started_at": state.started_at,
            "uptime_s": round(max(0.0, now - state.started_at), 3),
            "state": "draining" if state.draining else "ready" if state.ready else "starting",
            "not_ready_for": "" if state.ready else state.not_ready_for,
            "models": [status.model_row(model) for model in models],
            "queue": status.queue_of(models),
            "totals": board["totals"],
            "recent": board["recent"],
            "latency_ms": status.latency_of(board["recent"], board["priorities"]),
            "memory": {"rss_bytes": self._process.memory_info().rss, "machine_bytes": self._memory_bytes},
            "jobs": None if self._jobs is None else self._jobs.told(),
            "money": status.money_of(models, today=self._today, limit_per_day=state.settings.dollars_per_day),
            "index": None if state.settings.index is None else index_name(state.settings.index),
            "seconds": status.second_columns(board["seconds"]),
            "batches": status.batch_columns(board["batches"]),
            "gauges": status.gauge_columns(self._gauges, since=since),
        }


def _event(data: dict[str, Any]) -> bytes:
    """One message of server-sent events; JSON has no line breaks in it."""
    body: bytes = orjson.dumps(data, option=orjson.OPT_NON_STR_KEYS)
    return b"event: status\ndata: " + body + b"\n\n"
