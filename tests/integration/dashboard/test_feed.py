"""The dashboard's page, data and live feed, as a browser gets them."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import time
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from tests.contract.server.http import ask
from tests.unit.server.test_dashboard_status import STILL

from embatch.errors import OutputError
from embatch.frontends.server.settings import ApiKey, ServedModel, ServeSettings
from embatch.seen import BatchSeen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.integration.dashboard.conftest import Serving

    from embatch.frontends.server.dashboard.live import Live
    from embatch.frontends.server.transport.running import BackgroundServer

pytestmark = pytest.mark.serve


# --- over HTTP ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(serving: Serving) -> Iterator[BackgroundServer]:
    """One without an index, for tests that leave it as it was."""
    with serving() as server:
        yield server


def test_the_page_comes_from_here_alone(server: BackgroundServer) -> None:
    """It runs no script but its own files, may load nothing from elsewhere, and stands in nobody's frame."""
    reply = ask(server, "GET", "/")
    page = reply.body.decode()
    assert (reply.status, reply.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    policy = reply.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "style=" not in page
    assert all(tag.rstrip(">").split("src=")[1:] for tag in re.findall(r"<script[^>]*>", page))
    parts = re.findall(r'(?:src|href)="([^"#][^"]*)"', page)
    assert len(parts) >= 6
    assert all(part.startswith("/") and not part.startswith("//") for part in parts)
    for part in parts:
        if part.startswith("/dashboard/static/"):
            assert ask(server, "GET", part).status == 200, part


def test_parts_are_kept_by_the_browser_until_they_change(server: BackgroundServer) -> None:
    """An unchanged file costs no bytes; scripts come as what they are."""
    first = ask(server, "GET", "/dashboard/static/dashboard.js")
    assert first.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert first.headers["Cache-Control"] == "no-cache"
    again = ask(
        server, "GET", "/dashboard/static/dashboard.js", headers={"If-None-Match": first.headers["ETag"]}
    )
    assert (again.status, again.body) == (304, b"")
    licence = ask(server, "GET", "/dashboard/static/uplot/LICENSE")
    assert b"MIT License" in licence.body


@pytest.mark.parametrize(
    "name", ["nothing.js", "../routes.py", "%2e%2e/routes.py", "..%2froutes.py", "uplot"]
)
def test_nothing_else_is_handed_out(server: BackgroundServer, name: str) -> None:
    """Only files of the page have names here."""
    assert ask(server, "GET", f"/dashboard/static/{name}").status == 404


def test_the_status_tells_what_was_done(server: BackgroundServer) -> None:
    """Requests, models and memory; and only what is new to whoever has the rest."""
    reply = ask(server, "POST", "/v1/embeddings", {"model": "words", "input": ["one text", "and another"]})
    assert reply.status == 200
    assert comes(lambda: ask(server, "GET", "/dashboard/status").json["totals"]["asks"] == {"answered": 1})
    told = ask(server, "GET", "/dashboard/status").json
    assert told["totals"]["inputs"] == 2
    model = told["models"][0]
    assert (model["name"], model["state"], model["answered"]) == ("words", "idle", 1)
    assert (told["state"], told["index"], told["money"]) == ("ready", None, None)
    assert told["memory"]["rss_bytes"] > 1_000_000
    assert sum(told["batches"]["items"]) == 2
    fresh = ask(server, "GET", f"/dashboard/status?since={told['at']}").json
    assert fresh["batches"]["at"] == []
    assert "one text" not in json.dumps(told)


@pytest.mark.parametrize("since", ["yesterday", "-1", "nan", "inf"])
def test_a_moment_that_is_none_is_refused(server: BackgroundServer, since: str) -> None:
    """With 400, not with everything."""
    assert ask(server, "GET", f"/dashboard/status?since={since}").status == 400


def test_the_stream_begins_at_once_and_ends_with_the_server(serving: Serving) -> None:
    """The first message holds everything; a server that stops does not wait for those who watch."""
    with serving(drain_s=20.0) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("GET", "/dashboard/stream")
        answer = connection.getresponse()
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert answer.headers["Cache-Control"] == "no-store"
        lines: list[bytes] = []
        while not lines or not lines[-1].startswith(b"data: "):
            lines.append(answer.readline())
        told = json.loads(lines[-1].removeprefix(b"data: "))
        assert (told["object"], told["since"]) == ("dashboard.status", 0.0)
        server.stop()
        assert b"event: end" in answer.read()
        connection.close()


def test_a_page_that_left_makes_room(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many may listen at once; the next is refused until one of them is gone."""
    from embatch.frontends.server.dashboard import live

    monkeypatch.setattr(live, "LISTENERS", 1)
    with serving() as server:
        first = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        first.request("GET", "/dashboard/stream")
        assert first.getresponse().readline().startswith(b"retry:")
        refused = ask(server, "GET", "/dashboard/stream")
        assert (refused.status, refused.json["error"]["code"]) == (503, "too_many_listeners")
        assert ask(server, "GET", "/dashboard/status").status == 200
        first.close()
        assert comes(lambda: stream_status(server) == 200)


def stream_status(server: BackgroundServer) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", "/dashboard/stream")
    try:
        return connection.getresponse().status
    finally:
        connection.close()


def comes(true: Any, seconds: float = 10.0) -> bool:
    """Whether something gets true."""
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.002)
    return True


def test_data_needs_a_key_and_the_page_does_not(serving: Serving) -> None:
    """The page says nothing about the server, and asks for the key itself."""
    with serving(keys=(ApiKey(name="team", secret="correct horse"),)) as server:
        for path in ("/", "/dashboard/static/dashboard.js"):
            assert ask(server, "GET", path).status == 200, path
        for path in ("/dashboard/status", "/dashboard/stream", "/v1/search?q=x"):
            assert ask(server, "GET", path).status == 401, path
        headers = {"Authorization": "Bearer correct horse"}
        assert ask(server, "GET", "/dashboard/status", headers=headers).status == 200


def test_a_server_without_a_dashboard_has_no_page(serving: Serving) -> None:
    """Neither page nor data; search is there all the same."""
    with serving(dashboard=False) as server:
        for path in ("/", "/dashboard/status", "/dashboard/stream", "/dashboard/static/dashboard.js"):
            assert ask(server, "GET", path).status == 404, path
        assert ask(server, "GET", "/v1/search?q=x").json["error"]["code"] == "index_not_found"


# --- the feed itself ------------------------------------------------------------------------------------------------


@dataclass
class Model:
    """A model that is open; its snapshot may fail."""

    snapshot_now: Any = STILL
    fails: bool = False

    def snapshot(self) -> Any:
        if self.fails:
            raise ZeroDivisionError
        return self.snapshot_now


@dataclass
class World:
    """A server's parts, doubled, with a real board."""

    model: Model = field(default_factory=Model)
    jobs: Any = None

    def __post_init__(self) -> None:
        from embatch.frontends.server.auth import KeyRing
        from embatch.frontends.server.board import Board
        from embatch.frontends.server.state import ServerState

        settings = ServeSettings(models=(ServedModel(name="one", model="one"),))
        pool: Any = SimpleNamespace(open_models=lambda: {"one": self.model})
        self.state = ServerState(
            settings=settings, pool=pool, board=Board(), keys=KeyRing(()), jobs=self.jobs, ready=True
        )

    def live(self) -> Live:
        from embatch.frontends.server.dashboard.live import Live

        return Live(self.state, every_s=0.01)

    def batch(self, items: int) -> None:
        seen = BatchSeen(
            at=time.time(),
            seconds=0.0,
            stream=0,
            items=items,
            longest=5,
            tokens=10,
            padded_tokens=12,
            budget=64,
        )
        self.state.board.see(seen)


async def data_of(messages: AsyncIterator[bytes]) -> Any:
    """The next message."""
    message = (await asyncio.wait_for(anext(messages), 10)).decode()
    assert "event: status" in message
    return json.loads(message.split("data: ", 1)[1])


def test_a_listener_gets_everything_once_and_then_what_is_new() -> None:
    """The first message begins at the beginning, the others where the one before ended."""

    async def run() -> None:
        world = World()
        world.batch(items=3)
        async with aclosing(world.live().listen()) as messages:
            first = await data_of(messages)
            assert (first["since"], first["batches"]["items"]) == (0.0, [3])
            await data_of(messages)
            world.batch(items=7)
            fresh: list[int] = []
            while 7 not in fresh:
                told = await data_of(messages)
                if told["since"]:
                    fresh += told["batches"]["items"]
                elif 7 in told["batches"]["items"]:  # the test was held up, and got everything
                    world.batch(items=7)
            assert fresh == [7]
            assert told["gauges"]["at"], "each message brings a look at the queue"

    asyncio.run(run())


def test_whoever_missed_a_message_gets_everything_again() -> None:
    """A page on a slow line has no holes in its charts."""

    async def run() -> None:
        world = World()
        live = world.live()
        async with aclosing(live.listen()) as slow, aclosing(live.listen()) as quick:
            await data_of(slow)
            await data_of(quick)
            for _ in range(4):
                await data_of(quick)
            world.batch(items=5)
            for _ in range(3):
                await data_of(quick)
            told = await data_of(slow)
            assert (told["since"], told["batches"]["items"]) == (0.0, [5])

    asyncio.run(run())


def test_listeners_are_counted_and_leave() -> None:
    """One that ends in the middle of a message gives its place back; one that never began has none."""

    async def run() -> None:
        live = World().live()
        live.listen()
        assert live.listeners == 0
        messages = live.listen()
        await data_of(messages)
        assert live.listeners == 1
        await messages.aclose()
        assert live.listeners == 0

    asyncio.run(run())


def test_draining_ends_every_feed() -> None:
    """With a word, so that a page knows that nothing broke."""

    async def run() -> None:
        world = World()
        messages = world.live().listen()
        await data_of(messages)
        world.state.draining = True
        rest = [message async for message in messages]
        assert rest[-1].startswith(b"event: end")

    asyncio.run(run())


def test_a_part_that_fails_does_not_end_the_feed() -> None:
    """A model that cannot be looked at is a line in the log; when it can be again, the feed goes on."""

    async def run() -> None:
        world = World()
        async with aclosing(world.live().listen()) as messages:
            await data_of(messages)
            world.model.fails = True
            with suppress(TimeoutError):  # nothing can be told meanwhile
                await asyncio.wait_for(anext(messages), 0.03)
            world.model.fails = False
        async with aclosing(world.live().listen()) as messages:
            await data_of(messages)
            assert (await data_of(messages))["models"][0]["state"] == "idle"

    asyncio.run(run())


class FakeJobs:
    """Jobs as they are at the moment; may be unreadable."""

    def __init__(self) -> None:
        self.listed: dict[str, Any] = {}
        self.broken = False
        self.jobs = SimpleNamespace(under_way=self.under_way, find=self.listed.get)

    def put(self, name: str, status: str, done: int, *, ended: bool = False) -> None:
        progress = SimpleNamespace(completed=done, failed=1)
        self.listed[name] = SimpleNamespace(
            id=name,
            status=status,
            model="one",
            total=10,
            done=progress,
            created=float(len(self.listed)),
            ended=1.0 if ended else None,
        )

    def under_way(self) -> list[Any]:
        if self.broken:
            raise OutputError("the disk is gone")
        return [job for job in self.listed.values() if job.ended is None]

    def counts(self) -> dict[str, int]:
        return {"in_progress": len(self.listed)}

    async def opened(self) -> FakeJobs:
        return self

    async def in_thread(self, function: Any, *values: Any) -> Any:
        return function(*values)


def test_jobs_are_followed_to_their_end() -> None:
    """Those under way come first; one that ended while somebody watched stays listed with how it ended."""
    from embatch.frontends.server.dashboard.job_list import JobList

    async def run() -> None:
        jobs: Any = FakeJobs()
        watched = JobList(jobs)
        await watched.look()
        assert watched.told() == {"counts": {"in_progress": 0}, "recent": []}
        jobs.put("a", "in_progress", 2)
        jobs.put("b", "in_progress", 0)
        await watched.look()
        jobs.put("a", "completed", 9, ended=True)
        jobs.broken = True
        await watched.look()
        assert [row["status"] for row in watched.told()["recent"]] == ["in_progress", "in_progress"]
        jobs.broken = False
        for _ in range(2):
            await watched.look()
        rows = watched.told()["recent"]
        told = [(row["id"], row["status"], row["done"]) for row in rows]
        assert told == [("b", "in_progress", 1), ("a", "completed", 10)]

    asyncio.run(run())


def test_the_feed_tells_of_jobs_and_queues() -> None:
    """What waits and what runs is in the looks, jobs in their list."""

    async def run() -> None:
        jobs = FakeJobs()
        jobs.put("a", "in_progress", 2)
        world = World(Model(replace(STILL, running=6)), jobs)
        async with aclosing(world.live().listen()) as messages:
            await data_of(messages)
            told = await data_of(messages)
        assert told["gauges"]["running"][-1] == 6
        assert told["jobs"]["recent"][0]["total"] == 10

    asyncio.run(run())
