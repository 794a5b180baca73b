"""An emulator in this process: a server in a thread, and the way in behind it."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Self

from embatch.emulator.control import Control
from embatch.emulator.options import EmulatorOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.emulator.catalog import ProviderName
    from embatch.emulator.scenario import TimedEvent

_START_S = 20.0


class Emulator(Control):
    """A provider on loopback, from `start` to `stop`, or as a context.

    Args:
        provider: whose protocol is spoken: `gemini` or `openai`.
        options: settings.
        host: address to listen at.
        port: 0 for a free one.
        events: what happens at which virtual second, from a scenario.

    Raises:
        ValueError: no such provider, or quotas that it does not have.
        OSError: the port is taken, or the state's folder cannot be used.
        ModuleNotFoundError: starlette or uvicorn is not installed.
    """

    def __init__(
        self,
        provider: ProviderName,
        *,
        options: EmulatorOptions | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        events: Sequence[TimedEvent] = (),
    ) -> None:
        from embatch.emulator import server

        self.provider = provider
        self.options = options or EmulatorOptions()
        self._socket = server.listen(host, port)
        self._host, self._port = self._socket.getsockname()[:2]
        try:
            core, clock = server.build(provider, self.options)
        except BaseException:
            self._socket.close()
            raise
        super().__init__(core, clock)
        # After a restart, what happened before it is part of the state; only quotas are not kept there.
        due = [
            event
            for event in events
            if event.at >= clock.now() or event.quota is not None or not clock.started
        ]
        core.events = [(each.at, each.action(self)) for each in sorted(due, key=lambda each: each.at)]
        self._server = server.make(core, provider, clock, self)
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """What a client is pointed at: with `/v1` for OpenAI, without a version for Gemini."""
        return self.root + ("/v1" if self.provider == "openai" else "")

    @property
    def root(self) -> str:
        """Scheme, host and port: what `EmulatorClient` is pointed at."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    def start(self) -> Self:
        """Serve, in a thread of its own, without touching signal handlers."""
        thread = threading.Thread(target=self._serve, name="embatch-emulator", daemon=True)
        self._thread = thread
        thread.start()
        if not self._server.ready.wait(_START_S):
            self.stop()
            raise RuntimeError("the emulator's server did not start")
        return self

    def _serve(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))

    def stop(self) -> None:
        """End all requests and give back everything. Stopping twice is allowed."""
        self._clock.close()
        self._server.stop()
        if self._thread is not None:
            self._thread.join(_START_S)
            self._thread = None
        self._socket.close()
        self._core.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
