"""Requests that arrive close together, from tasks and threads, as one run: fewer calls, each fuller.

The first request opens a window. Whatever comes before it closes goes along; once there is enough for a full call
nothing waits any longer. Each caller gets its own results, and only a caller's own texts can fail it. It stands on the
piles that gateways stand on.
"""

from __future__ import annotations

import asyncio
import math
import threading
from concurrent.futures import Future
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from embatch.decisions.pile_turns import Load, Room
from embatch.engine.coalesce.pile_asks import Part
from embatch.engine.coalesce.piles import Piles
from embatch.errors import UsageError
from embatch.frontends.smart.client import SmartGeminiClient
from embatch.frontends.smart.embedding import check_requests
from embatch.frontends.smart.requests import embedding_requests
from embatch.frontends.smart.rules import Asked

if TYPE_CHECKING:
    from collections.abc import Iterable

    from embatch.engine.coalesce.pile_asks import Ended, PileOnItsWay
    from embatch.frontends.smart.requests import EmbeddingRequest, EmbeddingResult

    Requests = list[EmbeddingRequest]
    Results = list[EmbeddingResult]

_FULL = 100  # requests of a full call, where the model does not say
_SENDERS = 256  # runs at once: some wait for jobs, which take hours, and must not keep others from being sent


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
        self._piles: Piles[Requests, Results] | None = None
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
        await asyncio.to_thread(self._check, listed)
        return await asyncio.wrap_future(self._submit(listed, asked))

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
        if not listed:
            return []
        self._check(listed)
        return self._submit(listed, asked).result()

    def close(self) -> None:
        """Send what waits, wait for its results, and close as `SmartGeminiClient` does."""
        with self._opening:
            piles = self._piles
        if piles is not None:
            piles.close(drain_s=math.inf)
            piles.join(math.inf)
        super().close()

    def _check(self, requests: Requests) -> None:
        """Find out whether these can be sent at all: a mistake is its caller's alone."""
        check_requests(requests, self._models, self._model)
        with self._opening:
            if self._piles is None:
                full = self._models.embedding(self._model).facts.call.items or _FULL
                self._piles = Piles(
                    self._send, senders=_SENDERS, window_s=self._window_s, full=Room(items=full)
                )

    def _submit(self, requests: Requests, asked: Asked) -> Future[Results]:
        """The results to come. A future that is cancelled in time takes its requests along."""
        assert self._piles is not None
        future: Future[Results] = Future()

        def ended(how: Ended[Results]) -> None:
            if not future.set_running_or_notify_cancel():
                return
            if how.error is not None:
                future.set_exception(how.error)
            else:
                future.set_result(how.results[0])

        whole = Part(requests, Load(len(requests)))  # a caller's requests stay together
        ticket = self._piles.submit([whole], asked, ended)
        future.add_done_callback(lambda done: ticket.cancel() if done.cancelled() else None)
        return future

    def _send(self, pile: PileOnItsWay[Requests, Results]) -> list[Results]:
        assert isinstance(pile.terms, Asked)
        asks = pile.payloads
        results = self._embed([request for requests in asks for request in requests], pile.terms)
        ends = list(accumulate(len(requests) for requests in asks))
        return [results[end - len(requests) : end] for requests, end in zip(asks, ends, strict=True)]
