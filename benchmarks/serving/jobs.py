"""A batch job as a client sees it: a file is uploaded, a job made of it, watched, and cancelled."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from benchmarks.worker import WorkerError

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.serving.servers import Server

OVER = frozenset({"completed", "failed", "expired", "cancelled"})
_LOOK_S = 0.5
_BOUNDARY = "a-boundary-that-no-text-here-has"


def upload(server: Server, path: Path) -> str:
    """The id of the uploaded file.

    Raises:
        WorkerError: it was refused.
    """
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{path.name}"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    )
    body = head.encode() + path.read_bytes() + f"\r\n--{_BOUNDARY}--\r\n".encode()
    content = f"multipart/form-data; boundary={_BOUNDARY}"
    status, answer = server.ask("POST", "/v1/files", body, Content_Type=content)
    return str(_good(status, answer)["id"])


class Job:
    """A job under way: made by construction.

    Args:
        server: whose job it is.
        file: id of the uploaded file.
    """

    def __init__(self, server: Server, file: str) -> None:
        self._server = server
        asked = {"input_file_id": file, "endpoint": "/v1/embeddings", "completion_window": "24h"}
        body = json.dumps(asked).encode()
        status, answer = server.ask("POST", "/v1/batches", body, Content_Type="application/json")
        self.id = str(_good(status, answer)["id"])

    def look(self) -> dict[str, Any]:
        """The job as the server tells of it."""
        return _good(*self._server.ask("GET", f"/v1/batches/{self.id}"))

    def completed(self) -> int:
        """Rows that are done.

        Raises:
            WorkerError: the job has failed.
        """
        seen = self.look()
        if seen["status"] in {"failed", "expired"}:
            raise WorkerError(f"the job is {seen['status']}: {seen.get('errors')}")
        return int((seen.get("request_counts") or {}).get("completed", 0))

    def wait_until_going(self, rows: int = 1, patience_s: float = 120.0) -> None:
        """Return when some rows are done.

        Raises:
            WorkerError: that takes too long.
        """
        until = time.monotonic() + patience_s
        while self.completed() < rows:
            if time.monotonic() > until:
                raise WorkerError(f"the job did nothing in {patience_s:.0f} s: {self.look()}")
            time.sleep(_LOOK_S)

    def watch(self, seconds: float) -> list[tuple[float, int]]:
        """Rows done at moments of the monotonic clock, for so long, or until the job is over."""
        seen = []
        until = time.perf_counter() + seconds
        while (now := time.perf_counter()) < until:
            seen.append((now, self.completed()))
            time.sleep(_LOOK_S)
        return seen

    def cancel(self, patience_s: float = 60.0) -> None:
        """Cancel it, and return when it is over.

        Raises:
            WorkerError: it goes on.
        """
        self._server.ask("POST", f"/v1/batches/{self.id}/cancel")
        until = time.monotonic() + patience_s
        while self.look()["status"] not in OVER:
            if time.monotonic() > until:
                raise WorkerError(f"the job goes on: {self.look()}")
            time.sleep(_LOOK_S)


def rate(seen: list[tuple[float, int]]) -> float:
    """Rows a second between the first and the last change that was seen: counts may grow in steps.

    >>> rate([(0.0, 0), (1.0, 100), (2.0, 100), (3.0, 300), (4.0, 300)])
    100.0
    """
    changes = [now for before, now in pairwise(seen) if now[1] != before[1]]
    if len(changes) < 2:
        return 0.0
    (begin, first), (end, last) = changes[0], changes[-1]
    return (last - first) / (end - begin)


def _good(status: int, answer: bytes) -> dict[str, Any]:
    if status // 100 != 2:
        raise WorkerError(f"answered {status}: {answer[:300]!r}")
    found: dict[str, Any] = json.loads(answer)
    return found
