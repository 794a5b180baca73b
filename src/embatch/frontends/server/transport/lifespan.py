"""An ASGI application's beginning and end, with its errors as they are."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def alive(app: Any) -> AsyncIterator[None]:
    """Begin an application, and end it after the block.

    Raises:
        Exception: whatever the application raised at its beginning or its end.
    """
    asked: asyncio.Queue[dict[str, str]] = asyncio.Queue(2)
    told: asyncio.Queue[str] = asyncio.Queue(2)

    async def send(message: Any) -> None:
        await told.put(message["type"])

    async def live() -> None:
        await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, asked.get, send)

    living = asyncio.create_task(live())
    try:
        await _step("startup", asked, told, living)
        yield
        await _step("shutdown", asked, told, living)
    finally:
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)


async def _step(
    name: str, asked: asyncio.Queue[dict[str, str]], told: asyncio.Queue[str], living: asyncio.Task[None]
) -> None:
    """Ask for a step and wait until it is done, or until the application has ended instead."""
    await asked.put({"type": f"lifespan.{name}"})
    answer = asyncio.create_task(told.get())
    await asyncio.wait({answer, living}, return_when=asyncio.FIRST_COMPLETED)
    if not answer.done():
        answer.cancel()
    elif answer.result() == f"lifespan.{name}.complete":
        return
    await (
        living
    )  # raises what went wrong; an application that just returned has no lifespan, which is allowed
