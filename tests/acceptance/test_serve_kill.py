"""A server killed at random moments of its batch jobs: no row is lost, and none is there twice.

Each kill is a SIGKILL of `embatch serve` in a process of its own. `EMBATCH_SERVE_KILLS=200` kills more often.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Self

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.kill, pytest.mark.serve, pytest.mark.timeout(900)]

KILLS = int(os.environ.get("EMBATCH_SERVE_KILLS", "8"))
ROWS = 5000
BOUNDARY = "embatch-kill-test"
ENDED = {"completed", "failed", "expired", "cancelled"}


class Server:
    """`embatch serve` over a folder, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        command = ["serve", "hashing", "--port", "0", "--state", str(folder), "--no-dashboard", "--lazy"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "embatch", *command], stderr=subprocess.PIPE, text=True
        )
        assert self._process.stderr is not None
        told = ""
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", told)):
            line = self._process.stderr.readline()
            assert line, f"the server ended: {told}"
            told += line
        self._port = int(found[1])

    def ask(self, method: str, path: str, body: object = None, kind: str = "application/json") -> bytes:
        """What a request is answered with."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, content, {"Content-Type": kind})
            answer = connection.getresponse()
            told = answer.read()
            assert answer.status == 200, told
            return told
        finally:
            connection.close()

    def submit(self, data: bytes) -> str:
        """Upload a file, and start a batch over it."""
        parts = [
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'.encode(),
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'.encode(),
            data,
            f"\r\n--{BOUNDARY}--\r\n".encode(),
        ]
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        file = json.loads(self.ask("POST", "/v1/files", b"".join(parts), kind))
        wish = {"input_file_id": file["id"], "endpoint": "/v1/embeddings", "completion_window": "24h"}
        return str(json.loads(self.ask("POST", "/v1/batches", wish))["id"])

    def look(self, name: str) -> dict[str, Any]:
        """How a batch stands."""
        batch: dict[str, Any] = json.loads(self.ask("GET", f"/v1/batches/{name}"))
        return batch

    def wait(self, name: str) -> dict[str, Any]:
        """How it ended."""
        end = time.monotonic() + 120
        while (batch := self.look(name))["status"] not in ENDED:
            assert time.monotonic() < end
            time.sleep(0.02)
        return batch

    def rows(self, batch: dict[str, Any]) -> list[list[tuple[str, Any]]]:
        """What is in its outputs, but for the names of the requests."""
        found = []
        for kind in ("output_file_id", "error_file_id"):
            lines = self.ask("GET", f"/v1/files/{batch[kind]}/content").splitlines()
            rows = [json.loads(line) for line in lines]
            found.append([(row["custom_id"], row["response"]["body"]) for row in rows])
        return found

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait(30)
        assert self._process.stderr is not None
        self._process.stderr.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def lines() -> bytes:
    rows = []
    for place in range(ROWS):
        text = "" if place % 97 == 5 else f"text {place} " + "word " * (place % 40)
        body: dict[str, Any] = {"model": "hashing", "input": [text, "more"] if place % 13 == 0 else text}
        if place % 500 > 400:
            body["dimensions"] = 32
        row = {"custom_id": f"row {place}", "method": "POST", "url": "/v1/embeddings", "body": body}
        rows.append(json.dumps({**row, "body": {**body, "encoding_format": "base64"}}))
    return "\n".join(rows).encode()


def test_kills(tmp_path: Path) -> None:
    """However often a server is killed, its batches come out as those of one that was left in peace."""
    draw = random.Random(20_240_711)
    data = lines()
    with Server(tmp_path / "peace") as server:
        expected = server.rows(server.wait(server.submit(data)))
    assert [len(rows) for rows in expected] == [ROWS - len(expected[1]), len(range(5, ROWS, 97))]
    batches: list[str] = []
    interrupted = 0
    for _ in range(KILLS):
        with Server(tmp_path / "killed") as server:
            if not batches or server.look(batches[-1])["status"] in ENDED:
                batches.append(server.submit(data))
            time.sleep(draw.uniform(0.0, 0.5))
            interrupted += server.look(batches[-1])["status"] not in ENDED
    assert interrupted, "no kill met a batch under way: the test shows nothing"
    with Server(tmp_path / "killed") as server:
        for name in batches:
            batch = server.wait(name)
            assert batch["status"] == "completed"
            counts = {"total": ROWS, "completed": len(expected[0]), "failed": len(expected[1])}
            assert batch["request_counts"] == counts
            assert server.rows(batch) == expected
    assert list((tmp_path / "killed" / "parts").iterdir()) == []
