"""One request's way to its vectors, for every route that has texts: body, limits, model, ask, answer.

It is the hot path of the server. The body is read by `transport.body`, checked by `wire`; what comes out of here is
encoded by the routes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from embatch.errors import UsageError
from embatch.frontends import telemetry
from embatch.frontends.server import wire
from embatch.frontends.server.errors import ApiError, as_api_error
from embatch.frontends.server.transport.body import read_body
from embatch.frontends.server.transport.gone import unless_gone

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embatch.frontends.async_embedder import AsyncEmbedder
    from embatch.frontends.server.auth import Pass
    from embatch.frontends.server.settings import ServeSettings
    from embatch.frontends.server.state import ServerState
    from embatch.serving import Answer, Ask
    from embatch.types import ItemFailure

    Check = Callable[[wire.Asked, AsyncEmbedder], wire.Asked]
    Parse = Callable[[bytes, ServeSettings, float | None], wire.Asked]

_MOST_NAMED = 8  # failed inputs that a message names


@dataclass(frozen=True, slots=True)
class Answered:
    """A request with what it got."""

    asked: wire.Asked
    answer: Answer
    model: str
    """The served name."""
    headers: Sequence[tuple[str, str]]
    """What is left to the client's key."""


class Asking:
    """Takes requests to their answers.

    Args:
        state: the server.
        parse: reads the body.
        field: what the wire calls the inputs, for messages.
        check: looks at a request once its model is known: raises what is wrong with it, or returns what becomes of it.
    """

    def __init__(
        self,
        state: ServerState,
        parse: Parse,
        field: str,
        check: Check | None = None,
    ) -> None:
        self._state = state
        self._parse = parse
        self._field = field
        self._check = check

    async def answered(self, scope: Any, receive: Any) -> Answered:
        """The answer to a request whose body was not read yet.

        Raises:
            ApiError, EmbatchError: it is refused, or failed.
            ClientDisconnect: the client left; what it asked was taken back.
        """
        settings = self._state.settings
        begun = monotonic()
        timeout_s = wire.timeout_of(_header(scope, b"x-request-timeout"), settings.timeout_s)
        request = Request(scope, receive)
        body = await read_body(request, most_bytes=settings.body_bytes, pause_s=settings.body_s)
        asked = self._parse(body, settings, timeout_s)
        name = self._state.pool.name_of(asked.model)
        key: Pass | None = scope.get("pass")
        if key is not None:
            asked = replace(asked, ask=replace(asked.ask, payer=key.key.name))
            key.charge(wire.about_tokens(asked.ask.inputs))
        tokens = 0
        try:
            asked, answer = await unless_gone(request, self._ask(asked, timeout_s, begun))
            tokens = answer.tokens
        finally:
            if key is not None:
                key.settle(tokens)
        if answer.failures:
            raise _refused(answer.failures, self._field, single=asked.single)
        telemetry.note(
            scope,
            model=name,
            tokens=answer.tokens,
            inputs=len(answer.vectors),
            dimensions=answer.vectors.shape[1],
        )
        return Answered(asked, answer, name, key.headers() if key else ())

    async def _ask(self, asked: wire.Asked, timeout_s: float, begun: float) -> tuple[wire.Asked, Answer]:
        async with self._state.pool.using(asked.model, timeout_s=timeout_s) as embedder:
            if self._check is not None:
                asked = self._check(asked, embedder)
            ask = asked.ask
            gone_s = monotonic() - begun
            if gone_s > 0.1:  # the body came slowly, or the model was opened for it
                ask = replace(ask, timeout_s=max(0.0, timeout_s - gone_s))
            try:
                return asked, await embedder.ask(ask)
            except UsageError as error:
                raise as_api_error(error, param=_to_blame(ask, embedder)) from None


def _header(scope: Any, wanted: bytes) -> bytes | None:
    for name, value in scope["headers"]:
        if name == wanted:
            found: bytes = value
            return found
    return None


def _to_blame(ask: Ask, embedder: AsyncEmbedder) -> str | None:
    """The field that a model refused, as far as that can be told."""
    if ask.dimensions is not None and ask.dimensions > embedder.dimensions:
        return "dimensions"
    return "task" if ask.task is not None else None


def _refused(failures: Sequence[ItemFailure], field: str, *, single: bool) -> ApiError:
    """The refusal of a request some of whose inputs failed: all of it, since rows would not match otherwise."""
    first = failures[0]
    where = field if single else f"{field}[{first.row}]"
    error = as_api_error(first.error, param=where)
    message = f"'{where}' has no vector: {error}"
    others = [str(failure.row) for failure in failures[1:]]
    if others:
        more = f", … ({len(others)} in all)" if len(others) > _MOST_NAMED else ""
        message += f" Neither have inputs {', '.join(others[:_MOST_NAMED])}{more}."
    return ApiError(
        error.status, message, type=error.type, code=error.code, param=where, headers=error.headers
    )
