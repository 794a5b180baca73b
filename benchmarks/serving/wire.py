"""As much of HTTP/1.1 as a load client needs, without input or output: requests as bytes, answers from bytes.

A client that shares two cores with the server it measures must cost little: requests are built before the clock
starts, and of an answer only the status, four headers and the body are looked at. Answers need a `Content-Length`;
chunked ones, which no server here sends for vectors, are refused.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after:[ \t]*(\d+)", re.IGNORECASE)
_VECTOR = re.compile(rb'"embedding"\s*:\s*"([A-Za-z0-9+/=]+)"')
_MOST_HEAD = 64 << 10


class BadAnswerError(Exception):
    """What came is no answer that this client can read."""


@dataclass(frozen=True, slots=True)
class Response:
    """One answer."""

    status: int
    body: bytes
    retry_after: int | None = None
    """Seconds, as a refusal says."""
    close: bool = False
    """Whether the server ends the connection behind it."""


class ResponseParser:
    """Cuts a stream of bytes into answers."""

    def __init__(self) -> None:
        self._data = b""
        self._wanted = 0  # no answer can be complete before so many bytes are here

    def feed(self, data: bytes) -> list[Response]:
        """The answers that are complete now.

        Raises:
            BadAnswerError: the bytes are no HTTP/1.x answer with a length.
        """
        self._data = self._data + data if self._data else data
        found: list[Response] = []
        while self._data and len(self._data) >= self._wanted:
            one = self._next()
            if one is None:
                break
            found.append(one)
        return found

    def _next(self) -> Response | None:
        data = self._data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > _MOST_HEAD or not b"HTTP/1.".startswith(data[:7]):
                raise BadAnswerError(f"no head of an answer: {data[:60]!r}")
            return None
        head = data[:end]
        status = head[9:12]
        if not head.startswith(b"HTTP/1.") or not status.isdigit():
            raise BadAnswerError(f"no status line: {head[:60]!r}")
        length = _LENGTH.search(head)
        if length is None:
            raise BadAnswerError(f"an answer without a length: {head[:200]!r}")
        whole = end + 4 + int(length[1])
        if len(data) < whole:
            self._wanted = whole
            return None
        self._data, self._wanted = data[whole:], 0
        after = _RETRY_AFTER.search(head)
        return Response(
            int(status),
            data[end + 4 : whole],
            retry_after=None if after is None else int(after[1]),
            close=_CLOSE.search(head) is not None,
        )


def request(path: str, text: str, *, model: str) -> bytes:
    """A whole request for one text's vector in base64, the format that the official clients ask for."""
    body = json.dumps({"model": model, "input": text, "encoding_format": "base64"}).encode()
    return raw("POST", path, body)


def raw(method: str, path: str, body: bytes, content_type: str = "application/json") -> bytes:
    """A whole request with any body."""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\n"
        f"Accept: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def vector(body: bytes) -> npt.NDArray[np.float32] | None:
    """The first vector of an answer in base64, `(dim,)`; None where there is none."""
    found = _VECTOR.search(body)
    if found is None:
        return None
    numbers = b64decode(found[1])
    return None if len(numbers) % 4 else np.frombuffer(numbers, dtype="<f4")
