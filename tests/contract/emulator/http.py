"""A plain HTTP client for the emulator, so that tests see the wire and not what an SDK makes of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests.contract import wire

if TYPE_CHECKING:
    from embatch.emulator import Emulator

KEYS = {"gemini": {"x-goog-api-key": "a-key"}, "openai": {"authorization": "Bearer sk-a-key"}}
Reply = wire.Reply


def ask(
    emulator: Emulator,
    method: str,
    path: str,
    body: object = None,
    *,
    headers: dict[str, str] | None = None,
    key: bool = True,
) -> Reply:
    """One request on a connection of its own. Bodies that are not bytes are sent as JSON."""
    head = {} if body is None or isinstance(body, bytes) else {"content-type": "application/json"}
    head |= (KEYS[emulator.provider] if key else {}) | (headers or {})
    return wire.exchange(urlsplit(emulator.url).netloc, method, path, wire.as_bytes(body), head)


def texts(*values: str, model: str = "gemini-embedding-001", **options: object) -> dict[str, Any]:
    """The body of Gemini's batchEmbedContents."""
    return {
        "requests": [
            {"model": f"models/{model}", "content": {"parts": [{"text": value}]}, **options}
            for value in values
        ]
    }


def gemini_lines(*values: str, **options: object) -> bytes:
    """A Gemini batch file with keys k0, k1, …"""
    rows = [
        {
            "key": f"k{place}",
            "request": {"content": {"parts": [{"text": value}]}, "output_dimensionality": 128, **options},
        }
        for place, value in enumerate(values)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def openai_lines(*values: object, model: str = "text-embedding-3-small", **options: object) -> bytes:
    """An OpenAI batch file with custom ids c0, c1, …"""
    rows = [
        {
            "custom_id": f"c{place}",
            "method": "POST",
            "url": "/v1/embeddings",
            "body": {"model": model, "input": value, "dimensions": 8, **options},
        }
        for place, value in enumerate(values)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def form(data: bytes, **fields: str) -> tuple[bytes, dict[str, str]]:
    """A multipart form with a file, and its content type."""
    mark = b"mark-of-a-part"
    parts = [
        b'--%b\r\ncontent-disposition: form-data; name="%b"\r\n\r\n%b\r\n'
        % (mark, name.encode(), value.encode())
        for name, value in fields.items()
    ]
    head = (
        b'content-disposition: form-data; name="file"; filename="in.jsonl"\r\ncontent-type: application/jsonl'
    )
    parts.append(b"--%b\r\n%b\r\n\r\n%b\r\n--%b--\r\n" % (mark, head, data, mark))
    return b"".join(parts), {"content-type": f"multipart/form-data; boundary={mark.decode()}"}


def gemini_upload(emulator: Emulator, data: bytes) -> str:
    """Upload a file in one piece. Gives its name, `files/…`."""
    reply = ask(
        emulator, "POST", "/upload/v1beta/files?uploadType=media", data, headers={"content-type": "jsonl"}
    )
    return str(reply.json["file"]["name"])


def gemini_job(
    emulator: Emulator, *values: str, tag: str = "", inline: bool = False, **options: object
) -> Reply:
    """Create a Gemini embedding job over texts."""
    if inline:
        rows = [
            {
                "request": {"content": {"parts": [{"text": value}]}, "outputDimensionality": 128, **options},
                "metadata": {"key": f"k{place}"},
            }
            for place, value in enumerate(values)
        ]
        source: dict[str, Any] = {"requests": {"requests": rows}}
    else:
        source = {"file_name": gemini_upload(emulator, gemini_lines(*values, **options))}
    path = "/v1beta/models/gemini-embedding-001:asyncBatchEmbedContent"
    return ask(emulator, "POST", path, {"batch": {"inputConfig": source, "displayName": tag}})


def openai_upload(emulator: Emulator, data: bytes) -> str:
    """Upload a batch file. Gives its id."""
    body, headers = form(data, purpose="batch")
    return str(ask(emulator, "POST", "/v1/files", body, headers=headers).json["id"])


def openai_job(emulator: Emulator, *values: object, tag: str = "", **options: Any) -> Reply:
    """Create an OpenAI embedding batch over texts."""
    body = {
        "input_file_id": openai_upload(emulator, openai_lines(*values, **options)),
        "endpoint": "/v1/embeddings",
        "completion_window": "24h",
        "metadata": {"tag": tag},
    }
    return ask(emulator, "POST", "/v1/batches", body)


def job_name(emulator: Emulator, reply: Reply) -> str:
    """The path of a job that was created."""
    return (
        f"/v1beta/{reply.json['name']}"
        if emulator.provider == "gemini"
        else f"/v1/batches/{reply.json['id']}"
    )
