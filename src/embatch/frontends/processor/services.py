"""A user's embedding service as a `Provider`: calls only, so that the lanes pack, pace, repeat and split them.

Stands where the adapters of `providers` stand. The service is asynchronous and belongs to the caller's event loop; the
engine calls from threads of its own. It decides nothing: what an exception means is `verdicts`' matter, what an answer
holds `answers`'.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

from embatch.errors import ProviderError, UsageError
from embatch.frontends.processor.answers import read_answer
from embatch.remote import CallAnswer, CallLimits, ErrorKind, ModelFacts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embatch.engine.lanes.clock import Clock
    from embatch.frontends.processor.answers import Answer
    from embatch.frontends.processor.verdicts import Verdicts
    from embatch.remote import Work

_LONGEST = 1_000_000_000  # tokens: a service says itself what is too long
AUTO_ITEMS, AUTO_TOKENS = 256, 100_000
"""Most texts and estimated tokens of a call with `batch_size="auto"`: below what any hosted model takes."""
_ENDS_S = 1.0  # that calls which were cancelled are waited for


class EmbeddingService(Protocol):
    """Anything that turns texts into vectors."""

    async def generate_embeddings(self, texts: list[str]) -> Any:
        """An object with `embeddings` (one a text), and perhaps `model` and `usage`."""
        ...


def facts_of(service: object, batch_size: int | None) -> ModelFacts:
    """What is known of a service before its first answer. `batch_size` None: by the engine's own judgement."""
    call = CallLimits(
        items=AUTO_ITEMS if batch_size is None else batch_size,
        tokens=AUTO_TOKENS if batch_size is None else None,
        item_tokens=_LONGEST,
    )
    return ModelFacts(
        provider="service", model=type(service).__name__, dimensions=0, truncates=True, call=call
    )


class CallsOnly:
    """What a `Provider` can do beside calls, and a service cannot: its facts say that there are no jobs."""

    def _refuse(self, *_: object, **__: object) -> Any:
        raise UsageError("an embedding service answers calls and nothing else")

    stream = submit = poll = results = cancel = find = clean_up = _refuse

    def close(self) -> None:
        """Nothing: the service is the caller's."""


class ServiceProvider(CallsOnly):
    """A service that answers calls.

    Args:
        service: the user's.
        facts: of it; see `facts_of`.
        verdicts: what its failures mean.
        loop: the caller's event loop: the service is awaited there.
        clock: the time to live by.
        timeout_s: after which a call counts as lost.
        notify: called when a call has ended, in any thread.
    """

    name = "service"
    account = "00000000"

    def __init__(
        self,
        service: EmbeddingService,
        facts: ModelFacts,
        verdicts: Verdicts,
        *,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        timeout_s: float,
        notify: Callable[[], None],
    ) -> None:
        self.facts = facts
        self.model = ""
        """As the service calls it."""
        self.usage: Counter[str] = Counter()
        self.verdicts = verdicts
        self._service: Any = service
        self._loop = loop
        self._clock = clock
        self._timeout_s = timeout_s
        self._notify = notify
        self._lock = threading.Lock()
        self._tasks: set[asyncio.Future[Any]] = set()
        self.stopped = False
        """Whether nothing may be sent any more."""

    def call(self, texts: Sequence[str], work: Work, *, timeout_s: float) -> CallAnswer:
        """One call of the service, from a thread of the engine."""
        del work, timeout_s  # the caller of the processor says how long a call may take
        sent_at = self._clock.now()
        try:
            answer = read_answer(self._asked(list(texts)), len(texts))
        except BaseException as error:
            if self.stopped:
                raise cancelled() from error
            with self._lock:
                verdict = self.verdicts.judge(texts, error, sent_at=sent_at, now=self._clock.now())
            raise verdict from error
        else:
            return self._kept(texts, answer)
        finally:
            self._notify()

    def stop(self) -> None:
        """Send nothing more and cancel what is under way. In the loop's thread."""
        self.stopped = True
        for task in list(self._tasks):
            task.cancel()

    async def ended(self) -> None:
        """Wait until no call is left in the loop, for a moment: one that refuses to be cancelled is left alone."""
        self.stop()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_ENDS_S)

    def _kept(self, texts: Sequence[str], answer: Answer) -> CallAnswer:
        with self._lock:
            self.verdicts.answered(texts)
            self.model = answer.model or self.model
            self.usage.update(answer.usage)
        return CallAnswer(results=answer.results, tokens=answer.tokens)

    def _asked(self, texts: list[str]) -> object:
        if self.stopped:
            raise cancelled()
        asking = self._ask(texts)
        try:
            future = asyncio.run_coroutine_threadsafe(asking, self._loop)
        except RuntimeError:  # the loop is closed
            asking.close()
            raise
        return future.result()

    async def _ask(self, texts: list[str]) -> object:
        if self.stopped:
            raise cancelled()
        task = asyncio.ensure_future(self._generated(texts))
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        done, _ = await asyncio.wait({task}, timeout=self._clock.real(self._timeout_s))
        if not done:
            task.cancel()  # not waited for: it may refuse
            raise TimeoutError(f"no answer within {self._timeout_s:g} s")
        return task.result()

    async def _generated(self, texts: list[str]) -> object:
        answer = self._service.generate_embeddings(texts)
        return await answer if inspect.isawaitable(answer) else answer

    def _forget(self, task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, or the loop complains


def cancelled() -> ProviderError:
    """The error of a run that its caller has left."""
    return ProviderError("the run was cancelled", kind=ErrorKind.NOT_FOUND, hint="Run it again.")
