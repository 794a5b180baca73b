"""The dashboard: the page at `/`, what it is made of, its data once and live, and search.

The page and its parts hold no data and need no key; whatever says something about the server asks for one where keys
are configured. Nothing is loaded from anywhere else, which the content policy makes sure of.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import orjson
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from embatch.frontends.server.dashboard import search_routes
from embatch.frontends.server.dashboard.live import Live
from embatch.frontends.server.errors import ApiError

if TYPE_CHECKING:
    from starlette.requests import Request

    from embatch.frontends.server.state import ServerState

SAFE = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Headers of everything that a browser shows."""
_CACHED = "no-cache"  # kept by the browser, and asked about by its tag: a newer version is seen at once
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    "": "text/plain; charset=utf-8",
}
_PAGE = "index.html"


def routes(state: ServerState) -> list[Route]:
    """The routes of the page and of search; without a dashboard those of search alone."""
    if not state.settings.dashboard:
        return search_routes.routes(state)
    live = Live(state)

    async def page(request: Request) -> Response:
        return _asset(request, _PAGE)

    async def part(request: Request) -> Response:
        return _asset(request, request.path_params["name"])

    async def once(request: Request) -> Response:
        state.keys.identify(request.headers)
        since = _since(request.query_params.get("since", "0"))
        body = orjson.dumps(await live.status(since=since), option=orjson.OPT_NON_STR_KEYS)
        return Response(body, media_type="application/json", headers={"Cache-Control": "no-store", **SAFE})

    async def stream(request: Request) -> Response:
        state.keys.identify(request.headers)
        return StreamingResponse(
            live.listen(),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no", **SAFE},
        )

    return [
        Route("/", page, methods=["GET"]),
        Route("/dashboard", page, methods=["GET"]),
        Route("/dashboard/static/{name:path}", part, methods=["GET"]),
        Route("/dashboard/status", once, methods=["GET"]),
        Route("/dashboard/stream", stream, methods=["GET"]),
        *search_routes.routes(state),
    ]


@cache
def assets() -> dict[str, tuple[bytes, str]]:
    """The page's files, read once: content and tag by name."""
    found: dict[str, tuple[bytes, str]] = {}
    waiting = [("", resources.files(__package__) / "static")]
    while waiting:
        prefix, folder = waiting.pop()
        for entry in folder.iterdir():
            if entry.is_dir():
                waiting.append((f"{prefix}{entry.name}/", entry))
            else:
                content = entry.read_bytes()
                tag = hashlib.blake2b(content, digest_size=12).hexdigest()
                found[f"{prefix}{entry.name}"] = (content, f'"{tag}"')
    return found


def _asset(request: Request, name: str) -> Response:
    """A file of the page, or that the browser's copy is still right."""
    found = assets().get(name)
    if found is None:
        raise ApiError(404, f"There is no {name!r} on the dashboard.", code="not_found")
    content, tag = found
    headers = {"ETag": tag, "Cache-Control": _CACHED, **SAFE}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    suffix = name[name.rfind(".") :] if "." in name else ""
    return Response(content, media_type=_TYPES[suffix], headers=headers)


def _since(text: str) -> float:
    try:
        since = float(text)
    except ValueError:
        since = float("nan")
    if not 0.0 <= since < float("inf"):
        raise ApiError(400, f"since must be seconds since the epoch, not {text!r}.", param="since")
    return since
