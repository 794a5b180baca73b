"""How answers go out, whole or spoilt on the way: late, in pieces, cut off, mislabelled, or not at all."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Any

from starlette.concurrency import iterate_in_threadpool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from embatch.emulator.answers import Answer
    from embatch.emulator.clock import Clock
    from embatch.emulator.faults import Fault

_PIECES = 8


async def send_answer(answer: Answer, send: Any, clock: Clock) -> None:
    """Send an answer as it is."""
    await _head(answer, send)
    if isinstance(answer.body, bytes):
        await send({"type": "http.response.body", "body": answer.body})
        return
    async for piece in _pieces(answer):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        await clock.sleep(answer.piece_s)
    await send({"type": "http.response.body", "body": b""})


async def send_spoilt(answer: Answer, faults: list[Fault], send: Any, clock: Clock) -> None:
    """Send an answer with the fault that was scripted for its way, if there is one."""
    fault = faults[0] if faults else None
    kind = fault.kind if fault else ""
    if kind in {"reset_after", "create_lost"}:
        await reset(send)
    elif kind in {"slow_body", "cut_body"}:
        body = await _whole(answer)
        await _head(answer, send, length=len(body))
        if kind == "cut_body":
            await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
            await reset(send, politely=True)
            return
        await _slowly(body, fault.delay_s if fault else 0.0, send, clock)
    else:
        if kind == "wrong_content_type":
            answer.media = "text/html; charset=utf-8"
        await send_answer(answer, send, clock)


async def reset(send: Any, *, politely: bool = False) -> None:
    """Break the connection off: with a reset, or, politely, after what was sent has gone out."""
    # The server's `send` is a method of the object that holds the connection; there is no other way to it.
    transport = send.__self__.transport
    if politely:
        transport.close()
    else:
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    await asyncio.sleep(0)  # until the server knows that nobody is there any more
    await asyncio.sleep(0)


async def _head(answer: Answer, send: Any, length: int | None = None) -> None:
    headers = {"content-type": answer.media} | answer.headers
    if isinstance(answer.body, bytes):
        length = len(answer.body)
    if length is not None:
        headers["content-length"] = str(length)
    pairs = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": pairs})


async def _pieces(answer: Answer) -> AsyncIterator[bytes]:
    """A body that is made while it is sent: in another thread, so that others are answered meanwhile."""
    assert not isinstance(answer.body, bytes)
    async for piece in iterate_in_threadpool(answer.body):
        yield piece


async def _whole(answer: Answer) -> bytes:
    if isinstance(answer.body, bytes):
        return answer.body
    return b"".join([piece async for piece in _pieces(answer)])


async def _slowly(body: bytes, seconds: float, send: Any, clock: Clock) -> None:
    step = max(1, -(-len(body) // _PIECES))
    for start in range(0, len(body), step):
        await clock.sleep(seconds / _PIECES)
        await send({"type": "http.response.body", "body": body[start : start + step], "more_body": True})
    await send({"type": "http.response.body", "body": b""})
