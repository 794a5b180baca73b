"""What holds for requests whose clients behave: order, names, headers, logs, and work for those who left."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any, cast

import pytest
from tests.integration.transport.conftest import HOST, get, post, wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.transport.conftest import Got, SmallApp

    Serving = Callable[..., Any]

pytestmark = pytest.mark.serve


def exchange(port: int, data: bytes, answers: int = 1) -> list[Got]:
    async def talk() -> list[Got]:
        async with wire(port) as client:
            await client.send(data)
            return [await client.answer() for _ in range(answers)]

    return asyncio.run(talk())


def test_pipelined_requests_are_answered_in_order(serving: Serving) -> None:
    """Requests sent at once are answered one after the other, bodies included."""
    data = b"".join(post("/echo", b"%d" % each) for each in range(50)) + get("/hi")
    with serving() as server:
        got = exchange(server.port, data, 51)
    assert [each.body for each in got] == [b"%d" % each for each in range(50)] + [b"hi"]


def test_a_short_answer_is_one_piece(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """Head and body go out in one write, which wakes the client once; a long body is not copied for that."""
    written: list[int] = []

    class Recording:
        def __init__(self, transport: Any) -> None:
            self._transport = transport

        def write(self, data: bytes) -> None:
            written.append(len(data))
            self._transport.write(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._transport, name)

    from embatch.frontends.server.transport.protocol import LimitedProtocol

    made = LimitedProtocol.connection_made
    monkeypatch.setattr(
        LimitedProtocol,
        "connection_made",
        lambda self, transport: made(self, cast("Any", Recording(transport))),
    )
    with serving() as server:
        assert exchange(server.port, get("/hi"))[0].body == b"hi"
        assert len(written) == 1
        exchange(server.port, get("/much"))
        assert max(written) == 50_000_000


def test_a_head_does_not_wait_for_its_body(serving: Serving, app: SmallApp) -> None:
    """A client sees how it is answered as soon as the application says so."""

    async def talk(port: int) -> tuple[bytes, bytes]:
        async with wire(port) as client:
            await client.send(get("/late"))
            async with asyncio.timeout(10):
                head = await client.reader.readuntil(b"\r\n\r\n")
            app.release.set()
            return head, await client.reader.readexactly(4)

    with serving() as server:
        head, body = asyncio.run(talk(server.port))
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == b"done"


def test_too_many_pipelined_requests_end_the_connection(serving: Serving) -> None:
    """Nobody fills the memory with requests behind one that is slow: what is in is answered, and no more."""

    async def talk(port: int) -> tuple[Got, bytes]:
        async with wire(port) as client:
            await client.send(get("/hold") + get("/hi") * 1000)
            await asyncio.to_thread(app.begun.wait)
            app.release.set()
            return await client.answer(), await client.ended()

    from tests.integration.transport.conftest import SmallApp

    app = SmallApp()
    with serving(app) as server:
        first, rest = asyncio.run(talk(server.port))
    assert (first.body, first.headers["connection"], rest) == (b"done", "close", b"")
    assert server.server.traffic.cuts == {"pipeline": 1}


def test_a_client_that_leaves_ends_its_work(serving: Serving, app: SmallApp) -> None:
    """When the connection goes, the work for it is cancelled."""

    async def talk(port: int) -> None:
        async with wire(port) as client:
            await client.send(get("/hold"))
            await asyncio.to_thread(app.begun.wait)

    with serving() as server:
        asyncio.run(talk(server.port))
        assert app.cancelled.wait(10)
        assert exchange(server.port, get("/hi"))[0].status == 200


def test_work_for_those_who_stay_is_not_ended(serving: Serving, app: SmallApp) -> None:
    """A request that is waited for gets its answer."""

    async def talk(port: int) -> Got:
        async with wire(port) as client:
            await client.send(get("/hold"))
            await asyncio.to_thread(app.begun.wait)
            app.release.set()
            return await client.answer()

    with serving() as server:
        assert asyncio.run(talk(server.port)).body == b"done"
    assert not app.cancelled.is_set()


def test_sane_request_ids_are_kept_and_others_replaced(serving: Serving, app: SmallApp) -> None:
    """A client's own request id comes back; what could do harm in a log is replaced."""
    with serving() as server:
        kept, made, other = [
            exchange(server.port, get("/hi", *line))[0].headers["x-request-id"]
            for line in ([b"X-Request-Id: trace-7/a"], [], [b'X-Request-Id: a"b c'])
        ]
    assert kept == "trace-7/a"
    assert made.startswith("req_")
    assert other.startswith("req_")
    assert made != other
    assert app.ids == [kept, made, other]


def test_pages_get_safe_headers_and_answers_are_not_sniffed(serving: Serving) -> None:
    """Pages may not be framed or run foreign scripts; nothing allows other origins to read."""
    with serving() as server:
        page, plain = exchange(server.port, get("/page") + get("/hi", b"Origin: http://evil.example"), 2)
    assert page.headers["x-frame-options"] == "DENY"
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert plain.headers["x-content-type-options"] == "nosniff"
    assert "content-security-policy" not in plain.headers
    assert not any(name.startswith("access-control") for name in {*page.headers, *plain.headers})


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([], 200),
        ([b"Sec-Fetch-Site: same-origin"], 200),
        ([b"Origin: http://localhost"], 200),
        ([b"Sec-Fetch-Site: cross-site"], 403),
        ([b"Origin: http://evil.example"], 403),
    ],
)
def test_pages_of_other_origins_cannot_ask(serving: Serving, lines: list[bytes], status: int) -> None:
    """A browser's request for a foreign page is refused before it costs anything."""
    with serving() as server:
        assert exchange(server.port, post("/echo", b"x", *lines))[0].status == status


@pytest.mark.parametrize(
    ("host", "keys", "status"),
    [
        ("localhost:80", False, 200),
        ("[::1]:80", False, 200),
        ("evil.example", False, 403),
        ("evil.example", True, 200),
    ],
)
def test_foreign_names_do_not_reach_a_server_without_keys(
    serving: Serving, host: str, keys: bool, status: int
) -> None:
    """A web page cannot reach a local server through a name that it made point here; with keys it has none."""
    from embatch.frontends.server.settings import ApiKey

    settings = {"keys": (ApiKey(name="a", secret="0123456789abcdef"),)} if keys else {}
    with serving(**settings) as server:
        got = exchange(server.port, b"GET /hi HTTP/1.1\r\nHost: " + host.encode() + b"\r\n\r\n")
    assert got[0].status == status


def test_what_escapes_the_application_is_one_answer_and_one_line(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected error is answered 500 without its words, and logged once with the request's id."""
    with serving() as server:
        got, after = exchange(server.port, get("/crash") + get("/hi"), 2)
    assert (got.status, after.status) == (500, 200)
    assert json.loads(got.body)["error"]["code"] == "failed"
    assert b"secret" not in got.body
    assert [record.name for record in caplog.records] == ["embatch.serve"]
    assert got.headers["x-request-id"] in caplog.text


def test_half_an_answer_does_not_look_whole(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    """If the application fails in the middle of an answer, the connection breaks."""

    async def talk(port: int) -> bytes:
        async with wire(port) as client:
            await client.send(get("/half"))
            return await client.ended()

    with serving() as server:
        got = asyncio.run(talk(server.port))
        assert exchange(server.port, get("/hi"))[0].status == 200
    assert len(got.partition(b"\r\n\r\n")[2]) < 10  # as many as the headers promise
    assert len(caplog.records) == 1


def test_the_access_log_tells_no_secrets(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    """One line a request: who, what, status, time, id; no query, no headers, no body."""
    caplog.set_level(logging.INFO, "embatch.serve")
    with serving() as server:
        exchange(
            server.port,
            post("/echo?key=topsecret", b"private", b"Authorization: Bearer sk-1", b"X-Request-Id: r1"),
        )
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("127.0.0.1 POST /echo 200 ")
    assert line.endswith(" ms r1")
    assert not any(word in line for word in ("topsecret", "private", "sk-1"))


def test_answers_are_counted_under_known_paths_only(serving: Serving) -> None:
    """Paths that clients make up share one name."""
    with serving() as server:
        exchange(server.port, get("/") + get("/hi") + get("/page"), 3)
    assert server.server.traffic.answers == {("/", 200): 1, ("other", 200): 2}
    assert (server.server.traffic.open, server.server.traffic.under_way) == (0, 0)


def test_an_upgrade_is_answered_as_plain_http(serving: Serving) -> None:
    """A client that offers HTTP/2 gets HTTP/1.1, and the connection ends."""
    lines = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")
    with serving() as server:
        (got,) = exchange(server.port, get("/hi", *lines))
    assert (got.status, got.body, got.headers["connection"]) == (200, b"hi", "close")


def test_expect_continue_is_answered(serving: Serving) -> None:
    """A client that asks before it sends its body is told to go on, or refused at once."""

    async def talk(port: int, length: int) -> bytes:
        async with wire(port) as client:
            head = b"POST /echo HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n"
            await client.send(head % length)
            return await client.reader.readuntil(b"\r\n")

    with serving(body_bytes=1000) as server:
        assert b" 100 " in asyncio.run(talk(server.port, 5))
        assert b" 413 " in asyncio.run(talk(server.port, 5000))


def test_old_clients_are_answered_and_closed(serving: Serving) -> None:
    """HTTP/1.0 without keep-alive gets its answer and the end."""

    async def talk(port: int) -> tuple[Got, bytes]:
        async with wire(port) as client:
            await client.send(b"GET /hi HTTP/1.0\r\n\r\n")
            return await client.answer(), await client.ended()

    with serving() as server:
        got, rest = asyncio.run(talk(server.port))
    assert (got.body, rest) == (b"hi", b"")
