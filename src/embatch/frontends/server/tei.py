"""`POST /embed` and `GET /info`, as text-embeddings-inference has them, for clients that were written for it.

Texts or token ids in `inputs`, one or many; the answer is always a list of vectors. Errors have that server's body,
`{"error", "error_type"}`, and its statuses where it has one. Of its fields `truncation_direction` may only be `Right`,
and `normalize: false` is refused for a model whose own last step is to normalise. `model`, `priority` and the header
`X-Request-Timeout` are ours.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from embatch._version import __version__
from embatch.decisions.vectors import normalized
from embatch.frontends.server import wire
from embatch.frontends.server.asking import Asking
from embatch.frontends.server.errors import ApiError
from embatch.frontends.server.replies import refusal, send_json, send_parts

if TYPE_CHECKING:
    from embatch.frontends.async_embedder import AsyncEmbedder
    from embatch.frontends.server.state import ServerState
    from embatch.types import FloatArray

PATH = "/embed"
PATHS = (PATH, "/info")
"""Where errors have the other body."""
_SLICE = 64  # rows that are encoded before the loop gets its turn

# Its statuses for what OpenAI's routes say otherwise: too much of something is 413, what makes no sense 422.
_TOO_MUCH = {"array_above_max_length", "string_above_max_length", "invalid_input"}
_EMPTY = {"empty_array", "empty_string", "missing_parameter"}
_ENGINE = {"engine_failed", "input_failed", "provider_failed", "failed"}


def routes(state: ServerState) -> list[Route]:
    """Both routes."""
    return [
        Route(PATH, Embed(state), methods=["POST"]),
        Route("/info", Info(state), methods=["GET"]),
    ]


class Embed:
    """The ASGI application behind `/embed`."""

    def __init__(self, state: ServerState) -> None:
        self._asking = Asking(state, wire.as_tei, "inputs", _check)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request, errors included."""
        begun = monotonic()
        try:
            answered = await self._asking.answered(scope, receive)
        except ClientDisconnect:
            raise
        except Exception as error:  # noqa: BLE001  # it is logged and answered
            await send_refusal(send, refusal(error, scope))
            return
        answer = answered.answer
        vectors = answer.vectors
        if answered.asked.normalize:
            vectors = normalized(vectors)
        headers = [
            ("x-compute-tokens", str(answer.tokens)),
            ("x-total-time", f"{(monotonic() - begun) * 1e3:.0f}"),
            ("x-queue-time", f"{answer.waited_s * 1e3:.0f}"),
            ("x-inference-time", f"{max(0.0, answer.seconds - answer.waited_s) * 1e3:.0f}"),
            *answered.headers,
        ]
        await send_parts(send, 200, await encoded(vectors), headers)


class Info:
    """The ASGI application behind `/info`: the first model, opened if need be."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG002  # ASGI's three
        """Answer one request, errors included."""
        settings = self._state.settings
        try:
            async with self._state.pool.using(timeout_s=settings.timeout_s) as embedder:
                content = described(embedder, settings.queue, settings.inputs_per_request)
        except Exception as error:  # noqa: BLE001  # it is logged and answered
            await send_refusal(send, refusal(error, scope))
            return
        await send_json(send, 200, orjson.dumps(content))


async def encoded(vectors: FloatArray) -> list[bytes]:
    """The body of an answer, in parts. A long one leaves the loop its turns."""
    rows = np.ascontiguousarray(vectors, np.dtype("<f4"))
    if len(rows) <= _SLICE:
        return [orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY)]
    parts = []
    for start in range(0, len(rows), _SLICE):
        await asyncio.sleep(0)
        part = orjson.dumps(rows[start : start + _SLICE], option=orjson.OPT_SERIALIZE_NUMPY)
        parts.append((b"," if start else b"[") + part[1:-1])
    return [*parts, b"]"]


def described(embedder: AsyncEmbedder, queue: int, inputs_per_request: int) -> dict[str, Any]:
    """What `/info` says of a model; fields that mean nothing here are null or 0."""
    spec = embedder.spec_for(None)
    return {
        "model_id": spec.model,
        "model_sha": spec.revision,
        "model_dtype": spec.precision,
        "model_type": {"embedding": {"pooling": spec.pooling}},
        "max_concurrent_requests": queue,
        "max_input_length": spec.max_tokens,
        "max_batch_tokens": embedder.snapshot().budget,
        "max_batch_requests": None,
        "max_client_batch_size": inputs_per_request,
        "auto_truncate": spec.overlong == "truncate",
        "tokenization_workers": 0,
        "version": __version__,
        "sha": None,
        "docker_label": None,
    }


async def send_refusal(send: Any, error: ApiError) -> None:
    """Answer with text-embeddings-inference's error body."""
    status, kind = _status(error)
    body = orjson.dumps({"error": str(error), "error_type": kind})
    await send_json(send, status, body, error.headers.items())


def _status(error: ApiError) -> tuple[int, str]:
    status, kind = error.status, "Backend"
    if error.code in _ENGINE:
        status = 424
    elif error.code in _EMPTY:
        kind = "Empty"
    elif error.code in _TOO_MUCH or status == 413:
        status, kind = 413, "Validation"
    elif status == 400:
        status, kind = 422, "Validation"
    elif status in {429, 504}:
        kind = "Overloaded"
    elif status == 503:
        kind = "Unhealthy"
    elif status < 500:
        kind = "Validation"
    return status, kind


def _check(asked: wire.Asked, embedder: AsyncEmbedder) -> wire.Asked:
    """Refuse to hand out vectors that a model does not make; leave what it does itself to the model."""
    if not embedder.spec_for(asked.ask.task).normalize:
        return asked
    if asked.normalize is False:
        message = "Invalid 'normalize': this model normalises its vectors itself; false is not possible."
        raise ApiError(400, message, code="invalid_value", param="normalize")
    return replace(asked, normalize=None)
