"""Reads a request's body, within bounds of size and time.

Stands between a route and the socket. What the headers alone forbid is refused earlier, by the middleware.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect

from embatch.frontends.server.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

LEAST_BYTES_PER_S = 16_384
"""A body that comes slower than this, beyond its first pause, keeps a connection for nothing."""


async def read_body(request: Request, *, most_bytes: int, pause_s: float) -> bytes:
    """All of a request's body.

    Args:
        request: not read yet.
        most_bytes: longer ones are refused.
        pause_s: it may stand still for so long, and take so long beyond what its length is worth at
            `LEAST_BYTES_PER_S`.

    Raises:
        ApiError: 413, too long; 408, too slow.
        ClientDisconnect: the client went away; nobody reads an answer.
    """
    connection = request.scope.get("embatch.connection")
    if connection is not None and connection.body_came:  # so nearly every request comes: it needs no clock
        first, more = _content(await request.receive())
    else:
        declared = request.headers.get("content-length", "")
        if declared.isascii() and declared.isdigit() and int(declared) > most_bytes:
            raise too_large(most_bytes)
        first, more = await _part(request, pause_s)
    if not more:
        if len(first) > most_bytes:
            raise too_large(most_bytes)
        return first
    return await _rest(request, bytearray(first), most_bytes, pause_s)


async def _rest(request: Request, body: bytearray, most_bytes: int, pause_s: float) -> bytes:
    now = asyncio.get_running_loop().time
    last = now() + pause_s
    more = True
    while more:
        if len(body) > most_bytes:
            raise too_large(most_bytes)
        part, more = await _part(request, min(pause_s, last + len(body) / LEAST_BYTES_PER_S - now()))
        body += part
    if len(body) > most_bytes:
        raise too_large(most_bytes)
    return bytes(body)


async def _part(request: Request, pause_s: float) -> tuple[bytes, bool]:
    """The next part, and whether there is more."""
    try:
        async with asyncio.timeout(pause_s):
            message = await request.receive()
    except TimeoutError as error:
        raise ApiError(
            408,
            f"The body did not come: it stood still for {pause_s:g} seconds, or came too slowly.",
            code="body_timeout",
            headers={"Connection": "close"},
        ) from error
    return _content(message)


def _content(message: Mapping[str, Any]) -> tuple[bytes, bool]:
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message.get("body", b""), message.get("more_body", False)


def too_large(most_bytes: int) -> ApiError:
    """The refusal of a body that is too long."""
    return ApiError(
        413,
        f"The body is longer than {most_bytes:,} bytes. Send fewer or shorter inputs in a request.",
        code="body_too_large",
        headers={"Connection": "close"},  # otherwise all of it would have to be read first
    )
