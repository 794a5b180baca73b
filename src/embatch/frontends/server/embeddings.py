"""`POST /v1/embeddings`, as OpenAI has it, and a few fields of ours.

Beside OpenAI's `input`, `model`, `dimensions`, `encoding_format` and `user` a request may name `task` (or `input_type`:
`document`, `query`, or a prompt of the model), `priority` (`interactive` or `batch`) and `truncate` (false: a text that
is too long is an error), and bring its own time in the header `X-Request-Timeout` (seconds).
"""

from __future__ import annotations

import asyncio
import binascii
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from starlette.routing import Route

from embatch.frontends.server import wire
from embatch.frontends.server.asking import Asking
from embatch.frontends.server.replies import send_parts

if TYPE_CHECKING:
    from embatch.frontends.server.asking import Answered
    from embatch.frontends.server.state import ServerState
    from embatch.types import FloatArray

PATH = "/v1/embeddings"
_SLICE = 64  # rows that are encoded before the loop gets its turn


def routes(state: ServerState) -> list[Route]:
    """The one route."""
    return [Route(PATH, Embeddings(state), methods=["POST"])]


class Embeddings:
    """The ASGI application behind the route."""

    def __init__(self, state: ServerState) -> None:
        self._asking = Asking(state, wire.as_openai, "input")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request; errors are for whoever calls."""
        answered = await self._asking.answered(scope, receive)
        await send_parts(send, 200, await encoded(answered), answered.headers)


async def encoded(answered: Answered) -> list[bytes]:
    """The body of an answer, in parts. A long one leaves the loop its turns."""
    answer = answered.answer
    vectors = np.ascontiguousarray(answer.vectors, np.dtype("<f4"))
    usage = {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens}
    rest = {"model": answered.model, "usage": usage}
    base64 = answered.asked.base64
    parts = [b'{"object":"list","data":[']
    for start in range(0, len(vectors), _SLICE):
        if start:
            await asyncio.sleep(0)
        rows = _rows(vectors, start, base64=base64)
        parts.append(b"," + rows if start else rows)
    parts.append(b"]," + orjson.dumps(rest)[1:])
    return [b"".join(parts)] if len(vectors) <= _SLICE else parts


def _rows(vectors: FloatArray, start: int, *, base64: bool) -> bytes:
    """A slice of the answer's `data`, without its brackets."""
    found = []
    for place, row in enumerate(vectors[start : start + _SLICE], start):
        embedding = binascii.b2a_base64(row.data, newline=False).decode("ascii") if base64 else row
        found.append({"object": "embedding", "index": place, "embedding": embedding})
    listed: bytes = orjson.dumps(found, option=orjson.OPT_SERIALIZE_NUMPY)
    return listed[1:-1]
