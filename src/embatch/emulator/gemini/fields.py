"""Gemini's request schemas: names in camelCase or snake_case are read alike, unknown ones are refused.

Leaves out most of generation: the inside of its configuration, tools and schemas is let through as it is.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from embatch.emulator.gemini import errors

ANY: dict[str, Any] = {}
"""No schema: whatever is there is let through."""

PART = {
    "text": "string",
    "inlineData": ANY,
    "fileData": ANY,
    "functionCall": ANY,
    "functionResponse": ANY,
    "thought": ANY,
    "thoughtSignature": ANY,
}
CONTENT = {"parts": [PART], "role": "string"}
EMBED_CONFIG = {
    "taskType": "string",
    "title": "string",
    "outputDimensionality": "integer",
    "autoTruncate": ANY,
    "documentOcr": ANY,
    "audioTrackExtraction": ANY,
}
EMBED = {
    "model": "string",
    "content": CONTENT,
    "taskType": "string",
    "title": "string",
    "outputDimensionality": "integer",
    "embedContentConfig": EMBED_CONFIG,
}
EMBED_MANY = {"requests": [EMBED]}
GENERATE = {
    "model": "string",
    "contents": [CONTENT],
    "systemInstruction": CONTENT,
    "generationConfig": ANY,
    "safetySettings": ANY,
    "tools": ANY,
    "toolConfig": ANY,
    "cachedContent": ANY,
    "labels": ANY,
    "serviceTier": ANY,
    "store": ANY,
}


def _batch(request: dict[str, Any]) -> dict[str, Any]:
    inline = {"request": request, "metadata": ANY}
    return {
        "batch": {
            "model": "string",
            "displayName": "string",
            "priority": "integer",
            "inputConfig": {"requests": {"requests": [inline]}, "fileName": "string"},
        }
    }


EMBED_BATCH = _batch(EMBED)
GENERATE_BATCH = _batch(GENERATE)
EMBED_LINE = {"key": "string", "request": EMBED, "metadata": ANY}
GENERATE_LINE = {"key": "string", "request": GENERATE, "metadata": ANY}
FILE = {"file": {"name": "string", "displayName": "string", "mimeType": "string", "sizeBytes": "integer"}}

_SNAKE = re.compile(r"_([a-z0-9])")
_INTEGER = re.compile(r"-?\d+")


def read(value: Any, schema: Any, path: str = "") -> Any:
    """A JSON value with all names in camelCase.

    Raises:
        Refused: an unknown name, or a value of the wrong type.
    """
    if schema is ANY or value is None:
        return value
    if schema == "string":
        if not isinstance(value, str):
            raise errors.bad_value(path, "TYPE_STRING", value)
        return value
    if schema == "integer":
        return _integer(value, path)
    if isinstance(schema, list):
        # Proto JSON takes a single message where a list is meant, as the API does for `contents`.
        values = value if isinstance(value, list) else [value]
        return [read(each, schema[0], f"{path}[{place}]") for place, each in enumerate(values)]
    if not isinstance(value, dict):
        raise errors.bad_value(path, "TYPE_MESSAGE", value)
    return _message(value, schema, path)


def _message(value: dict[str, Any], schema: dict[str, Any], path: str) -> dict[str, Any]:
    found = {}
    for name, inner in value.items():
        camel = name if name in schema else _SNAKE.sub(lambda match: match[1].upper(), name)
        if camel not in schema:
            raise errors.unknown_field(name, path)
        found[camel] = read(inner, schema[camel], f"{path}.{_snake(camel)}" if path else _snake(camel))
    return found


def _integer(value: Any, path: str) -> int:
    """Numbers may come as strings: proto JSON does so for 64 bits."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise errors.bad_value(path, "TYPE_INT32", value)
    if isinstance(value, str) and not _INTEGER.fullmatch(value):
        raise errors.bad_value(path, "TYPE_INT32", value)
    return int(value)


@cache
def _snake(camel: str) -> str:
    return re.sub(r"([A-Z])", lambda match: f"_{match[1].lower()}", camel)
