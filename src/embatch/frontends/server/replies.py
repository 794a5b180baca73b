"""Answers as ASGI messages, and errors as answers. The hot routes go without a framework's request and response."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import orjson
from starlette.exceptions import HTTPException

from embatch.errors import EmbatchError
from embatch.frontends.server.errors import ApiError, as_api_error
from embatch.frontends.server.transport.middleware import REQUEST_ID

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Headers = Iterable[tuple[str, str]]

_JSON = (b"content-type", b"application/json")
_log = logging.getLogger("embatch")


async def send_json(send: Any, status: int, body: bytes, headers: Headers = ()) -> None:
    """Answer with a body of JSON."""
    await send_parts(send, status, (body,), headers)


async def send_parts(send: Any, status: int, parts: Sequence[bytes], headers: Headers = ()) -> None:
    """Answer with a body of JSON that is in parts, so that a long one needs no second copy."""
    length = str(sum(map(len, parts))).encode()
    raw = [_JSON, (b"content-length", length)]
    raw += [(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    last = len(parts) - 1
    for place, part in enumerate(parts):
        await send({"type": "http.response.body", "body": part, "more_body": place < last})


def refusal(error: Exception, scope: Mapping[str, Any]) -> ApiError:
    """The refusal that stands for whatever a route raised. What nobody expected is logged, and told without details."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, EmbatchError):
        return as_api_error(error)
    if isinstance(error, HTTPException):
        return _of_http(error, scope)
    name = request_id(scope)
    _log.error("request %s to %s failed: %r", name or "?", scope["path"], error, exc_info=error)
    told = f" Its request id is {name}." if name else ""
    return ApiError(
        500, f"The server failed on this request.{told}", type="server_error", code="internal_error"
    )


def request_id(scope: Mapping[str, Any]) -> str:
    """The name of a request; empty if nobody gave it one."""
    return str(scope.get(REQUEST_ID, ""))


async def send_refusal(send: Any, error: ApiError) -> None:
    """Answer with OpenAI's error body."""
    await send_json(send, error.status, orjson.dumps(error.body()), error.headers.items())


def _of_http(error: HTTPException, scope: Mapping[str, Any]) -> ApiError:
    method, path = scope["method"], scope["path"]
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.NOT_FOUND:
        return ApiError(404, f"Invalid URL ({method} {path})", code="unknown_url", headers=headers)
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        message = f"Not allowed to {method} on {path}."
        return ApiError(405, message, code="method_not_supported", headers=headers)
    kind = "invalid_request_error" if error.status_code < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
    return ApiError(error.status_code, str(error.detail), type=kind, headers=headers)
