"""`POST /v1/embeddings`: reading requests, refusing them, answering with vectors."""

from __future__ import annotations

import base64
import json
import random
import struct
from typing import TYPE_CHECKING, Any

from embatch.emulator.answers import Answer, dumps
from embatch.emulator.catalog import find_model
from embatch.emulator.openai import errors
from embatch.emulator.rows import POISON, Piece
from embatch.emulator.tokens import count_tokens
from embatch.emulator.vectors import base64_rows, decimal_rows, hundred_millionths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.emulator.answers import Call
    from embatch.emulator.catalog import EmulatedModel, Verb

_MOST_INPUTS = 2048
_MOST_TOKENS = 300_000
_FIELDS = frozenset({"model", "input", "dimensions", "encoding_format", "user"})


def payload(call: Call) -> dict[str, Any]:
    """The body.

    Raises:
        Refused: no JSON object.
    """
    try:
        value = json.loads(call.body)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise errors.bad(
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP "
            "library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)"
        )
    return value


def model_of(name: object, verb: Verb) -> EmulatedModel:
    """The model that a body names.

    Raises:
        Refused: there is none of that name that does this.
    """
    if not isinstance(name, str) or not name:
        raise errors.bad("you must provide a model parameter")
    model = find_model(name)
    if model is None or model.provider != "openai":
        raise errors.no_model(name)
    if model.verb != verb:
        path = "chat/completions" if verb == "generate" else "embeddings"
        raise errors.refused(404, f"This model is not supported in the v1/{path} endpoint.", param="model")
    return model


def check_fields(body: dict[str, Any], known: frozenset[str]) -> None:
    """Refuse names that are not known.

    Raises:
        Refused: 400 that names one.
    """
    for name in body:
        if name not in known:
            raise errors.bad(f"Unknown parameter: '{name}'.", name, "unknown_parameter")


def pieces_of(body: dict[str, Any], model: EmulatedModel) -> list[Piece]:
    """The texts of a request, checked.

    Raises:
        Refused: what the API would not take.
    """
    check_fields(body, _FIELDS)
    if body.get("encoding_format") not in {None, "float", "base64"}:
        raise errors.bad("'encoding_format' must be one of 'float', 'base64'.", "encoding_format")
    dims = _dimensions(body.get("dimensions"), model)
    texts = _inputs(body.get("input"))
    pieces = [Piece(text, None, None, dims, count_tokens(text)) for text in texts]
    longest = max(piece.tokens for piece in pieces)
    if longest > model.item_tokens:
        raise errors.bad(
            f"This model's maximum context length is {model.item_tokens} tokens, however you requested {longest} "
            f"tokens ({longest} in your prompt; 0 for the completion). Please reduce your prompt; or completion length."
        )
    total = sum(piece.tokens for piece in pieces)
    if total > _MOST_TOKENS:
        kind = "max_tokens_per_request"
        message = f"Requested {total} tokens, max {_MOST_TOKENS} tokens per request"
        raise errors.refused(400, message, kind, kind)
    if any(isinstance(text, str) and POISON in text for text in texts):
        raise errors.bad("Invalid 'input': the text cannot be embedded.", "input")
    return pieces


def _dimensions(dims: object, model: EmulatedModel) -> int:
    if dims is None:
        return model.dimensions
    if model.min_dimensions is None:
        raise errors.bad("This model does not support specifying dimensions.")
    if not isinstance(dims, int) or isinstance(dims, bool):
        raise errors.bad("Invalid type for 'dimensions': expected an integer.", "dimensions", "invalid_type")
    if not model.min_dimensions <= dims <= model.dimensions:
        bound = f"less than or equal to {model.dimensions}" if dims > model.dimensions else "greater than 0"
        raise errors.bad(f"Invalid value for 'dimensions' = {dims}. Must be {bound}.", "dimensions")
    return dims


def _inputs(value: object) -> Sequence[str | tuple[int, ...]]:
    """A text, several, a list of token ids, or several."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise errors.bad("Invalid type for 'input': expected a string or an array.", "input", "invalid_type")
    if not value:
        raise errors.bad("Invalid 'input': input cannot be an empty array.", "input")
    if isinstance(value[0], int):
        return [_ids(value, "input")]
    if len(value) > _MOST_INPUTS:
        raise errors.bad(
            f"Invalid 'input': array too long. Expected an array with maximum length {_MOST_INPUTS}, but got an array "
            f"with length {len(value)} instead.",
            "input",
            "array_above_max_length",
        )
    if isinstance(value[0], list):
        return [_ids(each, f"input[{place}]") for place, each in enumerate(value)]
    for place, each in enumerate(value):
        if not isinstance(each, str):
            raise errors.bad(
                f"Invalid type for 'input[{place}]': expected a string.", "input", "invalid_type"
            )
        if not each:
            raise errors.bad(f"Invalid 'input[{place}]': input cannot be an empty string.", "input")
    return value


def _ids(value: object, where: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not value or not all(type(each) is int and each >= 0 for each in value):
        raise errors.bad(
            f"Invalid '{where}': expected a non-empty array of token ids.", "input", "invalid_type"
        )
    return tuple(value)


def embeddings(call: Call) -> Answer:
    """`POST /v1/embeddings`."""
    body = payload(call)
    model = model_of(body.get("model"), "embed")
    call.path = {**call.path, "model": model.name}
    pieces = pieces_of(body, model)
    core, tokens = call.core, sum(piece.tokens for piece in pieces)
    exceeded = core.admit("embed", model, call.now, items=len(pieces), tokens=tokens)
    if exceeded is not None:
        raise errors.quota(call, model, exceeded)
    if core.is_overloaded(call.now):
        raise errors.refused(503, errors.OVERLOADED, "service_unavailable")
    core.charge(model, [piece.charge for piece in pieces], call.now)
    is_binary = body.get("encoding_format") == "base64"
    data = entries(values_of(model, pieces, is_binary=is_binary), call, is_binary=is_binary)
    answer = body_of(model, data, None if call.has("no_usage") else tokens)
    return Answer(body=answer, seconds=core.call_s(items=len(pieces), tokens=tokens))


def values_of(model: EmulatedModel, pieces: Sequence[Piece], *, is_binary: bool) -> list[bytes]:
    """Each vector as JSON: a string of base64, or a list of numbers."""
    values = hundred_millionths(model, [piece.text for piece in pieces], None, pieces[0].dims)
    if is_binary:
        return [b'"%b"' % row for row in base64_rows(values)]
    return [b"[%b]" % row for row in decimal_rows(values)]


def entries(values: list[bytes], call: Call, *, is_binary: bool) -> list[bytes]:
    """The entries of `data`, with the faults that were scripted for them."""
    if call.has("nan"):
        values[0] = with_first(values[0], b"NaN", is_binary=is_binary)
    if call.has("null_value"):
        values[0] = b"null" if is_binary else with_first(values[0], b"null", is_binary=False)
    if call.has("wrong_dimension"):
        values[0] = shortened(values[0], is_binary=is_binary)
    if call.has("long_list"):
        values.append(values[-1])
    if call.has("short_list"):
        values.pop()
    if call.has("empty_data"):
        values.clear()
    found = [_entry(0 if call.has("same_index") else place, value) for place, value in enumerate(values)]
    if call.has("shuffled"):
        random.Random(len(found)).shuffle(found)  # noqa: S311  # a simulation
        if len(found) > 1 and found[0].startswith(b'{"object":"embedding","index":0,'):
            found.append(found.pop(0))
    return found


def body_of(model: EmulatedModel, data: list[bytes], tokens: int | None) -> bytes:
    """A whole reply."""
    usage = b"" if tokens is None else b',"usage":{"prompt_tokens":%d,"total_tokens":%d}' % (tokens, tokens)
    return b'{"object":"list","data":[%b],"model":%b%b}' % (b",".join(data), dumps(model.name), usage)


def _entry(index: int, value: bytes) -> bytes:
    return b'{"object":"embedding","index":%d,"embedding":%b}' % (index, value)


def plain_entries(values: list[bytes]) -> list[bytes]:
    """The entries of `data`, as they should be."""
    return [_entry(place, value) for place, value in enumerate(values)]


def with_first(value: bytes, word: bytes, *, is_binary: bool) -> bytes:
    """A vector with another first number: NaN, in base64."""
    if is_binary:
        raw = base64.b64decode(value.strip(b'"'))
        return b'"%b"' % base64.b64encode(struct.pack("<f", float("nan")) + raw[4:])
    return b"[" + word + b"," + value.partition(b",")[2]


def shortened(value: bytes, *, is_binary: bool) -> bytes:
    """A vector without its last number."""
    if is_binary:
        return b'"%b"' % base64.b64encode(base64.b64decode(value.strip(b'"'))[:-4])
    return value.rpartition(b",")[0] + b"]"
