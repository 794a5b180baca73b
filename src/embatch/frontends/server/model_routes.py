"""`GET /v1/models` and `GET /v1/models/{model}`: what is served, in OpenAI's format and a little more.

Asking opens no model: what only an open one knows is null until then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import Response
from starlette.routing import Route

from embatch.backends.catalog import find

if TYPE_CHECKING:
    from starlette.requests import Request

    from embatch.frontends.server.state import ServerState


def routes(state: ServerState) -> list[Route]:
    """Both routes."""

    async def models(request: Request) -> Response:  # noqa: ARG001  # what the framework calls
        return _json({"object": "list", "data": [described(state, name) for name in state.pool.names()]})

    async def model(request: Request) -> Response:
        return _json(described(state, state.pool.name_of(request.path_params["model"])))

    return [
        Route("/v1/models", models, methods=["GET"]),
        Route("/v1/models/{model:path}", model, methods=["GET"]),
    ]


def described(state: ServerState, name: str) -> dict[str, Any]:
    """One model: `id`, `object`, `created` and `owned_by` are OpenAI's, the others ours.

    `open` says whether it is in memory, `dimensions` and `max_tokens` are null where nothing tells before it is.
    """
    served = state.pool.served(name)
    known = find(served.model)
    embedder = state.pool.open_models().get(name)
    max_tokens: int | None
    if embedder is not None:
        spec = embedder.spec_for(None)
        full, dimensions, max_tokens = spec.model, embedder.dimensions, spec.max_tokens
    else:
        full = known.name if known else served.model
        dimensions = served.options.get("dimensions", known.dimensions if known else None)
        max_tokens = known.max_tokens if known else None
    return {
        "id": name,
        "object": "model",
        "created": int(state.started_at),
        "owned_by": "embatch",
        "model": full,
        "dimensions": dimensions,
        "max_tokens": max_tokens,
        "open": embedder is not None,
    }


def _json(content: dict[str, Any]) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")
