"""`AsyncEmbedder`: one model for all tasks of a program; what they ask for at the same time shares batches.

The same coalescing that `embatch serve` does, without HTTP. It wires an `Embedder` to a coalescer: the one of the
engine for a model on this machine, the gateway for a provider's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from embatch.decisions.vectors import quantize
from embatch.engine.coalesce.guarded import Guarded
from embatch.engine.coalesce.local import LocalCoalescer
from embatch.errors import EmbatchError, UsageError
from embatch.frontends.arguments import items_failed, one_of
from embatch.frontends.embedder import Embedder, EmbedResult
from embatch.frontends.hosts import LocalHost
from embatch.serving import Ask, Priority
from embatch.types import Report

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    import numpy.typing as npt

    from embatch.seen import Observer
    from embatch.serving import Answer, Coalescer, Snapshot
    from embatch.storage.spending import Purse
    from embatch.types import ModelSpec, OnError, Output, VectorStore


class AsyncEmbedder:
    """A model that any number of tasks, in any number of event loops, ask at once.

    Args:
        model: as for `Embedder`.
        embedder: an open one instead; the caller's own.
        queue: inputs that may wait; what comes beyond is refused with OverloadedError.
        batch_share: least share of the work that `Priority.BATCH` gets while interactive asks keep coming.
        timeout_s: every ask is answered or refused within so long, unless it says otherwise.
        observer: is told of batches and of the ends of asks.
        purse: for a provider's model, what bounds the money spent in a day.
        **options: more arguments of `Embedder`.
    """

    def __init__(
        self,
        model: str = "minilm",
        *,
        embedder: Embedder | None = None,
        queue: int = 4096,
        batch_share: float = 0.1,
        timeout_s: float | None = None,
        observer: Observer | None = None,
        purse: Purse | None = None,
        **options: Any,
    ) -> None:
        if embedder is not None and options:
            raise UsageError(f"an open embedder has its options: {', '.join(options)} can do nothing")
        self._own = embedder is None
        self.embedder = Embedder(model, **options) if embedder is None else embedder
        """The model."""
        self._timeout_s = timeout_s
        self._mailboxes: dict[asyncio.AbstractEventLoop, _Mailbox] = {}
        try:
            self._coalescer = self._open(queue, batch_share, observer, purse)
        except BaseException:
            if self._own:
                self.embedder.close()
            raise

    @property
    def dimensions(self) -> int:
        """Components of a vector, unless an ask wants fewer."""
        return self.embedder.dimensions

    def spec_for(self, task: str | None) -> ModelSpec:
        """The spec of vectors made for a task.

        Raises:
            UsageError: the model has no such prompt.
        """
        return self.embedder.spec_for(task)

    def snapshot(self) -> Snapshot:
        """How it stands."""
        return self._coalescer.snapshot()

    # --- asking -----------------------------------------------------------------------------------------------

    async def embed(
        self,
        texts: Iterable[str],
        *,
        keys: Sequence[str] | None = None,
        task: str | None = None,
        dimensions: int | None = None,
        priority: Priority | str = Priority.INTERACTIVE,
        timeout_s: float | None = None,
        on_error: OnError | None = None,
    ) -> EmbedResult:
        """Vectors of all texts, in their order; batches are shared with whoever asks at the same time.

        Args:
            texts: any number of strings.
            keys: name the texts in errors; their positions otherwise.
            task: as for `Embedder`, for this call.
            dimensions: cut vectors to so many components, for this call.
            priority: `interactive` goes before `batch`.
            timeout_s: answered or refused within so long.
            on_error: as for `Embedder`, for this call.

        Raises:
            ItemsFailedError: some texts have no vector, and failures are to be raised.
            OverloadedError: too much is waiting already; `retry_after_s` says when to come back.
            ExpiredError: its time is over.
            BackendError: the engine has failed, or was closed.
        """
        listed = _listed(texts)
        strict = one_of("on_error", on_error or self.embedder.on_error, ("raise", "collect")) == "raise"
        if not listed:
            empty = np.empty((0, dimensions or self.dimensions), np.float32)
            return EmbedResult(quantize(empty, self._output), [], Report())
        answer = await self.ask(
            Ask(
                inputs=listed,
                task=task,
                dimensions=dimensions,
                keys=keys,
                priority=Priority(priority),
                timeout_s=timeout_s,
            )
        )
        errors = list(answer.failures)
        if strict and errors:
            raise items_failed(errors, len(listed))
        vectors = answer.vectors
        if errors and self._output in {"int8", "binary"}:
            vectors[[failure.row for failure in errors]] = 0.0
        return EmbedResult(quantize(vectors, self._output), errors, _report(answer, len(listed)))

    async def embed_query(self, text: str, *, timeout_s: float | None = None) -> npt.NDArray[Any]:
        """The vector `(dim,)` of one text, with the model's query prompt.

        Raises:
            ItemError: the text cannot be embedded.
            EmbatchError: as for `embed`.
        """
        answer = await self.ask(Ask(inputs=[text], task="query", timeout_s=timeout_s))
        if answer.failures:
            raise answer.failures[0].error
        vector: npt.NDArray[Any] = quantize(answer.vectors, self._output)[0]
        return vector

    async def ask(self, ask: Ask) -> Answer:
        """What one ask gets: failures of single inputs are in the answer. Cancelling the task cancels the ask.

        Raises:
            OverloadedError: too much is waiting already.
            ExpiredError: its time is over.
            BackendError: the engine has failed, or was closed.
            UsageError: dimensions or a task that the model does not have, or no inputs.
        """
        if ask.timeout_s is None and self._timeout_s is not None:
            ask = replace(ask, timeout_s=self._timeout_s)
        loop = asyncio.get_running_loop()
        mailbox = self._mailboxes.get(loop) or self._new_mailbox(loop)
        future: asyncio.Future[Answer] = loop.create_future()
        ticket = self._coalescer.submit(ask, lambda result: mailbox.put(future, result))
        try:
            return await future
        except asyncio.CancelledError:
            ticket.cancel()
            raise

    # --- closing ----------------------------------------------------------------------------------------------

    def close(self, *, drain_s: float = 0.0) -> None:
        """Answer what waits for up to `drain_s` seconds, the rest with an error; then close the model if it is ours."""
        self._coalescer.close(drain_s=drain_s)
        if isinstance(self.embedder.host, LocalHost):
            self._keep_profile(self.embedder.host)
        if self._own:
            self.embedder.close()

    async def aclose(self, *, drain_s: float = 0.0) -> None:
        """`close`, with the loop free meanwhile."""
        await asyncio.to_thread(self.close, drain_s=drain_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    # --- inside -----------------------------------------------------------------------------------------------

    @property
    def _output(self) -> Output:
        return self.embedder.output

    def _open(
        self, queue: int, batch_share: float, observer: Observer | None, purse: Purse | None
    ) -> Coalescer:
        host = self.embedder.host
        if not isinstance(host, LocalHost):
            from embatch.frontends.gateway import open_gateway

            return open_gateway(
                self.embedder, queue=queue, batch_share=batch_share, observer=observer, purse=purse
            )
        self._tuner = host.new_tuner(asks=True)
        specs = _Specs(self.embedder)
        return LocalCoalescer(
            host.backend,
            specs.of,
            self._tuner,
            queue=queue,
            batch_share=batch_share,
            store_for=specs.store_for if self.embedder.has_cache else None,
            observer=observer,
        )

    def _new_mailbox(self, loop: asyncio.AbstractEventLoop) -> _Mailbox:
        # A program that calls `asyncio.run` again and again leaves a closed loop behind each time.
        kept = {known: mailbox for known, mailbox in list(self._mailboxes.items()) if not known.is_closed()}
        mailbox = kept[loop] = _Mailbox(loop)
        self._mailboxes = kept
        return mailbox

    def _keep_profile(self, host: LocalHost) -> None:
        """Keep the budget that was learned for the next process."""
        now = self._coalescer.snapshot()
        did = Report(
            items=now.inputs, tokens=now.tokens, device_seconds=now.device_seconds, budget=now.budget
        )
        host.keep(did, tuner=self._tuner)


class _Specs:
    """What the vectors of asks are, and where those of each kind are kept. Thread-safe.

    Args:
        embedder: the model; there is no way back to who asks, so that a model is gone as soon as nobody uses it.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._specs: dict[tuple[object, ...], ModelSpec] = {}
        self._stores: dict[str, VectorStore | None] = {}

    def of(self, ask: Ask) -> ModelSpec:
        """The spec of an ask's vectors: the same object for equal ones, of which there are few."""
        key = (ask.task, ask.dimensions, ask.overlong)
        spec = self._specs.get(key)
        if spec is None:
            spec = self._embedder.spec_for(ask.task)
            if ask.dimensions is not None:
                if not 1 <= ask.dimensions <= spec.dimensions:
                    raise UsageError(
                        f"dimensions must lie between 1 and {spec.dimensions}, not {ask.dimensions}"
                    )
                spec = replace(spec, dimensions=ask.dimensions)
            if ask.overlong is not None:
                one_of("overlong", ask.overlong, ("truncate", "pool", "error"))
                spec = replace(spec, overlong=ask.overlong)
            spec = self._specs.setdefault(key, spec)
        return spec

    def store_for(self, spec: ModelSpec) -> VectorStore | None:
        """The vectors that are known under a spec; None if they are not kept."""
        name = spec.fingerprint
        if name not in self._stores:
            store = self._embedder.store_for(spec)
            self._stores.setdefault(name, None if store is None else Guarded(store))
        return self._stores[name]


class _Mailbox:
    """Answers on their way into an event loop: those of one batch wake it once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._letters: deque[tuple[asyncio.Future[Answer], Answer | EmbatchError]] = deque()
        self._called = False

    def put(self, future: asyncio.Future[Answer], result: Answer | EmbatchError) -> None:
        """From any thread."""
        self._letters.append((future, result))
        if not self._called:
            self._called = True
            try:
                self._loop.call_soon_threadsafe(self._open)
            except RuntimeError:
                self._called = False  # the loop is closed: nobody waits there any more

    def _open(self) -> None:
        self._called = False  # before looking: what comes from now on calls again
        while self._letters:
            future, result = self._letters.popleft()
            if future.done():
                continue
            if isinstance(result, EmbatchError):
                future.set_exception(result)
            else:
                future.set_result(result)


def _listed(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str | bytes):
        raise UsageError(
            "embed takes a list of texts, not one text",
            hint="Write embed([text]), or embed_query(text) for a query.",
        )
    return list(texts)


def _report(answer: Answer, items: int) -> Report:
    return Report(
        items=items,
        embedded=items - len(answer.failures) - answer.cached,
        cached=answer.cached,
        truncated=answer.truncated,
        failed=len(answer.failures),
        tokens=answer.tokens,
        seconds=answer.seconds,
        failures=list(answer.failures),
    )
