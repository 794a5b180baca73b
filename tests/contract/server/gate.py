"""A backend that computes when it is told to, and a look at the queue before it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from tests.doubles import FakeBackend, Faults

if TYPE_CHECKING:
    from collections.abc import Callable

    from embatch.frontends.server.transport.running import BackgroundServer
    from embatch.serving import Snapshot


class Gate:
    """Holds a backend's calls until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self._open = threading.Event()
        self.backend = FakeBackend(faults=Faults(before_embed=self._hold))

    def open(self) -> None:
        self._open.set()

    def _hold(self, _: list[str]) -> None:
        self.entered.set()
        assert self._open.wait(10)


def until(true: Callable[[], bool]) -> None:
    """Wait for something that happens soon, in another thread."""
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


def snapshot_of(server: BackgroundServer) -> Snapshot:
    """How the double's coalescer stands."""
    state = server.server.state
    assert state is not None
    return state.pool.open_models()["fake"].snapshot()


def waiting(server: BackgroundServer) -> int:
    """Inputs that wait before the double."""
    return sum(snapshot_of(server).waiting.values())
