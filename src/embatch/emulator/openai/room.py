"""All that the server needs to know of OpenAI: routes, keys, headers, and how a scripted refusal looks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from embatch.emulator.catalog import find_model
from embatch.emulator.openai import batches, chat, embedding, errors, files
from embatch.emulator.routes import Route

if TYPE_CHECKING:
    from embatch.emulator.answers import Call, Refused
    from embatch.emulator.catalog import EmulatedModel
    from embatch.emulator.faults import Fault

read_rows = batches.read_rows

_FILE = r"/v1/files/(?P<file>[^/]+)"
_BATCH = r"/v1/batches/(?P<job>[^/]+)"

ROUTES = [
    Route("POST", r"/v1/embeddings", "embed", embedding.embeddings),
    Route("POST", r"/v1/chat/completions", "generate", chat.completions),
    Route("GET", _BATCH, "poll_job", batches.poll),
    Route("POST", r"/v1/batches", "create_job", batches.create),
    Route("GET", r"/v1/batches", "list_jobs", batches.list_all),
    Route("POST", rf"{_BATCH}/cancel", "cancel", batches.cancel),
    Route("POST", r"/v1/files", "upload", files.upload),
    Route("GET", rf"{_FILE}/content", "download", batches.content),
    Route("GET", _FILE, "get_file", files.get),
    Route("DELETE", _FILE, "delete_file", files.delete),
    Route("GET", r"/v1/files", "list_files", files.list_all),
]


def check_key(call: Call) -> None:
    """Refuse a request without a key, or with a wrong one.

    Raises:
        Refused: 401.
    """
    # A streamed completion is an operation of its own, which only its body tells.
    if call.operation == "generate" and b'"stream"' in call.body and _body(call).get("stream"):
        call.operation = "stream"
    scheme, _, key = call.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise errors.no_key()
    if key != call.core.options.key and (call.core.options.key is not None or key.startswith("wrong")):
        raise errors.wrong_key(key)


def scripted(call: Call, fault: Fault) -> Refused:
    """The reply of a fault that refuses."""
    return errors.scripted(call, fault, _model(call))


def headers(call: Call) -> dict[str, str]:
    """What stands in the head of every reply: a name for the request and, for calls, the limits."""
    found = {
        "x-request-id": f"req_{call.core.passing_id()}",
        "openai-organization": errors.ORGANISATION,
        "openai-version": "2020-10-01",
        "openai-processing-ms": "12",
    }
    model = _model(call) if call.operation in {"embed", "generate", "stream"} else None
    return found | (errors.limit_headers(call, model.name) if model else {})


def no_route() -> Refused:
    """404 for a path that is none."""
    return errors.refused(404, "Invalid URL. Please check the path and method.")


def _body(call: Call) -> dict[str, object]:
    try:
        value = json.loads(call.body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _model(call: Call) -> EmulatedModel | None:
    name = call.path.get("model")
    return (
        find_model(name if name is not None else str(_body(call).get("model"))) if name or call.body else None
    )
