"""One job's inputs against its model: waits when it is told to, tries again what may work, and finds what does not.

A batch of inputs that fails as a whole is halved until the input at fault stands alone: the others get their vectors.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np

from embatch.errors import (
    BackendClosedError,
    BackendError,
    BadVectorError,
    EmbatchError,
    GoalError,
    ModelError,
    OutOfMemoryError,
    ProviderError,
    WaitingError,
)
from embatch.frontends.server.errors import as_api_error
from embatch.frontends.server.jobs.rows import Settled, shares
from embatch.serving import Ask, Priority

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from typing import Protocol

    from embatch.frontends.async_embedder import AsyncEmbedder
    from embatch.frontends.server.jobs.rows import Wish
    from embatch.frontends.server.settings import ServedModel
    from embatch.serving import Answer

    Inputs = Sequence[str | Sequence[int]]

    class Models(Protocol):
        """What a job needs of a model pool."""

        def using(self, name: str | None = None) -> AbstractAsyncContextManager[AsyncEmbedder]:
            """A model, for the length of a block."""
            ...

        def name_of(self, name: str | None) -> str:
            """The served name behind what a client calls a model."""
            ...

        def served(self, name: str | None) -> ServedModel:
            """How a model is opened."""
            ...


FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 30.0
_PATIENCE_S = 3600.0  # of one ask; said, since a server's asks have its shorter time otherwise
_TRIES = 3  # of an input that failed alone, with an error that may pass


class JobFailedError(Exception):
    """The job cannot go on: an entry for its `errors`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Asker:
    """Asks for one job.

    Args:
        models: where its model is.
        model: its name.
        most_inputs: of one ask.
        payer: on whose account a provider's bill goes.
        sleep: how it waits, in seconds.
    """

    def __init__(
        self,
        models: Models,
        model: str,
        *,
        most_inputs: int,
        payer: str | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._models = models
        self._model = model
        self._most = most_inputs
        self._payer = payer
        self._sleep = sleep

    async def settle(self, inputs: Inputs, wish: Wish) -> list[Settled]:
        """What becomes of each input, in order. However long it takes: whoever has waited enough cancels.

        Raises:
            JobFailedError: nothing of this job can succeed.
        """
        settled: list[Settled] = []
        for start in range(0, len(inputs), self._most):
            settled += await self._settle(inputs[start : start + self._most], wish)
        return settled

    async def _settle(self, inputs: Inputs, wish: Wish, tries: int = 1) -> list[Settled]:
        answer = await self._ask(inputs, wish)
        if isinstance(answer, EmbatchError):
            if len(inputs) == 1:
                if answer.retryable and tries < _TRIES:
                    await self._sleep(_pause(tries, None))
                    return await self._settle(inputs, wish, tries + 1)
                return [_failed(answer)]
            half = len(inputs) // 2
            return await self._settle(inputs[:half], wish) + await self._settle(inputs[half:], wish)
        settled = _spread(answer, inputs)
        if tries < _TRIES:
            for failure in answer.failures:
                if failure.error.retryable:
                    await self._sleep(_pause(tries, None))
                    alone = inputs[failure.row : failure.row + 1]
                    settled[failure.row : failure.row + 1] = await self._settle(alone, wish, tries + 1)
        return settled

    async def _ask(self, inputs: Inputs, wish: Wish) -> Answer | EmbatchError:
        """The answer, or an error that may be the inputs' own fault; everything else is waited out."""
        task, dimensions, overlong = wish
        ask = Ask(inputs=inputs, task=task, dimensions=dimensions, overlong=overlong, priority=Priority.BATCH)
        waits = 0
        while True:
            embedder = None
            try:
                async with self._models.using(self._model) as embedder:
                    return await embedder.ask(ask)
            except EmbatchError as error:
                lives = embedder is None or embedder.snapshot().alive
                if not _passes(error, lives=lives):
                    return error
                waits += 1
                pause = _pause(waits, getattr(error, "retry_after_s", None))
            await self._sleep(pause)


def _passes(error: EmbatchError, *, lives: bool) -> bool:
    """Whether the same ask may be answered later, whatever is in it.

    Raises:
        JobFailedError: it never will be.
    """
    if isinstance(error, WaitingError | GoalError):
        return True
    if isinstance(error, ModelError):
        if not error.retryable:
            raise JobFailedError("model_not_available", str(error)) from error
        return True
    if isinstance(error, ProviderError):
        if error.kind.stops and error.retry_after_s is None:
            raise JobFailedError("provider_failed", str(error)) from error
        return error.kind.waits or error.kind.stops
    if isinstance(error, BackendClosedError):
        return True
    return isinstance(error, BackendError) and not isinstance(error, OutOfMemoryError) and not lives


def _pause(tries: int, asked_s: float | None) -> float:
    return max(asked_s or 0.0, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(tries - 1, 16)))


def _failed(error: EmbatchError) -> Settled:
    return Settled(None, 0, as_api_error(error, param="input"))


def _spread(answer: Answer, inputs: Inputs) -> list[Settled]:
    """Its share of an answer for each input."""
    vectors = answer.vectors
    if len(vectors) != len(inputs):
        fault = BackendError(f"{len(inputs)} inputs were answered with {len(vectors)} vectors")
        return [_failed(fault) for _ in inputs]
    settled = [
        Settled(vector, tokens) for vector, tokens in zip(vectors, shares(answer.tokens, inputs), strict=True)
    ]
    for place in np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist():
        settled[place] = _failed(BadVectorError("the model answered NaN or infinity for this text"))
    for failure in answer.failures:
        settled[failure.row] = _failed(failure.error)
    return settled
