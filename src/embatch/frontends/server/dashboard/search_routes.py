"""`/v1/search`: places in the served index that answer a question, as JSON.

POST with a body, or GET with `?q=`. It reads and checks what is asked; `searching` finds it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, get_args

import orjson
from starlette.responses import Response
from starlette.routing import Route

from embatch.frontends.searching.shown import fields_of
from embatch.frontends.server.dashboard.searching import Question, Searching, index_name
from embatch.frontends.server.errors import ApiError
from embatch.frontends.server.transport.body import read_body
from embatch.frontends.server.transport.gone import unless_gone
from embatch.frontends.server.wire import about_tokens
from embatch.search.searching import Mode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from embatch.frontends.server.auth import Pass
    from embatch.frontends.server.state import ServerState

MOST_HITS = 100
MOST_CHARS = 8192
"""Of a question."""
MOST_FILTERS = 32
MOST_FILTER_CHARS = 512
_BODY_BYTES = 1 << 20
_FIELDS = frozenset({"query", "q", "k", "limit", "mode", "index", "filters", "path", "language", "kind"})
_FILTERS = ("path", "language", "kind")


def routes(state: ServerState) -> list[Route]:
    """The route of search; without an index it says so."""

    async def search(request: Request) -> Response:
        key: Pass | None = request.scope.get("pass")
        if key is None:  # let in by nobody yet
            state.keys.identify(request.headers)
        if state.settings.index is None:
            raise ApiError(
                404,
                "This server serves no index. Start it with --index to search one.",
                code="index_not_found",
            )
        asked = await _asked(request, state)
        _check_index(asked.get("index"), state.settings.index)
        question = question_of(asked)
        if state.searching is None:
            state.searching = Searching(state.settings, state.pool)
        begun = time.perf_counter()
        if key is not None and question.mode != "text":
            key.charge(about_tokens((question.text,)))
        hits = await unless_gone(request, state.searching.ask(question))
        answer = {
            "object": "list",
            "query": question.text,
            "mode": question.mode,
            "index": state.searching.name,
            "data": [{"object": "search.result", **fields_of(hit)} for hit in hits],
            "took_ms": round(1000 * (time.perf_counter() - begun), 2),
        }
        return Response(
            orjson.dumps(answer), media_type="application/json", headers={"Cache-Control": "no-store"}
        )

    return [Route("/v1/search", search, methods=["GET", "POST"])]


def question_of(asked: Mapping[str, Any]) -> Question:
    """A question from a request's fields.

    Args:
        asked: `query` (or `q`); `k` (or `limit`), `mode`, and the filters `path`, `language` and `kind`, each a text
            or a list of them, beside the others or under `filters`.

    Raises:
        ApiError: 400, a field is missing, unknown, or has a value that it cannot have.
    """
    for name in asked:
        if name not in _FIELDS:
            raise _bad(f"There is no field {name!r} in a search.", name)
    filters = asked.get("filters") or {}
    if not isinstance(filters, dict):
        raise _bad("filters must be an object with path, language or kind.", "filters")
    for name in filters:
        if name not in _FILTERS:
            raise _bad(f"There is no filter {name!r}; filters are path, language and kind.", "filters")
    path, language, kind = (_texts(name, asked.get(name, filters.get(name))) for name in _FILTERS)
    mode: Mode = asked.get("mode") or "hybrid"
    if mode not in get_args(Mode):
        raise _bad(f"mode must be one of hybrid, vector and text, not {mode!r}.", "mode")
    return Question(text=_text(asked), k=_k(asked), mode=mode, path=path, language=language, kind=kind)


def _text(asked: Mapping[str, Any]) -> str:
    text = asked.get("query", asked.get("q"))
    if not isinstance(text, str) or not text.strip():
        raise _bad("query must be a text that is not empty.", "query")
    if len(text) > MOST_CHARS:
        raise _bad(f"query must have at most {MOST_CHARS} characters; this one has {len(text)}.", "query")
    return text


def _k(asked: Mapping[str, Any]) -> int:
    name = "k" if "k" in asked else "limit"
    k = asked.get(name)
    if k is None:
        return 10
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= MOST_HITS:
        raise _bad(f"{name} must be a whole number from 1 to {MOST_HITS}, not {k!r}.", name)
    return k


def _texts(name: str, value: Any) -> tuple[str, ...]:
    """A filter's texts."""
    texts = [value] if isinstance(value, str) else ([] if value is None else value)
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise _bad(f"{name} must be a text or a list of texts.", name)
    if len(texts) > MOST_FILTERS or any(len(text) > MOST_FILTER_CHARS for text in texts):
        raise _bad(f"{name} may have at most {MOST_FILTERS} texts of {MOST_FILTER_CHARS} characters.", name)
    return tuple(texts)


async def _asked(request: Request, state: ServerState) -> dict[str, Any]:
    """A request's fields, from its body or its address."""
    if request.method != "POST":
        query = request.query_params
        asked: dict[str, Any] = {
            name: query.getlist(name) if name in _FILTERS else query[name] for name in query
        }
        for name in ("k", "limit"):
            if name in asked:
                asked[name] = (
                    int(asked[name]) if len(asked[name]) < 10 and asked[name].isdecimal() else asked[name]
                )
        return asked
    most_bytes = min(_BODY_BYTES, state.settings.body_bytes)
    body = await read_body(request, most_bytes=most_bytes, pause_s=state.settings.body_s)
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _bad(f"The body is no JSON: {error}.", None) from error
    if not isinstance(fields, dict):
        raise _bad("The body must be a JSON object.", None)
    return fields


def _check_index(asked: Any, location: str) -> None:
    """Only one index is served; a client may say which it means."""
    if asked not in (None, "", index_name(location)):
        raise ApiError(
            404,
            f"This server does not serve the index {asked!r}, but {index_name(location)!r}.",
            code="index_not_found",
            param="index",
        )


def _bad(message: str, param: str | None) -> ApiError:
    return ApiError(400, message, param=param, code="invalid_value")
