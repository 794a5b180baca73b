"""Clients that are slow, greedy or broken are answered where that is possible, and cut off."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.integration.transport.conftest import HOST, get, post, until, wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.transport.conftest import Got, SmallApp

    Serving = Callable[..., Any]

pytestmark = pytest.mark.serve


def exchange(port: int, *parts: bytes) -> Got:
    """Send, and read one answer."""

    async def talk() -> Got:
        async with wire(port) as client:
            for part in parts:
                await client.send(part)
            return await client.answer()

    return asyncio.run(talk())


def code(got: Got) -> str:
    return str(json.loads(got.body)["error"]["code"])


def test_who_sends_nothing_is_cut_off(serving: Serving) -> None:
    """A connection without a byte ends after the time for headers."""

    async def talk(port: int) -> bytes:
        async with wire(port) as client:
            return await client.ended()

    with serving(header_s=0.05) as server:
        assert asyncio.run(talk(server.port)) == b""
    assert server.server.traffic.cuts == {"headers": 1}


def test_slow_headers_are_refused_however_they_drip(serving: Serving) -> None:
    """Headers that come byte by byte are answered 408 once their time is over: bytes do not prolong it."""

    async def talk(port: int) -> Got:
        async with wire(port) as client:

            async def drip() -> None:
                for byte in get("/hi") * 50:
                    await client.send(bytes([byte]))
                    await asyncio.sleep(0.005)

            dripping = asyncio.create_task(drip())
            got = await client.answer()
            dripping.cancel()
            await asyncio.gather(dripping, return_exceptions=True)
            return got

    with serving(header_s=0.08) as server:
        got = asyncio.run(talk(server.port))
    assert (got.status, got.headers["connection"]) == (408, "close")
    assert "0.08 seconds" in json.loads(got.body)["error"]["message"]


def test_the_second_request_has_its_own_time_for_headers(serving: Serving) -> None:
    """A kept connection's next headers are due from their first byte on, not from the connecting."""

    async def talk(port: int) -> int:
        connected = time.monotonic()
        async with wire(port) as client:
            while time.monotonic() < connected + 0.6:  # longer than headers may take
                await client.send(get("/hi"))
                assert (await client.answer()).status == 200
            await client.send(b"GET /hi HT")
            return (await client.answer()).status

    with serving(header_s=0.4) as server:
        assert asyncio.run(talk(server.port)) == 408


def test_an_idle_connection_ends(serving: Serving) -> None:
    """A kept connection without a next request is closed, which is no fault of the client's."""

    async def talk(port: int) -> bytes:
        async with wire(port) as client:
            await client.send(get("/hi"))
            await client.answer()
            return await client.ended()

    with serving(keep_alive_s=0.03) as server:
        assert asyncio.run(talk(server.port)) == b""
    assert not server.server.traffic.cuts


def test_a_body_that_stands_still_is_refused(serving: Serving) -> None:
    """A body that stops in its middle is answered 408."""
    with serving() as server:
        got = exchange(server.port, post("/echo", b"12345")[:-2])
    assert (got.status, code(got)) == (408, "body_timeout")


def test_a_body_that_stands_still_is_refused_on_every_route(serving: Serving, app: SmallApp) -> None:
    """Where a route does not time its body, the transport does, and the route is told that the client left."""
    with serving(body_s=0.01) as server:
        got = exchange(server.port, post("/raw", b"12345")[:-2])
    assert (got.status, code(got)) == (408, "timed_out")
    assert server.server.traffic.cuts == {"body": 1}
    assert app.requests == ["/raw"]


def test_a_body_that_drips_is_refused(serving: Serving) -> None:
    """Bytes that come too slowly do not keep a connection for ever."""

    async def talk(port: int) -> Got:
        async with wire(port) as client:
            await client.send(b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 900\r\n\r\n")

            async def drip() -> None:
                while True:
                    await client.send(b"x")
                    await asyncio.sleep(0.005)

            dripping = asyncio.create_task(drip())
            got = await client.answer()
            dripping.cancel()
            await asyncio.gather(dripping, return_exceptions=True)
            return got

    with serving() as server:
        assert asyncio.run(talk(server.port)).status == 408


def test_who_does_not_read_is_cut_off(serving: Serving) -> None:
    """A client that takes nothing of a long answer is cut off, and its memory given back."""

    with serving(send_s=0.05) as server, socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(get("/much"))
        until(lambda: server.server.traffic.cuts)
        until(lambda: not server.server.traffic.open)
    assert server.server.traffic.cuts == {"send": 1}


def test_who_reads_slowly_gets_everything(serving: Serving) -> None:
    """A client that is slow, but takes something in every interval, is not cut off."""

    async def talk(port: int) -> int:
        async with wire(port, limit=1 << 16) as client:
            await client.send(get("/much"))
            await client.reader.readuntil(b"\r\n\r\n")
            total = 0
            while total < 50_000_000:
                total += len(await client.reader.read(1 << 20))
                if total < 10_000_000:
                    await asyncio.sleep(0.002)
            return total

    with serving(send_s=2.0) as server:
        assert asyncio.run(talk(server.port)) == 50_000_000
    assert not server.server.traffic.cuts


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"nonsense\r\n\r\n",
        b"FROB / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nContent-Length: many\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
        b"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\n\r\n",
        "GET /ü HTTP/1.1\r\n\r\n".encode(),
        b"GET / HTTP/1.1\r\nA\x00b: c\r\n\r\n",
    ],
)
def test_broken_http_is_refused(serving: Serving, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """What is no HTTP gets 400 and the end of the connection, without a word in the log."""
    with serving() as server:
        got = exchange(server.port, data)
        again = exchange(server.port, get("/hi"))
    assert (got.status, got.headers["connection"]) == (400, "close")
    assert again.status == 200
    assert not caplog.records


SCRAPS = [
    b"GET ",
    b"POST /echo",
    b"/hi",
    b" HTTP/1.1\r\n",
    b"\r\n",
    HOST,
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"5\r\nabcde\r\n",
    b"0\r\n\r\n",
    b"\x00\xff",
]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.lists(st.sampled_from(SCRAPS), max_size=12).map(b"".join))
def test_no_bytes_break_the_server(data: bytes, running: Any) -> None:
    """Whatever a client sends, the server answers the next one."""

    async def talk() -> int:
        async with wire(running.port) as client:
            await client.send(data)
            client.writer.write_eof()
            await client.ended()
        async with wire(running.port) as client:
            await client.send(get("/hi"))
            return (await client.answer()).status

    assert asyncio.run(talk()) == 200


@pytest.fixture
def running(serving: Serving) -> Any:
    with serving(header_s=5.0) as server:
        yield server


@pytest.mark.parametrize("whole", [True, False])
def test_long_headers_are_refused(serving: Serving, whole: bool) -> None:
    """Headers beyond the limit are answered 431, whether they end or not."""
    data = get("/hi", b"X: " + b"x" * 100_000)
    with serving() as server:
        got = exchange(server.port, data if whole else data[:-4])
    assert (got.status, code(got)) == (431, "headers_too_large")


def test_a_long_body_beside_short_headers_is_no_long_header(serving: Serving) -> None:
    """The end of a long body and the next request may come in one piece."""

    async def talk(port: int) -> list[int]:
        async with wire(port) as client:
            await client.send(post("/raw", b"x" * 150_000) + get("/hi")[:-4])
            first = await client.answer()
            for byte in b"\r\nX: y\r\n\r\n":
                await client.send(bytes([byte]))
            return [first.status, (await client.answer()).status]

    with serving() as server:
        assert asyncio.run(talk(server.port)) == [200, 200]


def test_a_declared_body_is_refused_before_it_comes(serving: Serving, app: SmallApp) -> None:
    """A Content-Length above the limit is answered 413 at once, and the answer survives what the client still sends."""

    async def talk(port: int) -> Got:
        async with wire(port) as client:
            await client.send(b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 3000000\r\n\r\n")
            await client.send(b"x" * 1_000_000)
            return await client.answer()

    with serving(body_bytes=1000) as server:
        got = asyncio.run(talk(server.port))
    assert (got.status, code(got)) == (413, "body_too_large")
    assert app.requests == []


def test_a_body_without_a_length_is_refused_when_it_is_too_long(serving: Serving) -> None:
    """A chunked body is counted as it comes."""
    chunk = b"258\r\n" + b"x" * 600 + b"\r\n"
    head = b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    with serving() as server:
        assert exchange(server.port, head, chunk, chunk, chunk).status == 413


def test_an_early_answer_leaves_the_connection_usable(serving: Serving) -> None:
    """A route may answer before the body came; the rest of it is dropped, and the next request is answered."""

    async def talk(port: int) -> list[int]:
        request = post("/unread", b"x" * 200_000)
        async with wire(port) as client:
            await client.send(request[:1000])
            first = await client.answer()
            await client.send(request[1000:] + get("/hi"))
            return [first.status, (await client.answer()).status]

    with serving() as server:
        assert asyncio.run(talk(server.port)) == [401, 200]


def test_surplus_connections_are_told_so(serving: Serving) -> None:
    """Above the limit a connection gets 503 with Retry-After; once there is room, the next is served."""

    async def talk(port: int) -> tuple[Got, Got]:
        async with wire(port) as first:
            await first.send(get("/hi"))
            await first.answer()
            async with wire(port) as second:
                await second.send(get("/hi"))
                refused = await second.answer()
        await asyncio.to_thread(until, lambda: not server.server.traffic.open)
        async with wire(port) as third:
            await third.send(get("/hi"))
            return refused, await third.answer()

    with serving(connections=1) as server:
        refused, served = asyncio.run(talk(server.port))
    assert (refused.status, code(refused)) == (503, "too_many_connections")
    assert refused.headers["retry-after"] == "1"
    assert served.status == 200
    assert server.server.traffic.refusing == 0
