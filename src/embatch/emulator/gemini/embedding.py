"""`embedContent` and `batchEmbedContents`: reading requests, refusing them, answering with vectors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from embatch.emulator.answers import Answer, dumps
from embatch.emulator.catalog import find_model
from embatch.emulator.gemini import errors, fields
from embatch.emulator.rows import POISON, Piece
from embatch.emulator.tokens import count_tokens, cut
from embatch.emulator.vectors import decimal_rows, hundred_millionths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.emulator.answers import Call
    from embatch.emulator.catalog import EmulatedModel, Verb

_MOST = 100
TASKS = frozenset(
    {
        "TASK_TYPE_UNSPECIFIED",
        "SEMANTIC_SIMILARITY",
        "CLASSIFICATION",
        "CLUSTERING",
        "RETRIEVAL_DOCUMENT",
        "RETRIEVAL_QUERY",
        "CODE_RETRIEVAL_QUERY",
        "QUESTION_ANSWERING",
        "FACT_VERIFICATION",
    }
)
_METHODS = {
    "embed": "embedContent",
    "generate": "generateContent",
}


def model_of(call: Call, verb: Verb) -> EmulatedModel:
    """The model in the URL.

    Raises:
        Refused: there is none of that name that does this.
    """
    name = call.path["model"]
    model = find_model(name)
    if model is None or model.provider != "gemini" or model.verb != verb:
        raise errors.no_model(name, call.path.get("version", ""), _METHODS[verb])
    return model


def payload(call: Call, schema: Any) -> Any:
    """The body, with its names in camelCase.

    Raises:
        Refused: no JSON, too large, or not of this schema.
    """
    if len(call.body) > call.core.options.max_inline_bytes:
        raise errors.refused(
            400,
            f"Request payload size exceeds the limit: {call.core.options.max_inline_bytes} bytes.",
        )
    try:
        value = json.loads(call.body)
    except ValueError:
        raise errors.refused(400, "Invalid JSON payload received. Unexpected token.") from None
    if not isinstance(value, dict):
        raise errors.refused(400, "Invalid JSON payload received. Root element must be a message.")
    return fields.read(value, schema)


def embed_many(call: Call) -> Answer:
    """`batchEmbedContents`."""
    model = model_of(call, "embed")
    requests = payload(call, fields.EMBED_MANY).get("requests", [])
    if not requests:
        raise errors.bad("BatchEmbedContentsRequest.requests: requests is not specified")
    if len(requests) > _MOST:
        raise errors.bad(f"BatchEmbedContentsRequest.requests: at most {_MOST} requests can be in one batch")
    pieces = []
    for place, request in enumerate(requests):
        where = f"BatchEmbedContentsRequest.requests[{place}]"
        if request.get("model", "").removeprefix("models/") != call.path["model"]:
            raise errors.bad(f"{where}: model must match the model of the batch request")
        pieces.append(piece_of(request, model, where))
    rows = _answered(call, model, pieces)
    usage = b"" if call.has("no_usage") else _usage(pieces)
    body = b'{"embeddings":[' + b",".join(b'{"values":[%b]}' % row for row in rows) + b"]" + usage + b"}"
    return Answer(body=body, seconds=_seconds(call, pieces))


def embed_one(call: Call) -> Answer:
    """`embedContent`."""
    model = model_of(call, "embed")
    request = payload(call, fields.EMBED)
    if "model" in request and request["model"].removeprefix("models/") != call.path["model"]:
        raise errors.bad("EmbedContentRequest.model: model must match the model in the URL")
    pieces = [piece_of(request, model, "EmbedContentRequest")]
    rows = _answered(call, model, pieces)
    usage = b"" if call.has("no_usage") else _usage(pieces)
    if not rows:
        return Answer(body=dumps({}), seconds=_seconds(call, pieces))
    return Answer(body=b'{"embedding":{"values":[%b]}%b}' % (rows[0], usage), seconds=_seconds(call, pieces))


def piece_of(request: dict[str, Any], model: EmulatedModel, where: str) -> Piece:
    """The text of one request, checked.

    Raises:
        Refused: what the API would not take.
    """
    config = {**request.get("embedContentConfig", {}), **request}
    parts = request.get("content", {}).get("parts") or []
    if not parts:
        raise errors.bad(f"{where}.content: contents is not specified")
    if any(not part.get("text") for part in parts):
        raise errors.bad(f"{where}.content contains an empty Part.")
    dims = config.get("outputDimensionality")
    if dims is None or dims == 0:
        dims = model.dimensions
    if not (model.min_dimensions or dims) <= dims <= model.dimensions:
        raise errors.bad(
            f"{where}.output_dimensionality: must be between {model.min_dimensions} and {model.dimensions}"
        )
    task = config.get("taskType")
    if task is not None and task not in TASKS:
        path = where.partition(".")[2]
        raise errors.bad_value(f"{path}.task_type".lstrip("."), "TYPE_ENUM", task)
    title = config.get("title")
    if title and model.tasks and task != "RETRIEVAL_DOCUMENT":
        raise errors.bad(f"{where}.title: title is only supported for task_type RETRIEVAL_DOCUMENT")
    text = "".join(part["text"] for part in parts)
    if POISON in text:
        raise errors.bad(f"{where}.content: the text cannot be embedded")
    return Piece(text, task, title, dims, count_tokens(cut(text, model.item_tokens)))


def values_of(model: EmulatedModel, pieces: Sequence[Piece]) -> list[bytes]:
    """The numbers of each vector, as the inside of a JSON array."""
    rows: list[bytes] = []
    start = 0
    while start < len(pieces):
        kind = pieces[start][1:4]
        end = start + 1
        while end < len(pieces) and pieces[end][1:4] == kind:
            end += 1
        task, title, dims = kind
        texts = [piece.text for piece in pieces[start:end]]
        rows += decimal_rows(hundred_millionths(model, texts, task, dims, title))
        start = end
    return rows


def spoilt(call: Call, rows: list[bytes]) -> list[bytes]:
    """The vectors of an answer, with the faults that were scripted for it."""
    for kind, word in (("nan", b"NaN"), ("null_value", b"null")):
        if call.has(kind):
            rows[0] = word + b"," + rows[0].partition(b",")[2]
    if call.has("wrong_dimension"):
        rows[0] = rows[0].rpartition(b",")[0]
    if call.has("long_list"):
        rows.append(rows[-1])
    if call.has("short_list"):
        rows.pop()
    return [] if call.has("empty_data") else rows


def _answered(call: Call, model: EmulatedModel, pieces: list[Piece]) -> list[bytes]:
    """Take the call's quota, bill it, and compute."""
    core, tokens = call.core, sum(piece.tokens for piece in pieces)
    exceeded = core.admit(call.operation, model, call.now, items=len(pieces), tokens=tokens)
    if exceeded is not None:
        raise errors.quota(call, model, exceeded)
    if core.is_overloaded(call.now):
        raise errors.refused(503, errors.OVERLOADED)
    core.charge(model, [piece.charge for piece in pieces], call.now)
    return spoilt(call, values_of(model, pieces))


def _usage(pieces: list[Piece]) -> bytes:
    return b',"usageMetadata":{"promptTokenCount":%d}' % sum(piece.tokens for piece in pieces)


def _seconds(call: Call, pieces: list[Piece]) -> float:
    return call.core.call_s(items=len(pieces), tokens=sum(piece.tokens for piece in pieces))
