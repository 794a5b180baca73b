"""From the bodies of requests to asks: what OpenAI's `/v1/embeddings` and TEI's `/embed` take, checked. Pure.

Wrong types and values are refused with the name of the field, fields that nobody knows are left alone, as OpenAI's
compatible servers do. Whether a model has a task or so many dimensions is for whoever answers the ask.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from embatch.frontends.server.errors import ApiError
from embatch.serving import Ask, Priority

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from embatch.frontends.server.settings import ServeSettings
    from embatch.types import Overlong

    Inputs = list[str] | list[list[int]]

CHARACTERS_PER_TOKEN = 4
"""For estimates before anything is tokenised."""

_PRIORITIES = {priority.value: priority for priority in Priority}
# What other APIs call the two prompts that everybody means.
_TASKS = {
    "search_query": "query",
    "question": "query",
    "passage": "document",
    "search_document": "document",
    "corpus": "document",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request for vectors: the ask, for whom, and how the answer is to look."""

    ask: Ask
    model: str | None
    """As the client names it; None is the server's first."""
    base64: bool = False
    single: bool = False
    """Whether `input` was one text or one list of token ids, not a list of inputs."""
    normalize: bool | None = None
    """Whether vectors are to have unit length; None is as the model has it."""


def as_openai(body: bytes, settings: ServeSettings, timeout_s: float | None) -> Asked:
    """What a body of `POST /v1/embeddings` asks for.

    Raises:
        ApiError: 400, with the field that is wrong.
    """
    fields = parse(body)
    inputs, single = inputs_of(fields, "input", settings)
    encoding = _text(fields, "encoding_format")
    if encoding not in {None, "float", "base64"}:
        raise _wrong("encoding_format", f"must be 'float' or 'base64', not {encoding!r}")
    _text(fields, "user")
    ask = Ask(
        inputs=inputs,
        task=task_of(fields, "task", "input_type"),
        dimensions=_dimensions(fields),
        overlong=_overlong(fields),
        priority=_priority(fields),
        timeout_s=timeout_s,
    )
    return Asked(ask=ask, model=_text(fields, "model"), base64=encoding == "base64", single=single)


def as_tei(body: bytes, settings: ServeSettings, timeout_s: float | None) -> Asked:
    """What a body of `POST /embed` asks for.

    Raises:
        ApiError: 400, with the field that is wrong.
    """
    fields = parse(body)
    inputs, single = inputs_of(fields, "inputs", settings)
    direction = _text(fields, "truncation_direction")
    if direction is not None and direction.lower() != "right":
        raise _wrong("truncation_direction", f"texts are cut at their end ('Right'), not {direction!r}")
    ask = Ask(
        inputs=inputs,
        task=task_of(fields, "prompt_name"),
        dimensions=_dimensions(fields),
        overlong=_overlong(fields),
        priority=_priority(fields),
        timeout_s=timeout_s,
    )
    normalize = _flag(fields, "normalize")
    return Asked(
        ask=ask,
        model=_text(fields, "model"),
        single=single,
        normalize=True if normalize is None else normalize,
    )


def parse(body: bytes) -> Mapping[str, Any]:
    """The JSON object in a body.

    Raises:
        ApiError: 400, it is none.
    """
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"The body is not valid JSON: {error}", code="invalid_json") from None
    if type(fields) is not dict:
        raise ApiError(400, "The body must be a JSON object.", code="invalid_type")
    return fields


def inputs_of(fields: Mapping[str, Any], name: str, settings: ServeSettings) -> tuple[Inputs, bool]:
    """The inputs in a field, and whether it was a single one.

    Raises:
        ApiError: 400, they are missing, empty, too many, too long, or of no type that is known.
    """
    given = fields.get(name)
    if type(given) is str:
        _check_text(given, name, settings.text_chars)
        return [given], True
    if given is None:
        raise ApiError(400, f"Missing required parameter: '{name}'.", code="missing_parameter", param=name)
    if type(given) is not list:
        raise _wrong_type(name, "a string, a list of strings, or token ids", given)
    if not given:
        raise _wrong(name, "must not be an empty list", code="empty_array")
    if type(given[0]) is int:
        _check_ids(given, name, settings.text_chars)
        return [given], True
    if len(given) > settings.inputs_per_request:
        most = settings.inputs_per_request
        raise _wrong(name, f"has {len(given)} inputs; {most} are allowed", code="array_above_max_length")
    kind = type(given[0])
    if kind is not str and kind is not list:
        raise _wrong_type(f"{name}[0]", "a string or a list of token ids", given[0])
    check: Callable[[Any, str, int, int], None] = _check_text if kind is str else _check_ids
    for place, value in enumerate(given):
        if type(value) is not kind:
            same = "a string" if kind is str else "a list of token ids"
            raise _wrong_type(f"{name}[{place}]", f"{same}, as the first input is", value)
        check(value, name, settings.text_chars, place)
    return given, False


def task_of(fields: Mapping[str, Any], *names: str) -> str | None:
    """The task that one of some fields names; None for documents.

    Raises:
        ApiError: 400, two of them name different ones, or it is no string.
    """
    tasks = {}
    for name in names:
        given = _text(fields, name)
        if given is not None:
            tasks[name] = _TASKS.get(given, given)
    if not tasks:
        return None
    if len(set(tasks.values())) > 1:
        both = "' and '".join(tasks)
        raise ApiError(400, f"'{both}' name different tasks; give one of them.", code="invalid_value")
    return next(iter(tasks.values()))


def about_tokens(inputs: Sequence[str | Sequence[int]]) -> int:
    """About how many tokens inputs have, for limits that are checked before anything is computed."""
    return sum(len(each) // CHARACTERS_PER_TOKEN + 1 if type(each) is str else len(each) for each in inputs)


def timeout_of(value: bytes | None, most_s: float) -> float:
    """Seconds that a request has: what its header `X-Request-Timeout` says, and no more than the server's own.

    Raises:
        ApiError: 400, it is no positive number.
    """
    if value is None:
        return most_s
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        shown = value.decode("latin-1")[:40]
        raise ApiError(
            400,
            f"The header X-Request-Timeout must be a positive number of seconds, not {shown!r}.",
            code="invalid_value",
        )
    return min(seconds, most_s)


def _check_text(text: str, name: str, most: int, place: int | None = None) -> None:
    if len(text) > most:
        message = f"has {len(text)} characters; {most} are allowed"
        raise _wrong(_at(name, place), message, code="string_above_max_length")
    if not text or text.isspace():
        raise _wrong(_at(name, place), "the text is empty, or white space only", code="empty_string")


def _check_ids(ids: list[Any], name: str, most: int, place: int | None = None) -> None:
    if not ids:
        raise _wrong(_at(name, place), "has no token ids", code="empty_array")
    if len(ids) > most:
        message = f"has {len(ids)} token ids; {most} are allowed"
        raise _wrong(_at(name, place), message, code="array_above_max_length")
    for each in ids:
        if type(each) is not int:
            raise _wrong_type(_at(name, place), "token ids only (whole numbers)", each)
        if each < 0:
            raise _wrong(_at(name, place), f"token ids are not negative, and {each} is")


def _at(name: str, place: int | None) -> str:
    return name if place is None else f"{name}[{place}]"


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    given = fields.get(name)
    if given is not None and type(given) is not str:
        raise _wrong_type(name, "a string", given)
    return given


def _flag(fields: Mapping[str, Any], name: str) -> bool | None:
    given = fields.get(name)
    if given is not None and type(given) is not bool:
        raise _wrong_type(name, "true or false", given)
    return given


def _dimensions(fields: Mapping[str, Any]) -> int | None:
    given = fields.get("dimensions")
    if given is None:
        return None
    if type(given) is not int:
        raise _wrong_type("dimensions", "a whole number", given)
    if given < 1:
        raise _wrong("dimensions", f"must be at least 1, not {given}")
    return given


def _overlong(fields: Mapping[str, Any]) -> Overlong | None:
    truncate = _flag(fields, "truncate")
    if truncate is None:
        return None
    return "truncate" if truncate else "error"


def _priority(fields: Mapping[str, Any]) -> Priority:
    given = _text(fields, "priority")
    if given is None:
        return Priority.INTERACTIVE
    if given not in _PRIORITIES:
        raise _wrong("priority", f"must be one of {', '.join(map(repr, _PRIORITIES))}, not {given[:40]!r}")
    return _PRIORITIES[given]


def _wrong(param: str, message: str, *, code: str = "invalid_value") -> ApiError:
    return ApiError(400, f"Invalid '{param}': {message}.", code=code, param=param)


def _wrong_type(param: str, wanted: str, given: object) -> ApiError:
    kinds = {str: "a string", bool: "a boolean", int: "an integer", float: "a number", list: "an array"}
    kind = "null" if given is None else kinds.get(type(given), "an object")
    message = f"Invalid type for '{param}': expected {wanted}, but got {kind}."
    return ApiError(400, message, code="invalid_type", param=param)
