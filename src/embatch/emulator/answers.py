"""What a handler is asked and what it gives back: HTTP without the wire."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from embatch.emulator.faults import FAULTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from embatch.emulator.core import Core
    from embatch.emulator.faults import Fault, Operation

JSON = "application/json; charset=UTF-8"


@dataclass(slots=True, kw_only=True)
class Answer:
    """A reply that is to be sent."""

    body: bytes | Iterator[bytes] = b""
    status: int = 200
    media: str = JSON
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    """Virtual time until it begins."""
    piece_s: float = 0.0
    """Virtual time between the pieces of a body that comes in pieces."""


class Refused(Exception):  # noqa: N818  # an answer, not an error of ours
    """The provider does not do it. Carries the reply that says so."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"HTTP {answer.status}")
        self.answer = answer


class ConnectionReset(Exception):  # noqa: N818  # a scripted fault, not an error of ours
    """The connection is to be reset without a reply."""


@dataclass(slots=True, kw_only=True)
class Call:
    """A request, as its handler sees it."""

    core: Core
    operation: Operation
    now: float
    base: str
    """Scheme, host and port that the client speaks to."""
    path: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""
    form: Mapping[str, Any] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    """Those that are not refusals."""

    def has(self, kind: str) -> bool:
        """Whether a fault of this kind was scripted for it."""
        return any(fault.kind == kind for fault in self.faults)

    def quirks(self) -> dict[str, float]:
        """Faults for the job that it creates or cancels: kind → delay."""
        return {
            fault.kind: fault.delay_s
            for fault in self.faults
            if FAULTS[fault.kind].stage in {"job", "cancel"}
        }


def as_json(value: object, *, status: int = 200, seconds: float = 0.0) -> Answer:
    """A reply of JSON."""
    return Answer(body=dumps(value), status=status, seconds=seconds)


def dumps(value: object) -> bytes:
    """JSON as bytes; lone surrogates, which a client may send, come back as escapes."""
    return json.dumps(value).encode()


def strings(value: object) -> Iterator[str]:
    """All strings in a JSON value, names of fields aside."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)


def words(body: bytes) -> Iterator[str]:
    """All texts of a request, for faults that look for one."""
    try:
        value = json.loads(body)
    except ValueError:
        return iter((body.decode("utf-8", "replace"),))
    return strings(value)
