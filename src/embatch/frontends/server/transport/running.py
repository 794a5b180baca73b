"""Runs a server: socket, loop, application, signals, and an end that loses no request which is in.

On the first SIGTERM or SIGINT it lets nothing more in, answers what is in for up to `drain_s` seconds, and then ends
the application, which has batch jobs stop at a row. On the second it ends at once. Which routes there are is `app`'s
matter.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, Self

import uvicorn

from embatch.engine.allocator import few_heaps
from embatch.frontends import telemetry
from embatch.frontends.server.transport.lifespan import alive
from embatch.frontends.server.transport.listening import BACKLOG, fit_to_files, listen, url_of
from embatch.frontends.server.transport.middleware import Front
from embatch.frontends.server.transport.protocol import LimitedProtocol
from embatch.frontends.server.transport.traffic import Traffic
from embatch.storage.run_records import open_record

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from types import FrameType

    from embatch.frontends.server.settings import ServeSettings
    from embatch.frontends.server.state import ServerState
    from embatch.storage.run_records import RecordObserver

log = logging.getLogger("embatch.serve")

_SWITCH_S = 0.0005
"""How long a thread keeps the interpreter while others want it. Streams come back from the backend many times a second
and need it for microseconds each; at Python's 5 ms they would wait for the loop's thread instead of computing."""
_LEAST_HEAPS = 2
_TICK_S = 1.0
_LOOK_S = 0.01  # at what is left, while draining
_LAST_WORDS_S = 0.5  # for the answers that tell of the stop
_EXIT_AT_ONCE = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Server(uvicorn.Server):  # type: ignore[misc]  # uvicorn's types are not looked at
    """uvicorn's server with an end of its own.

    Args:
        app: the application; it is begun before anything is let in.
        settings: limits.
        state: what routes share, told of the draining; None for applications without.
    """

    def __init__(self, app: Any, settings: ServeSettings, state: ServerState | None = None) -> None:
        self.settings = settings
        self.state = state
        self.traffic = Traffic() if state is None else state.board.traffic
        self._application = app
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._stopping = False
        protocol = functools.partial(LimitedProtocol, settings=settings, traffic=self.traffic)
        super().__init__(
            uvicorn.Config(
                Front(app, settings, self.traffic),
                http=protocol,
                ws="none",
                interface="asgi3",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
            )
        )

    def run_until_stopped(self, listener: socket.socket, started: Callable[[], None]) -> None:
        """Serve in this thread.

        Args:
            listener: closed at the end.
            started: called once the application is set up and requests are let in.

        Raises:
            EmbatchError: the application could not be set up.
        """
        with asyncio.Runner(loop_factory=self.config.get_loop_factory()) as runner:
            runner.run(self._run(listener, started))

    def stop(self) -> None:
        """End as after SIGTERM; from any thread."""
        self._stopping = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._stop.set)

    async def _run(self, listener: socket.socket, started: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        if self._stopping:
            self._stop.set()
        with self.capture_signals(), contextlib.closing(listener):
            async with alive(self._application):
                self._started = started
                await self._serve([listener])

    async def main_loop(self) -> None:
        """Keep the date in the answers' headers, until it is time to stop."""
        await self.on_tick(0)
        self._started()
        frozen = False
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), _TICK_S)
            await self.on_tick(0)
            if not frozen and (self.state is None or self.state.ready):
                # What is alive once models are open stays so: the collector need not walk through it again and again.
                gc.collect()
                gc.freeze()
                frozen = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let nothing more in, and answer what is in."""
        if self.state is not None:
            self.state.draining = True
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        left = await self._settle(self.settings.drain_s)
        if left:
            log.warning(
                "%d requests were not answered within %g s; they are told so", left, self.settings.drain_s
            )
            for task in list(self.server_state.tasks):
                task.cancel()
            await self._settle(_LAST_WORDS_S)
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    async def _settle(self, seconds: float) -> int:
        """Wait until every request has ended and its answer is out; how many have not."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        # uvicorn keeps sets, and tells nobody when they are empty.
        while (self.server_state.tasks or self.server_state.connections) and loop.time() < until:  # noqa: ASYNC110  # as above
            await asyncio.sleep(_LOOK_S)  # uvicorn keeps sets, and tells nobody when they are empty
        return len(self.server_state.tasks)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take SIGTERM and SIGINT meanwhile; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._signalled) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _signalled(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  # a handler's signature
        if self._stopping:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):  # whatever ails it, this is the end
                    stream.flush()
            os._exit(_EXIT_AT_ONCE)
        if self.traffic.under_way:  # otherwise it ends before anybody has read this
            log.warning(
                "stopping: %d requests are answered first, for up to %g s; a second signal ends at once",
                self.traffic.under_way,
                self.settings.drain_s,
            )
        self.stop()


class BackgroundServer:
    """A server in a thread of this process, for tests and notebooks: `with BackgroundServer(app, settings) as server`.

    Args:
        app: the application.
        settings: port 0 takes a free one.
        state: what routes share, if the application has it.
    """

    def __init__(self, app: Any, settings: ServeSettings, state: ServerState | None = None) -> None:
        self.server = Server(app, settings, state)
        self._listener = listen(settings.host, settings.port)
        self.url = url_of(self._listener)
        self.port: int = self._listener.getsockname()[1]
        self._up = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="embatch-serve", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._up.wait()
        if self._error is not None:
            self._thread.join()
            raise self._error
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Drain and end."""
        self.server.stop()
        self._thread.join()

    def _run(self) -> None:
        try:
            self.server.run_until_stopped(self._listener, self._up.set)
        except BaseException as error:  # noqa: BLE001  # raised where the server is entered
            self._error = error
        finally:
            self._up.set()


def prepare_process() -> None:
    """How threads share the interpreter and the memory: for the whole process, before there are many."""
    sys.setswitchinterval(_SWITCH_S)
    few_heaps(max(_LEAST_HEAPS, os.cpu_count() or 1))


def serve(settings: ServeSettings, *, started: Callable[[str], None] = lambda _: None) -> int:
    """Serve until SIGTERM or SIGINT; must be called in the main thread.

    Args:
        settings: checked; the port is bound before anything else is done.
        started: gets the server's address once requests are let in.

    Returns:
        0, after all that was in has been answered or told of the end.

    Raises:
        UsageError: it cannot listen there.
        EmbatchError: the application could not be set up.
    """
    from embatch.frontends.server.app import build_app

    listener = listen(settings.host, settings.port)
    fitted = fit_to_files(settings)
    if fitted is not settings:
        log.warning("only %d connections fit the limit on open files (ulimit -n)", fitted.connections)
    url = url_of(listener)
    prepare_process()
    with contextlib.closing(listener):
        telemetry.start("embatch-serve")
        try:
            with _record(fitted) as record:
                app = build_app(fitted, observer=record)
                server = Server(telemetry.middleware(app), fitted, app.state.server)
                server.run_until_stopped(listener, lambda: started(url))
        finally:
            telemetry.stop()
    return 0


def _record(settings: ServeSettings) -> RecordObserver:
    first = settings.models[0]
    return open_record(
        "serve",
        command=sys.argv[1:],
        enabled=settings.record,
        settings={"queue": settings.queue, "batch_share": settings.batch_share, **first.options},
        model=first.model,
    )
