"""Signals end a server without losing what is in: real processes, real sockets."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.integration.transport.conftest import get, post, until, wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.integration.transport.conftest import Got, SmallApp

    Serving = Callable[..., Any]

pytestmark = [pytest.mark.serve, pytest.mark.kill]

PROGRAM = Path(__file__).parent / "program.py"


@contextmanager
def program(drain_s: float) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The process and its port."""
    command = [sys.executable, str(PROGRAM), str(drain_s)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def refused(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_in_is_answered_and_nothing_more_let_in(number: signal.Signals) -> None:
    """After a signal new connections are refused, idle ones closed, held requests answered; the exit code is 0."""

    async def talk(process: subprocess.Popen[str], port: int) -> tuple[Got, bytes]:
        async with wire(port) as idle, wire(port) as held:
            await idle.send(get("/"))
            await idle.answer()
            await held.send(get("/hold"))
            assert await asyncio.to_thread(line, process) == "begun"
            process.send_signal(number)
            rest = await idle.ended()
            await asyncio.to_thread(until, lambda: refused(port))
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            return await held.answer(), rest

    with program(30) as (process, port):
        got, rest = asyncio.run(talk(process, port))
        assert process.wait(20) == 0
    assert (got.status, got.body, got.headers["connection"], rest) == (200, b"ok", "close", b"")


def test_what_takes_too_long_is_told_so() -> None:
    """Requests that are not answered in the time for draining get 503, and the process still ends with 0."""

    async def talk(process: subprocess.Popen[str], port: int) -> Got:
        async with wire(port) as held:
            await held.send(get("/hold"))
            assert await asyncio.to_thread(line, process) == "begun"
            process.send_signal(signal.SIGTERM)
            return await held.answer()

    with program(0.05) as (process, port):
        got = asyncio.run(talk(process, port))
        assert process.wait(20) == 0
    assert got.status == 503
    assert b"stopped" in got.body


def test_a_second_signal_ends_at_once() -> None:
    """Who cannot wait sends the signal again."""

    async def talk(process: subprocess.Popen[str], port: int) -> None:
        async with wire(port) as held:
            await held.send(get("/hold"))
            assert await asyncio.to_thread(line, process) == "begun"
            process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(until, lambda: refused(port))
            process.send_signal(signal.SIGTERM)
            await held.ended()

    with program(1000) as (process, port):
        asyncio.run(talk(process, port))
        assert process.wait(20) == 130


def test_a_body_that_was_begun_may_end(serving: Serving, app: SmallApp) -> None:
    """A request whose body is still coming is in: it is answered while the server drains."""

    async def talk(server: Any) -> Got:
        request = post("/raw", b"12345")
        async with wire(server.port) as client:
            await client.send(request[:-2])
            await asyncio.to_thread(until, lambda: app.requests)
            server.server.stop()
            await asyncio.to_thread(until, lambda: refused(server.port))
            await client.send(request[-2:])
            return await client.answer()

    with serving(drain_s=10.0) as server:
        got = asyncio.run(talk(server))
    assert (got.body, got.headers["connection"]) == (b"12345", "close")
