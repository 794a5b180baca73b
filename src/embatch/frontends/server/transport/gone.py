"""Ends the work for a client that went away, at no cost for those that stay.

ASGI tells of it only to whoever waits for the next message, which would take a task of its own for each request. Our
protocol is asked to call back instead; under another server, such a task is made.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import ClientDisconnect

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from starlette.requests import Request

T = TypeVar("T")


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """What the work gives; it is cancelled as soon as the client goes away.

    Args:
        request: its body has been read.
        work: awaited in this task; must not shield itself from being cancelled.

    Raises:
        ClientDisconnect: the client went away; nobody reads an answer.
    """
    connection = request.scope.get("embatch.connection")
    if connection is None:
        return await _watched(request, work)
    task = asyncio.current_task()
    assert task is not None  # a route runs in one
    if connection.gone:
        _drop(work)
        raise ClientDisconnect
    connection.when_gone(task.cancel)
    try:
        return await work
    except asyncio.CancelledError:
        if not connection.gone:
            raise
        task.uncancel()
        raise ClientDisconnect from None
    finally:
        connection.when_gone(None)


async def _watched(request: Request, work: Awaitable[T]) -> T:
    """The same by listening for the end."""
    working = asyncio.ensure_future(work)
    listening = asyncio.ensure_future(_listen(request))
    try:
        await asyncio.wait({working, listening}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        working.cancel()
        listening.cancel()
        await asyncio.gather(working, listening, return_exceptions=True)


async def _listen(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _drop(work: Any) -> None:
    """Never begun: a coroutine is closed, anything else cancelled."""
    if hasattr(work, "close"):
        work.close()
    elif hasattr(work, "cancel"):
        work.cancel()
