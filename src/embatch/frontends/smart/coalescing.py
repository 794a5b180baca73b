"""Requests that arrive close together, from tasks and threads, as one run: fewer calls, each fuller.

The first request opens a window. Whatever comes before it closes goes along; once there is enough for a full call
nothing waits any longer. Each caller gets its own results, and only a caller's own texts can fail it.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from embatch.errors import BackendClosedError, UsageError
from embatch.frontends.smart.client import SmartGeminiClient
from embatch.frontends.smart.embedding import check_requests
from embatch.frontends.smart.requests import embedding_requests
from embatch.frontends.smart.rules import Asked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from embatch.frontends.smart.requests import EmbeddingRequest, EmbeddingResult

    Send = Callable[[list[EmbeddingRequest], Asked], list[EmbeddingResult]]

_FULL = 100  # requests of a full call, where the model does not say


@dataclass(slots=True)
class _Member:
    requests: list[EmbeddingRequest]
    future: Future[list[EmbeddingResult]] = field(default_factory=Future)


@dataclass(slots=True)
class _Pile:
    """What waits for one window's end."""

    asked: Asked
    timer: threading.Timer
    members: list[_Member] = field(default_factory=list)
    count: int = 0


class Coalescer:
    """Piles up requests and sends each pile as one. Thread-safe.

    Args:
        send: results of requests, one each; called from threads of the coalescer's own.
        window_s: longest wait, in seconds of the world.
        full: so many requests go at once.
    """

    def __init__(self, send: Send, *, window_s: float, full: int) -> None:
        self._send = send
        self._window_s = window_s
        self._full = full
        self._piles: dict[Asked, _Pile] = {}
        self._sending = 0
        self._closed = False
        self._changed = threading.Condition()

    def submit(self, requests: list[EmbeddingRequest], asked: Asked) -> Future[list[EmbeddingResult]]:
        """The results to come. A future that is cancelled in time takes its requests along."""
        member = _Member(requests)
        with self._changed:
            if self._closed:
                raise BackendClosedError("the client was closed", hint="Make a new one, or close it later.")
            pile = self._piles.get(asked) or self._new_pile(asked)
            pile.members.append(member)
            pile.count += len(requests)
            full = pile.count >= self._full and self._take(pile)
        if full:
            pile.timer.cancel()
            threading.Thread(target=self._run, args=(pile,), name="embatch-coalesced", daemon=True).start()
        return member.future

    def close(self) -> None:
        """Send what waits, and wait for all results. Closing twice is allowed."""
        with self._changed:
            self._closed = True
            piles = [pile for pile in list(self._piles.values()) if self._take(pile)]
        for pile in piles:
            pile.timer.cancel()
            self._run(pile)
        with self._changed:
            self._changed.wait_for(lambda: not self._sending)

    def _new_pile(self, asked: Asked) -> _Pile:
        timer = threading.Timer(self._window_s, lambda: self._time_is_over(pile))
        timer.daemon = True
        timer.name = "embatch-coalesced"
        pile = self._piles[asked] = _Pile(asked, timer)
        timer.start()
        return pile

    def _take(self, pile: _Pile) -> bool:
        """Whether it is the caller's to send; it is only one caller's."""
        if self._piles.get(pile.asked) is not pile:
            return False
        del self._piles[pile.asked]
        self._sending += 1
        return True

    def _time_is_over(self, pile: _Pile) -> None:
        with self._changed:
            mine = self._take(pile)
        if mine:
            self._run(pile)

    def _run(self, pile: _Pile) -> None:
        members = [member for member in pile.members if member.future.set_running_or_notify_cancel()]
        try:
            self._answer(members, pile.asked)
        finally:
            with self._changed:
                self._sending -= 1
                self._changed.notify_all()

    def _answer(self, members: list[_Member], asked: Asked) -> None:
        try:
            results = self._send([request for member in members for request in member.requests], asked)
        except BaseException as error:  # noqa: BLE001  # every waiter gets an answer
            for member in members:
                member.future.set_exception(error)
            return
        start = 0
        for member in members:
            member.future.set_result(results[start : start + len(member.requests)])
            start += len(member.requests)


class CoalescingSmartClient(SmartGeminiClient):
    """Combines requests that arrive together, from any tasks and threads, into one run.

    The threshold is for what was combined: many callers with one text each are many texts, and may go as a job. Texts
    that must not wait for a job are asked for with `force_individual=True`, or for a purpose that is preferred; they
    are combined among themselves.

    Args:
        *arguments: as for `SmartGeminiClient`.
        coalesce_window: seconds that a request waits for others at most.
        **options: as for `SmartGeminiClient`.
    """

    def __init__(self, *arguments: Any, coalesce_window: float = 1.0, **options: Any) -> None:
        if not coalesce_window >= 0:
            raise UsageError(f"coalesce_window must be at least 0 seconds, not {coalesce_window}")
        super().__init__(*arguments, **options)
        self._window_s = self._clock.real(coalesce_window)
        self._coalescer: Coalescer | None = None
        self._opening = threading.Lock()

    async def embed_content(  # type: ignore[override]  # the very point: to be awaited
        self,
        requests: Iterable[EmbeddingRequest | str],
        *,
        force_batch: bool = False,
        force_individual: bool = False,
        purpose: str | None = None,
    ) -> list[EmbeddingResult]:
        """As `SmartGeminiClient.embed_content`, to be awaited. A waiter that is cancelled disturbs no other."""
        asked = Asked(batch=force_batch, individual=force_individual, purpose=purpose)
        listed = embedding_requests(requests)
        if not listed:
            return []
        coalescer = await asyncio.to_thread(self._ready_for, listed)
        return await asyncio.wrap_future(coalescer.submit(listed, asked))

    async def aembed_content(
        self,
        requests: Iterable[EmbeddingRequest | str],
        *,
        force_batch: bool = False,
        force_individual: bool = False,
        purpose: str | None = None,
    ) -> list[EmbeddingResult]:
        """The same as `embed_content`."""
        return await self.embed_content(
            requests, force_batch=force_batch, force_individual=force_individual, purpose=purpose
        )

    def embed_content_sync(
        self,
        requests: Iterable[EmbeddingRequest | str],
        *,
        force_batch: bool = False,
        force_individual: bool = False,
        purpose: str | None = None,
    ) -> list[EmbeddingResult]:
        """`embed_content` for threads: waits for the results."""
        asked = Asked(batch=force_batch, individual=force_individual, purpose=purpose)
        listed = embedding_requests(requests)
        return self._ready_for(listed).submit(listed, asked).result() if listed else []

    def close(self) -> None:
        """Send what waits, wait for its results, and close as `SmartGeminiClient` does."""
        with self._opening:
            coalescer = self._coalescer
        if coalescer is not None:
            coalescer.close()
        super().close()

    def _ready_for(self, requests: list[EmbeddingRequest]) -> Coalescer:
        """The coalescer, once it is known that these requests can be sent at all: a mistake is its caller's alone."""
        check_requests(requests, self._models, self._model)
        with self._opening:
            if self._coalescer is None:
                full = self._models.embedding(self._model).facts.call.items or _FULL
                self._coalescer = Coalescer(self._embed, window_s=self._window_s, full=full)
            return self._coalescer
