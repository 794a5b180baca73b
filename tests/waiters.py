"""Who waits for a coalescer, in tests: what an ask was told, and what an observer has seen."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from embatch.errors import EmbatchError
from embatch.seen import AskSeen, BatchSeen
from embatch.serving import Answer, Ask

if TYPE_CHECKING:
    from embatch.seen import Seen
    from embatch.serving import Coalescer, Ticket

WAIT_S = 30.0


class Got:
    """What an ask was told: once, or the test fails."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.told: list[Answer | EmbatchError] = []

    def __call__(self, result: Answer | EmbatchError) -> None:
        self.told.append(result)
        self._event.set()

    @property
    def result(self) -> Answer | EmbatchError:
        assert self._event.wait(WAIT_S), "nobody told this waiter anything"
        assert len(self.told) == 1
        return self.told[0]

    @property
    def answer(self) -> Answer:
        result = self.result
        assert isinstance(result, Answer), result
        return result

    @property
    def error(self) -> EmbatchError:
        result = self.result
        assert isinstance(result, EmbatchError), result
        return result


class Asked(Got):
    """An ask that was let in, and what it was told."""

    def __init__(self, coalescer: Coalescer, *texts: Any, **options: Any) -> None:
        super().__init__()
        self.ticket: Ticket = coalescer.submit(Ask(inputs=list(texts), **options), self)


class Watcher:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []

    def see(self, seen: Seen) -> None:
        self.seen.append(seen)

    @property
    def asks(self) -> list[AskSeen]:
        return [one for one in self.seen if isinstance(one, AskSeen)]

    @property
    def batches(self) -> list[BatchSeen]:
        return [one for one in self.seen if isinstance(one, BatchSeen)]
