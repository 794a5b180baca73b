"""`/health`: the process answers. `/ready`: it can answer requests for vectors, or why not. Neither needs a key."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import Response
from starlette.routing import Route

from embatch.errors import EmbatchError

if TYPE_CHECKING:
    from starlette.requests import Request

    from embatch.frontends.server.state import ServerState


class Readiness:
    """Says whether a server is ready. Whoever asks makes it look after an engine that died.

    Args:
        state: the server.
    """

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._reviving: asyncio.Task[None] | None = None

    def reason(self) -> str:
        """Why it is not ready; empty if it is."""
        state = self._state
        if state.draining:
            return "stopping: what is under way is answered, and nothing new is let in"
        if not state.ready:
            return state.not_ready_for
        first = state.pool.names()[0]
        models = state.pool.open_models()
        embedder = models.get(first)
        if embedder is not None:
            return "" if embedder.snapshot().alive else f"the engine of model {first!r} has failed"
        if models or not state.settings.preload:  # it made room for another, or opens when it is asked for
            return ""
        return f"model {first!r} is not open"

    def look_after(self) -> None:
        """Have the first model opened again: a server that nobody sends requests to would never do it."""
        if (
            self._state.ready
            and not self._state.draining
            and (self._reviving is None or self._reviving.done())
        ):
            self._reviving = asyncio.create_task(self._revive())

    async def _revive(self) -> None:
        with contextlib.suppress(EmbatchError):  # the pool logs it, and the next one to ask tries again
            await self._state.pool.get(None)


def routes(state: ServerState) -> list[Any]:
    """`GET /health` and `GET /ready`."""
    readiness = Readiness(state)

    async def health(request: Request) -> Response:  # noqa: ARG001  # a route's signature
        return _json(200, {"status": "ok"})

    async def ready(request: Request) -> Response:  # noqa: ARG001  # same
        reason = readiness.reason()
        if not reason:
            return _json(200, {"status": "ready"})
        readiness.look_after()
        return _json(503, {"status": "not ready", "reason": reason}, {"Retry-After": "1"})

    return [Route("/health", health), Route("/ready", ready)]


def _json(status: int, content: dict[str, str], headers: dict[str, str] | None = None) -> Response:
    return Response(
        orjson.dumps(content),
        status,
        media_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )
