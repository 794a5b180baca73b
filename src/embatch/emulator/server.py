"""The server under an emulator: uvicorn in whatever thread calls it.

Imports uvicorn, so it is loaded only when an emulator is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import python_multipart  # noqa: F401  # starlette reads forms with it, and says so only when one comes
import uvicorn

from embatch.emulator.admin import Admin
from embatch.emulator.app import App
from embatch.emulator.clock import Clock
from embatch.emulator.core import Core
from embatch.emulator.gemini import room as gemini_room
from embatch.emulator.openai import room as openai_room

if TYPE_CHECKING:
    from embatch.emulator.catalog import ProviderName
    from embatch.emulator.control import Control
    from embatch.emulator.options import EmulatorOptions

_ROOMS: dict[str, Any] = {"gemini": gemini_room, "openai": openai_room}
_TICK_S = 0.1


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        OSError: the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol must be named: asyncio switches Nagle's algorithm off for such sockets only, and with it each reply
    # waits 40 ms for the client's delayed acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except BaseException:
        listener.close()
        raise
    return listener


def build(provider: ProviderName, options: EmulatorOptions) -> tuple[Core, Clock]:
    """The provider and its time: where an earlier emulator with the same state left off, or at its beginning.

    Raises:
        ValueError: no such provider, or quotas that it does not have.
    """
    if provider not in _ROOMS:
        raise ValueError(f"there is no provider {provider!r}; there are {', '.join(_ROOMS)}")
    core = Core(provider, options, read_rows=_ROOMS[provider].read_rows)
    left = core.store.meta("clock")
    start = 0.0
    if left is not None:  # time went on while no emulator ran
        start = left["virtual"] + max(0.0, time.time() - left["real"]) * left["scale"]
    return core, Clock(options.time_scale, start)


def make(core: Core, provider: ProviderName, clock: Clock, control: Control) -> Server:
    """The server, ready to serve."""
    app = App(core, _ROOMS[provider], clock, Admin(control))
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
    )
    return Server(config)


class Server(uvicorn.Server):  # type: ignore[misc]  # uvicorn's types are not looked at
    """uvicorn's, made to start and stop at once."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()

    async def main_loop(self) -> None:
        """Look after time-outs ten times a second, as uvicorn does, and end as soon as `stop` is called."""
        self._loop = asyncio.get_running_loop()
        self.ready.set()
        counter = 0
        while not await self.on_tick(counter):
            counter = (counter + 1) % 864_000
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), _TICK_S)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Break off what is under way, and close everything, without uvicorn's waits."""
        for server in self.servers:
            server.close()
        tasks = list(self.server_state.tasks)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listener in sockets or []:
            listener.close()

    def stop(self) -> None:
        """End `serve`, from any thread. What is under way is broken off."""
        self.should_exit = True
        self.force_exit = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._stop.set)
