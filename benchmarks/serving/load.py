"""A load client in a process of its own: keeps connections open, asks, and measures each answer.

Closed loop: each connection asks again as soon as it is answered, so that as many requests are under way as there are
connections. Open loop: requests are due at random moments whatever the server does, and time counts from when a
request was due, waits for a free connection included. `python -m benchmarks.serving.load` takes a plan as JSON on
standard input and prints a report; `Load` in `loads.py` is the harness's side.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np

from benchmarks.serving.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable
from benchmarks.serving.wire import BadAnswerError, ResponseParser, request

_SWEEP_S = 0.05  # how often requests are looked through for those whose time is over
_PAUSE_AFTER_LOSS_S = 0.1  # before another connection takes the place of a lost one


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one client does."""

    port: int
    texts: str
    """JSON file with the list of texts; asked in order, from `first` on, over and over."""
    path: str = "/v1/embeddings"
    model: str = "minilm"
    first: int = 0
    connections: int = 1
    """Closed loop: requests under way. Open loop: most connections."""
    seconds: float = 10.0
    """No request is sent later."""
    rate: float | None = None
    """Open loop, requests a second in the mean; None is a closed loop."""
    seed: int = 7
    requests: int | None = None
    """Closed loop: each connection asks so often at most."""
    pause_s: float = 0.0
    """Closed loop: from an answer to the connection's next request."""
    obey_s: float = 0.0
    """Closed loop: a connection that was refused rests as long as it was told, but no longer than so."""
    timeout_s: float = 60.0
    """A request that has no answer by then is lost."""
    together_at: float | None = None
    """On the monotonic clock: all connections are opened at once, and held until then."""
    reference: str | None = None
    """`.npy` file of `(texts, dim)` that every answer is compared with."""
    least_cosine: float = 0.999
    out: str | None = None
    """`.npz` file for each answer's moment, latency and status."""


class Connection(asyncio.Protocol):
    """One keep-alive connection: at most one request under way."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._transport: asyncio.Transport | None = None
        self._parser = ResponseParser()
        self.row = 0
        self.due = 0.0
        self.deadline = 0.0
        self.busy = False
        self.asked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self, row: int, due: float, deadline: float, data: bytes) -> None:
        """Ask; the answer goes to the client."""
        assert self._transport is not None
        self.row, self.due, self.deadline, self.busy = row, due, deadline, True
        self.asked += 1
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        try:
            for response in self._parser.feed(data):
                if not self.busy:
                    raise BadAnswerError("an answer that nobody asked for")  # noqa: TRY301  # ends as any other bad one
                self.busy = False
                self._client.tally.answer(self.row, self.due, now, response)
                if response.close:
                    self.end("")
                else:
                    self._client.free(self, after_s=float(response.retry_after or 0))
        except BadAnswerError as error:
            self.end(str(error)[:80])

    def connection_lost(self, exc: Exception | None) -> None:
        why = "closed without an answer" if exc is None else type(exc).__name__
        self._client.gone(self, why)

    def end(self, why: str) -> None:
        """Drop the connection, and with it what is under way, for a reason of the client's own."""
        if self.busy:
            self.busy = False
            self._client.tally.lose(why)
        if self._transport is not None:
            self._transport.abort()


class Client:
    """Carries out one plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        rows: list[str] = json.loads(Path(plan.texts).read_text("utf-8"))
        self._requests = [request(plan.path, row, model=plan.model) for row in rows]
        vectors = None if plan.reference is None else np.load(plan.reference)
        self.tally = Tally(vectors, plan.least_cosine)
        self._next = plan.first
        self._open: set[Connection] = set()
        self._idle: deque[Connection] = deque()
        self._due: deque[float] = deque()
        self._started = False
        self._ended = False
        self._opening = 0
        self._most_open = 0
        self._until = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> dict[str, Any]:
        """Ask until the plan's time is over, wait for the answers that are outstanding, and report."""
        plan = self._plan
        await self._connect_all()
        if plan.together_at is not None:
            await asyncio.sleep(max(0.0, plan.together_at - time.perf_counter()))
        self._started = True
        cpu, started = time.process_time(), time.perf_counter()
        self._until = started + plan.seconds
        if plan.rate is None:
            for connection in [*self._open]:
                self._ask(connection, time.perf_counter())
            await self._tick_until(lambda: time.perf_counter() >= self._until or self._finished())
        else:
            arrivals = asyncio.create_task(self._arrivals(started, plan.rate))
            await self._tick_until(arrivals.done)
        ended = min(time.perf_counter(), self._until)
        patience = ended + plan.timeout_s + 1.0
        await self._tick_until(lambda: not self._under_way() or time.perf_counter() > patience)
        self._ended = True
        for connection in [*self._open]:
            connection.end("left behind")
        for _ in self._due:
            self.tally.lose("no connection was free")
        last = max((a + t for a, t in zip(self.tally.asked, self.tally.took, strict=True)), default=ended)
        return {
            **self.tally.report(started, min(ended, last) if self._plan.requests else ended),
            "most_open": self._most_open,
            "started": started,
            "last_answer": last,
            "client_cpu_s": time.process_time() - cpu,
        }

    def free(self, connection: Connection, after_s: float = 0.0) -> None:
        """A connection has its answer, or was told to come back after some seconds: what waits goes next."""
        pause_s = max(self._plan.pause_s, min(after_s, self._plan.obey_s))
        if self._due:
            self._ask(connection, self._due.popleft())
        elif self._plan.rate is not None:
            self._idle.append(connection)
        elif pause_s:
            asyncio.get_running_loop().call_later(pause_s, self._again, connection)
        else:
            self._again(connection)

    def gone(self, connection: Connection, why: str) -> None:
        """A connection ended: its request is lost, and another takes its place."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if connection.busy:
            connection.busy = False
            self.tally.lose(why)
        elif not self._started:
            self.tally.lose("closed before it asked")
        left = self._plan.requests is None or connection.asked < self._plan.requests
        if not self._ended and left and time.perf_counter() < self._until:
            self._later(self._replace(connection.asked))

    def _again(self, connection: Connection) -> None:
        plan = self._plan
        if plan.requests is not None and connection.asked >= plan.requests:
            return
        if (now := time.perf_counter()) < self._until:
            self._ask(connection, now)

    def _ask(self, connection: Connection, due: float) -> None:
        if connection not in self._open:
            return  # it was lost during its pause: another has taken its place
        row = self._next % len(self._requests)
        self._next += 1
        connection.send(row, due, due + self._plan.timeout_s, self._requests[row])

    async def _arrivals(self, started: float, rate: float) -> None:
        """Poisson arrivals: gaps between them are exponential."""
        rng = random.Random(self._plan.seed)
        due = started
        while (due := due + rng.expovariate(rate)) < self._until:
            wait = due - time.perf_counter()
            if wait > 0.0:
                await asyncio.sleep(wait)
            self._arrive(due)

    def _arrive(self, due: float) -> None:
        if self._idle:
            self._ask(self._idle.pop(), due)  # the one used last: few connections stay warm
            return
        self._due.append(due)
        if len(self._open) + self._opening < self._plan.connections:
            self._later(self._replace(0))

    async def _connect_all(self) -> None:
        plan = self._plan
        many = plan.connections if plan.rate is None else min(plan.connections, 16)
        await asyncio.gather(*(self._connect() for _ in range(many)))
        if plan.rate is not None:
            self._idle.extend(self._open)

    async def _connect(self) -> Connection | None:
        loop = asyncio.get_running_loop()
        self._opening += 1
        try:
            opening = loop.create_connection(lambda: Connection(self), "127.0.0.1", self._plan.port)
            _, connection = await asyncio.wait_for(opening, self._plan.timeout_s)
        except OSError as error:  # a timeout is one
            self.tally.lose(f"not connected: {type(error).__name__}")
            return None
        finally:
            self._opening -= 1
        self._open.add(connection)
        self._most_open = max(self._most_open, len(self._open))
        return connection

    async def _replace(self, asked: int) -> None:
        if asked:
            await asyncio.sleep(_PAUSE_AFTER_LOSS_S)
        connection = await self._connect()
        if connection is not None:
            connection.asked = asked
            self.free(connection)

    async def _tick_until(self, over: Callable[[], bool]) -> None:
        """Look now and then whether something is over, and whether a request's time is."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = time.perf_counter()
            for connection in [one for one in self._open if one.busy and one.deadline < now]:
                connection.end("no answer in its time")
            if over():
                return

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _under_way(self) -> bool:
        return bool(self._due) or any(one.busy for one in self._open)

    def _finished(self) -> bool:
        most = self._plan.requests
        if most is None or self._tasks:
            return False
        return all(one.asked >= most and not one.busy for one in self._open)

    def save(self, path: str) -> None:
        """Each answer's moment, latency and status, for percentiles over several clients."""
        tally = self.tally
        np.savez(path, asked=tally.asked, took=tally.took, statuses=tally.statuses)

    @classmethod
    def of(cls, plan: dict[str, Any]) -> Self:
        """A client of a plan as it came over the wire."""
        return cls(Plan(**plan))


def to_json(plan: Plan) -> str:
    """The plan as one line."""
    return json.dumps(asdict(plan))


def main() -> None:
    """Carry out the plan on standard input, and print the report."""
    import uvloop

    plan = json.loads(sys.stdin.read())
    client = Client.of(plan)
    report = uvloop.run(client.run())
    if plan.get("out"):
        client.save(plan["out"])
    print(json.dumps(report))


if __name__ == "__main__":
    main()
