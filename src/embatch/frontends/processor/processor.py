"""`BatchEmbeddingProcessor`: chunks in, vectors out, with progress, from asynchronous code.

The front of chunks → rows → engine → results. It checks what it is given and opens what the run goes over; batches,
retries and repeats are the engine's.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import math
import threading
from typing import TYPE_CHECKING, Any, Literal, Self

from embatch.engine.lanes.clock import Clock
from embatch.errors import UsageError
from embatch.frontends.processor.intake import Rows
from embatch.frontends.processor.running import Run, Wake

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from types import TracebackType

    from embatch.frontends.embedder import Embedder
    from embatch.frontends.processor.drives import Drive
    from embatch.frontends.processor.intake import Chunks
    from embatch.frontends.processor.records import BatchProgress, ProcessResult
    from embatch.frontends.processor.services import EmbeddingService

    OnProgress = Callable[[BatchProgress], Awaitable[object] | object]

_log = logging.getLogger(__name__)


class BatchEmbeddingProcessor:
    """Vectors for any number of chunks, in batches, with progress.

    Chunks are strings, Items, `embatch.chunks.Chunk`s, or objects and dicts with a `text` or `content`, in any iterable
    or async iterable. Equal texts are embedded once.

    Args:
        embedding_service: an object with `async generate_embeddings(texts)` that answers `.embeddings`, `.model` and
            `.usage`; it stays the caller's. Or an `Embedder`, whose lanes, goals and cache are used as they are. None:
            the default model, on this machine.
        batch_size: chunks in one call at most; `auto` sizes calls by what they hold and how long they take. On this
            machine a bound beside the budget of tokens that the engine finds by itself.
        max_retries: how often a chunk that a service fails on is sent again before it is tried apart from its
            neighbours, down to the one to blame. Refusals for a quota do not count: they are waited for.
        retry_delay: seconds before the first of these at least; doubled with each round of failures, with jitter. What
            the service itself asks for (`retry_after`) is waited for, if it is longer.
        max_concurrent_batches: calls of a service under way at most; fewer while it is in trouble. A model on this
            machine works on as many batches at once as it has streams.
        timeout: seconds after which a call of a service counts as lost.
        price: dollars per million tokens of a service; known by itself for the models of OpenAI and Gemini.
        clock: the time that retries live by; only tests and rehearsals give another.

    Raises:
        UsageError: a value that makes no sense.
    """

    def __init__(  # one argument for each choice that a user has
        self,
        embedding_service: EmbeddingService | Embedder | None = None,
        batch_size: int | Literal["auto"] = 100,
        max_retries: int = 3,
        retry_delay: float = 1.0,
        max_concurrent_batches: int = 5,
        *,
        timeout: float = 60.0,
        price: float | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._batch_size = None if batch_size == "auto" else _count("batch_size", batch_size, 1)
        self._max_retries = _count("max_retries", max_retries, 0)
        self._concurrent = _count("max_concurrent_batches", max_concurrent_batches, 1)
        self._retry_delay = _number("retry_delay", retry_delay, 0.0)
        self._timeout_s = _number("timeout", timeout, 0.001)
        self._price = None if price is None else _number("price", price, 0.0)
        self._clock = clock or Clock()
        self._service, self._embedder = _told_apart(embedding_service)
        self._own: Embedder | None = None
        self._lock = threading.Lock()
        self.result: ProcessResult | None = None
        """Of the last run whose vectors were kept, as far as it came; None before any."""

    async def process_with_progress(
        self, chunks: Chunks, *, keep: bool | None = None
    ) -> AsyncGenerator[BatchProgress]:
        """Embed all chunks, and tell how far it is whenever something has changed.

        Args:
            chunks: any iterable or async iterable. A plain iterable is read in another thread.
            keep: keep all vectors for `result`. None: if the number of chunks is known, so that they fit into memory.
                What is not kept must be taken from each progress's `results`: memory stays bounded then.

        Yields:
            Progress; the last one is complete.

        Raises:
            UsageError: `chunks` is no collection of chunks.
            EmbatchError: the model cannot be opened, or failed as a whole. Chunks that fail raise nothing.
            Exception: what `chunks` raised, once everything before it is embedded.
        """
        run = await self._begun(chunks, keep=keep)
        async with contextlib.aclosing(self._watched(run)) as progresses:
            async for progress in progresses:
                yield progress

    async def process_chunks(
        self, chunks: Chunks, progress_callback: OnProgress | None = None
    ) -> ProcessResult:
        """Embed all chunks.

        Args:
            chunks: as for `process_with_progress`.
            progress_callback: called with each progress, and awaited if it can be. What it raises is logged and ends
                the calls, not the run.

        Returns:
            Vectors in the order of the chunks, the failures named, and what was used.

        Raises:
            EmbatchError: as `process_with_progress`. What was finished by then is in `result`.
        """
        run = await self._begun(chunks, keep=True)
        async with contextlib.aclosing(self._watched(run)) as progresses:
            async for progress in progresses:
                if progress_callback is not None and not await _called(progress_callback, progress):
                    progress_callback = None
        result = run.result()
        assert result is not None
        return result

    async def aclose(self) -> None:
        """Give back the default model, if it was opened. Service and Embedder stay the caller's."""
        own, self._own = self._own, None
        if own is not None:
            await asyncio.to_thread(own.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # --- inside -----------------------------------------------------------------------------------------------

    async def _begun(self, chunks: Chunks, *, keep: bool | None) -> Run:
        loop = asyncio.get_running_loop()
        rows, wake = Rows(chunks, loop), Wake(loop)
        known = rows.total is not None
        return Run(await self._drive(loop, wake), rows, wake, keep=known if keep is None else keep)

    async def _watched(self, run: Run) -> AsyncGenerator[BatchProgress]:
        """A run's progress; what it has finished is kept, however it ends."""
        try:
            async with contextlib.aclosing(run.progresses()) as progresses:
                async for progress in progresses:
                    yield progress
        finally:
            result = run.result()
            self.result = self.result if result is None else result

    async def _drive(self, loop: asyncio.AbstractEventLoop, wake: Wake) -> Drive:
        from embatch.frontends.hosts import LocalHost
        from embatch.frontends.processor import drives

        if self._service is None:
            embedder = self._embedder
            if embedder is None:
                embedder = await asyncio.to_thread(self._opened)
            if isinstance(embedder.host, LocalHost):
                return drives.LocalDrive(embedder, batch_size=self._batch_size, notify=wake.notify)
            return drives.ProviderDrive(embedder)
        return drives.ServiceDrive(
            self._provider(loop, wake),
            batch_size=self._batch_size,
            concurrent=self._concurrent,
            max_retries=self._max_retries,
            price=self._price,
            clock=self._clock,
        )

    def _provider(self, loop: asyncio.AbstractEventLoop, wake: Wake) -> Any:
        from embatch.frontends.processor.services import ServiceProvider, facts_of
        from embatch.frontends.processor.verdicts import Verdicts

        assert self._service is not None
        return ServiceProvider(
            self._service,
            facts_of(self._service, self._batch_size),
            Verdicts(max_retries=self._max_retries, retry_delay=self._retry_delay),
            loop=loop,
            clock=self._clock,
            timeout_s=self._timeout_s,
            notify=wake.notify,
        )

    def _opened(self) -> Embedder:
        """The default model, opened once."""
        from embatch.frontends.embedder import Embedder

        with self._lock:
            if self._own is None:
                self._own = Embedder()
            return self._own


async def _called(callback: OnProgress, progress: BatchProgress) -> bool:
    """Whether the callback took the progress."""
    try:
        answer = callback(progress)
        if inspect.isawaitable(answer):
            await answer
    except Exception as error:  # noqa: BLE001  # whoever watches must not cost the results
        _log.warning("the progress callback raised and is not called again: %s", error, exc_info=error)
        return False
    return True


def _told_apart(service: object) -> tuple[Any, Embedder | None]:
    """A service, or an Embedder, or neither.

    Raises:
        UsageError: it is something else.
    """
    if service is None:
        return None, None
    if callable(getattr(service, "generate_embeddings", None)):
        return service, None
    from embatch.frontends.embedder import Embedder

    if isinstance(service, Embedder):
        return None, service
    raise UsageError(
        f"an embedding service has `async generate_embeddings(texts)`; a {type(service).__name__} has not",
        hint="Pass such an object, an Embedder, or nothing for the default model.",
    )


def _count(name: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        or_auto = ' or "auto"' if name == "batch_size" else ""
        raise UsageError(f"{name} must be a whole number of at least {least}{or_auto}, not {value!r}")
    return value


def _number(name: str, value: object, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
        raise UsageError(f"{name} must be a number of at least {least:g}, not {value!r}")
    return float(value)
