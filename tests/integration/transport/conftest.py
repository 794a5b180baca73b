"""A small application behind the real transport, and clients that speak in bytes."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from embatch.frontends.server.settings import ServeSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from embatch.frontends.server.transport.running import BackgroundServer

    Serving = Callable[..., Any]

HOST = b"Host: localhost\r\n"


def get(path: str, *lines: bytes) -> bytes:
    """A request without a body."""
    return (
        b"GET %b HTTP/1.1\r\n" % path.encode() + HOST + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
    )


def post(path: str, body: bytes, *lines: bytes) -> bytes:
    """A request with a body."""
    head = b"POST %b HTTP/1.1\r\n" % path.encode() + HOST
    return (
        head + b"".join(line + b"\r\n" for line in lines) + b"Content-Length: %d\r\n\r\n" % len(body) + body
    )


@dataclass
class Got:
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Wire:
    """One connection of a client."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> Got:
        """The next answer, read whole."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Got(int(first.split()[1]), headers, body)

    async def ended(self) -> bytes:
        """What comes until the server ends the connection."""
        try:
            return await self.reader.read()
        except ConnectionResetError:
            return b""


@asynccontextmanager
async def wire(port: int, **options: Any) -> AsyncIterator[Wire]:
    """Connect."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, **options)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


def until(holds: Callable[[], object], seconds: float = 10.0) -> None:
    """Return once it holds.

    Raises:
        TimeoutError: it never did.
    """
    last = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > last:
            raise TimeoutError
        time.sleep(0.002)


@dataclass
class SmallApp:
    """An application with one path for each thing that can happen."""

    begun: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    requests: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        from starlette.requests import Request
        from starlette.responses import Response

        self.requests.append(scope["path"])
        self.ids.append(scope["request_id"])
        answer = getattr(self, scope["path"].strip("/") or "hi")
        response = await answer(Request(scope, receive), send)
        if isinstance(response, Response):
            await response(scope, receive, send)

    async def hi(self, request: Any, send: Any) -> Any:
        from starlette.responses import PlainTextResponse

        return PlainTextResponse("hi")

    async def page(self, request: Any, send: Any) -> Any:
        from starlette.responses import HTMLResponse

        return HTMLResponse("<p>hi</p>")

    async def echo(self, request: Any, send: Any) -> Any:
        from starlette.responses import Response

        from embatch.frontends.server.transport.body import read_body

        return Response(await read_body(request, most_bytes=1000, pause_s=0.2))

    async def raw(self, request: Any, send: Any) -> Any:
        """Reads its body without our limits, as a framework's form parser does."""
        from starlette.responses import Response

        return Response(await request.body())

    async def unread(self, request: Any, send: Any) -> Any:
        """Answers without reading the body."""
        from starlette.responses import Response

        return Response("no", 401)

    async def much(self, request: Any, send: Any) -> Any:
        from starlette.responses import Response

        return Response(b"x" * 50_000_000)

    async def hold(self, request: Any, send: Any) -> Any:
        """Works until it is released, or until the client is gone."""
        from starlette.responses import PlainTextResponse

        from embatch.frontends.server.transport.gone import unless_gone

        try:
            await unless_gone(request, self._work())
        except BaseException:
            self.cancelled.set()
            raise
        return PlainTextResponse("done")

    async def _work(self) -> None:
        self.begun.set()
        await asyncio.to_thread(self.release.wait, 10)

    async def crash(self, request: Any, send: Any) -> Any:
        raise ZeroDivisionError("a secret of the texts")

    async def late(self, request: Any, send: Any) -> Any:
        """Answers with its head at once, and with its body once it is released."""
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await self._work()
        await send({"type": "http.response.body", "body": b"done"})

    async def half(self, request: Any, send: Any) -> Any:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
        await send({"type": "http.response.body", "body": b"12345", "more_body": True})
        raise ZeroDivisionError


@pytest.fixture
def app() -> SmallApp:
    return SmallApp()


@pytest.fixture
def serving(app: SmallApp) -> Serving:
    """`with serving(header_s=0.1) as server`: the small application behind the real transport."""
    from embatch.frontends.server.transport.running import BackgroundServer

    @contextmanager
    def start(application: Any = None, **settings: Any) -> Iterator[BackgroundServer]:
        chosen = ServeSettings(**{"port": 0, "drain_s": 0.2, **settings})
        with BackgroundServer(application or app, chosen) as server:
            try:
                yield server
            finally:
                app.release.set()  # a thread may wait for it

    return start
