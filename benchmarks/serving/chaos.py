"""Clients that nobody wishes for, in a process of their own: killed, broken, slow; and some whose texts are poisoned.

Each kind goes on over and over until the time is over, and counts what came of it. `python -m benchmarks.serving.chaos`
takes a plan as JSON on standard input and prints the counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import socket
import struct
import sys
import time
from base64 import b64decode
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.serving import mutation
from benchmarks.serving.wire import BadAnswerError, Response, ResponseParser, raw

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import numpy.typing as npt

_PATH = "/v1/embeddings"
_VECTORS = re.compile(rb'"embedding"\s*:\s*"([A-Za-z0-9+/=]+)"')
_LINGER = struct.pack("ii", 1, 0)  # closing sends a reset, as the system does for a killed client
_MANY = 24
_GREEDY = 400
_PATIENCE_S = 30.0
_CUT_SLACK_S = 6.0


class Chaos:
    """All kinds of trouble on one server.

    Args:
        port: of the server.
        rows: texts that are served well.
        reference: their vectors, `(n, dim)` of length 1.
        least_cosine: an answer below it is a wrong vector.
        marks: of poisoned texts, by what they make the model do: `fail`, `nan`, `tight`.
        client_s: after so long the server cuts slow clients off.
        seed: of all chance.
    """

    def __init__(
        self,
        *,
        port: int,
        rows: list[str],
        reference: npt.NDArray[np.float32],
        least_cosine: float,
        marks: dict[str, str],
        client_s: float,
        seed: int,
    ) -> None:
        self._port = port
        self._rows = rows
        self._reference = reference
        self._least = least_cosine
        self._marks = marks
        self._client_s = client_s
        self._rng = random.Random(seed)
        self._until = 0.0
        self.counts: Counter[str] = Counter()
        self.samples: dict[str, str] = {}

    async def run(self, seconds: float, pause_s: float) -> dict[str, Any]:
        """Every kind of client side by side, each resting a moment between two attempts."""
        self._until = time.perf_counter() + seconds
        kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "killed": self._killed,
            "broken body": self._broken_body,
            "broken stream": self._broken_stream,
            "slow headers": self._slow_headers,
            "slow body": self._slow_body,
            "slow reader": self._slow_reader,
            "poisoned": self._poisoned,
            "many": self._many,
        }
        await asyncio.gather(*(self._again(name, one, pause_s) for name, one in kinds.items()))
        return {"counts": dict(sorted(self.counts.items())), "samples": self.samples}

    async def _again(self, name: str, one: Callable[[], Awaitable[None]], pause_s: float) -> None:
        while time.perf_counter() < self._until:
            try:
                await one()
                self.counts[name] += 1
            except TimeoutError:
                self._bad(f"{name}: no answer in its time", "")
            except OSError as error:
                self.counts[f"{name}: {type(error).__name__}"] += 1
            await asyncio.sleep(pause_s * self._rng.uniform(0.5, 1.5))

    # --- clients that go away ---------------------------------------------------------------------------------

    async def _killed(self) -> None:
        """A client is killed somewhere between its first byte and its answer's last."""
        reader, writer = await self._connect()
        data = self._request([self._text() for _ in range(self._rng.choice([1, 1, 8]))])
        how = self._rng.randrange(4)
        if how == 0:
            data = data[: self._rng.randrange(len(data))]
        writer.write(data)
        await asyncio.sleep(self._rng.uniform(0.0, 0.05))
        if how == 1:
            await asyncio.wait_for(reader.read(64), _PATIENCE_S)
        if how != 2:  # one in four closes as programs do that end in order
            _reset_on_close(writer)
        writer.close()

    # --- clients that send rubbish ----------------------------------------------------------------------------

    async def _broken_body(self) -> None:
        """A body that is wrong, of the right length: there must be an answer, and none of the server's own faults."""
        body = mutation.body(self._rng, self._text())
        response = await self._exchange(raw("POST", _PATH, body))
        if response is None or response.status >= 500:
            self._unexpected("broken body", response, body)
        else:
            self.counts[f"broken body: {response.status}"] += 1

    async def _broken_stream(self) -> None:
        """Bytes that may be no HTTP: an answer or a closed connection, in the time that slow clients have."""
        data = mutation.stream(self._rng, _PATH, self._text())
        reader, writer = await self._connect()
        try:
            writer.write(data)
            end = self._client_s * 2 + _CUT_SLACK_S
            got = await asyncio.wait_for(reader.read(65_536), end)
            status = int(got[9:12]) if got[9:12].isdigit() else 0
            if status >= 500 and status not in {501, 503, 504, 505}:
                self._bad(f"broken stream: {status}", repr(data[:200]))
            else:
                self.counts[f"broken stream: {status or 'closed'}"] += 1
        finally:
            writer.close()

    # --- clients that take their time -------------------------------------------------------------------------

    async def _slow_headers(self) -> None:
        """A byte of the headers now and then: cut off."""
        await self._dribble("slow headers", self._request([self._text()]), 0)

    async def _slow_body(self) -> None:
        """Headers at once, and then nothing of the body."""
        data = self._request([self._text()])
        await self._dribble("slow body", data[:-5], len(data) - 5)

    async def _dribble(self, name: str, data: bytes, at_once: int) -> None:
        """Send so much at once and the rest byte by byte; the server has to end this."""
        reader, writer = await self._connect()
        began = time.perf_counter()
        most_s = self._client_s + _CUT_SLACK_S
        try:
            writer.write(data[:at_once])
            rest = iter(data[at_once:])
            while time.perf_counter() < began + most_s:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(4096), 0.5)
                    self.counts[f"{name}: cut off"] += 1
                    return
                if (one := next(rest, None)) is not None:
                    writer.write(bytes([one]))
            self._bad(f"{name}: not cut off", f"after {most_s:g} s")
        except OSError:
            self.counts[f"{name}: cut off"] += 1
        finally:
            writer.close()

    async def _slow_reader(self) -> None:
        """Asks for a large answer and does not take it: cut off, sooner or later; memory must not stay behind."""
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.setblocking(False)  # the system's own word
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(one, ("127.0.0.1", self._port))
            texts = [self._text() for _ in range(_GREEDY)]
            body = json.dumps({"model": "minilm", "input": texts}).encode()
            await loop.sock_sendall(one, raw("POST", _PATH, body))
            await asyncio.sleep(self._client_s * 2 + _CUT_SLACK_S)
            with contextlib.suppress(TimeoutError, OSError):
                while await asyncio.wait_for(loop.sock_recv(one, 1 << 20), 1.0):
                    pass
        finally:
            one.close()

    # --- clients that are in order ----------------------------------------------------------------------------

    async def _poisoned(self) -> None:
        """A text that the model fails on, beside others in one request; alone it is refused, and says so."""
        row = self._rng.randrange(len(self._rows))
        name, mark = self._rng.choice([*self._marks.items()])
        response = await self._exchange(self._request([mark + self._rows[row]]))
        if response is None:
            self._unexpected(f"poisoned, {name}", response, b"")
        elif name == "tight" and response.status == 200:
            self._compare("poisoned", [row], response.body)
        elif response.status == 200:
            self._bad(f"poisoned, {name}: answered with a vector", "")
        else:
            self.counts[f"poisoned, {name}: {response.status}"] += 1

    async def _many(self) -> None:
        """Many texts in one request, every vector of the answer compared, in its order."""
        rows = [self._rng.randrange(len(self._rows)) for _ in range(_MANY)]
        response = await self._exchange(self._request([self._rows[row] for row in rows]))
        if response is not None and response.status == 200:
            self._compare("many", rows, response.body)
        elif response is None:
            self._unexpected("many", response, b"")
        else:  # a fault of the backend may have hit one of its texts
            self.counts[f"many: {response.status}"] += 1

    def _compare(self, name: str, rows: list[int], body: bytes) -> None:
        found = [np.frombuffer(b64decode(one), dtype="<f4") for one in _VECTORS.findall(body)]
        if len(found) != len(rows):
            self._bad(f"{name}: wrong number of vectors", f"{len(found)} for {len(rows)}")
            return
        for row, vector in zip(rows, found, strict=True):
            cosine = float(vector @ self._reference[row]) / float(np.linalg.norm(vector))
            self.counts["compared"] += 1
            if not cosine >= self._least:
                self._bad(f"{name}: wrong vector", f"cosine {cosine}")

    # --- connections ------------------------------------------------------------------------------------------

    async def _exchange(self, data: bytes) -> Response | None:
        """The answer; None if the connection was closed without one, or with one that cannot be read."""
        reader, writer = await self._connect()
        parser = ResponseParser()
        try:
            writer.write(data)
            until = time.perf_counter() + _PATIENCE_S
            while True:
                got = await asyncio.wait_for(reader.read(1 << 20), until - time.perf_counter())
                if not got:
                    return None
                for response in parser.feed(got):
                    return response
        except BadAnswerError:
            return None
        finally:
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.wait_for(asyncio.open_connection("127.0.0.1", self._port), _PATIENCE_S)

    def _request(self, texts: list[str]) -> bytes:
        body = {"model": "minilm", "input": texts, "encoding_format": "base64"}
        return raw("POST", _PATH, json.dumps(body).encode())

    def _text(self) -> str:
        return self._rng.choice(self._rows)

    def _unexpected(self, name: str, response: Response | None, sent: bytes) -> None:
        """Between an outage and its end a refusal is in order; otherwise this is the server's fault."""
        if response is not None and response.status in {429, 503, 504}:
            self.counts[f"{name}: {response.status}"] += 1
            return
        if response is not None and b"input_failed" in response.body:  # a fault that was asked for
            self.counts[f"{name}: {response.status}, input_failed"] += 1
            return
        what = "closed without an answer" if response is None else str(response.status)
        self._bad(f"{name}: {what}", f"{sent[:200]!r} {b'' if response is None else response.body[:300]!r}")

    def _bad(self, what: str, sample: str) -> None:
        """Something that must not happen; counts of it begin with an exclamation mark."""
        self.counts[f"! {what}"] += 1
        self.samples.setdefault(what, sample)


def _reset_on_close(writer: asyncio.StreamWriter) -> None:
    one = writer.get_extra_info("socket")
    if one is not None:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)


def main() -> None:
    """Carry out the plan on standard input, and print the counts."""
    import uvloop

    plan = json.loads(sys.stdin.read())
    seconds, pause_s = plan.pop("seconds"), plan.pop("pause_s")
    rows = json.loads(Path(plan.pop("texts")).read_text("utf-8"))
    reference = np.load(plan.pop("reference"))
    chaos = Chaos(rows=rows, reference=reference, **plan)
    print(json.dumps(uvloop.run(chaos.run(seconds, pause_s))))


if __name__ == "__main__":
    main()
