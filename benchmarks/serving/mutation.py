"""Broken requests by the thousand: valid ones, changed at random. Pure: chance is the caller's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from benchmarks.serving.wire import raw

if TYPE_CHECKING:
    import random

_ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1e308,
    2**70,
    "",
    " \n\t",
    "\x00",
    "a" * 5000,
    [],
    {},
    [[]],
    [None],
    [""],
    [1, -5],
    [[1, 2], [3]],
    ["a", 1],
    [{"text": "a"}],
    "minilm",
    "no-such-model",
)
_TEXTS = (
    b'{"input": "\\ud800", "model": "minilm"}',  # a lone surrogate
    b'{"input": "\xff\xfe", "model": "minilm"}',  # no UTF-8
    b'{"input": ' + b"[" * 3000 + b"]" * 3000 + b"}",  # deep
    b'{"input": "a", "input": ["b", 3]}',
    b'{"input": NaN}',
    b'{"input": "a", "dimensions": 1e999}',
    b'"input"',
    b"[]",
    b"null",
    b"",
    b"\x00" * 64,
)
_HEADERS = (
    b"Content-Length: -1",
    b"Content-Length: 99999999999999999999",
    b"Content-Length: 5\r\nContent-Length: 6",
    b"Transfer-Encoding: chunked\r\nContent-Length: 4",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip",
    b"Expect: 100-continue",
    b"Content-Encoding: gzip",
    b"Connection: upgrade\r\nUpgrade: websocket",
    b"X: " + b"y" * 20_000,
    b"Authorization: Bearer \xff\xfe",
    b": nameless",
)


def body(rng: random.Random, text: str) -> bytes:
    """The body of a request that was valid once, with a proper length in front of it when it is sent."""
    kind = rng.randrange(4)
    if kind == 0:
        return rng.choice(_TEXTS)
    fields: dict[str, Any] = {"model": "minilm", "input": text, "encoding_format": "base64"}
    if kind == 1:
        name = rng.choice(["model", "input", "encoding_format", "dimensions", "user", "extra"])
        fields[name] = rng.choice(_ODD)
        return json.dumps(fields).encode()
    valid = json.dumps(fields).encode()
    return _flipped(rng, valid) if kind == 2 else valid[: rng.randrange(len(valid))]


def stream(rng: random.Random, path: str, text: str) -> bytes:
    """The bytes of a whole request that was valid once: what comes may be no HTTP at all."""
    valid = raw("POST", path, json.dumps({"model": "minilm", "input": text}).encode())
    kind = rng.randrange(4)
    if kind == 0:
        return _flipped(rng, valid)
    if kind == 1:
        return valid[: rng.randrange(1, len(valid))]
    if kind == 2:
        return rng.randbytes(rng.randrange(1, 2000))
    line, rest = valid.split(b"\r\n", 1)
    return line + b"\r\n" + rng.choice(_HEADERS) + b"\r\n" + rest


def _flipped(rng: random.Random, data: bytes) -> bytes:
    """A few bytes changed, taken out or put in."""
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 8)):
        place = rng.randrange(len(changed))
        how = rng.randrange(3)
        if how == 0:
            changed[place] = rng.randrange(256)
        elif how == 1:
            del changed[place]
        else:
            changed[place:place] = rng.randbytes(rng.randrange(1, 4))
    return bytes(changed)
