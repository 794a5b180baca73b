"""Plain HTTP, so that tests see the wire and not what an SDK makes of it."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]

    @property
    def error(self) -> Any:
        return self.json["error"]


def as_bytes(body: object) -> bytes | None:
    """What is sent: bytes and nothing as they are, anything else as JSON."""
    return body if body is None or isinstance(body, bytes) else json.dumps(body).encode()


def exchange(
    address: str, method: str, path: str, content: bytes | None, headers: Mapping[str, str]
) -> Reply:
    """One request to `host:port`, on a connection of its own."""
    connection = http.client.HTTPConnection(address, timeout=20)
    try:
        connection.request(method, path, content, headers)
        answer = connection.getresponse()
        return Reply(answer.status, answer.headers, answer.read())
    finally:
        connection.close()
