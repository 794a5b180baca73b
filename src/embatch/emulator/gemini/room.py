"""All that the server needs to know of Gemini: routes, keys, and how a scripted refusal looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embatch.emulator.catalog import find_model
from embatch.emulator.gemini import embedding, errors, files, generation, jobs
from embatch.emulator.routes import Route

if TYPE_CHECKING:
    from embatch.emulator.answers import Call, Refused
    from embatch.emulator.faults import Fault

read_rows = jobs.read_rows

_V = r"(?:/(?P<version>v1|v1beta|v1alpha))?"
_MODEL = rf"{_V}/models/(?P<model>[^/:]+)"
_FILE = r"/files/(?P<file>[^/:]+)"
_BATCH = rf"{_V}/batches/(?P<job>[^/:]+)"

ROUTES = [
    Route("POST", rf"{_MODEL}:batchEmbedContents", "embed", embedding.embed_many),
    Route("POST", rf"{_MODEL}:embedContent", "embed", embedding.embed_one),
    Route("GET", _BATCH, "poll_job", jobs.poll),
    Route("POST", rf"{_MODEL}:asyncBatchEmbedContent", "create_job", jobs.create_embed),
    Route("POST", rf"{_MODEL}:batchGenerateContent", "create_job", jobs.create_generate),
    Route("POST", rf"{_MODEL}:generateContent", "generate", generation.generate),
    Route("POST", rf"{_MODEL}:streamGenerateContent", "stream", generation.stream),
    Route("GET", rf"{_V}/batches", "list_jobs", jobs.list_all),
    Route("POST", rf"{_BATCH}:cancel", "cancel", jobs.cancel),
    Route("DELETE", _BATCH, "delete_job", jobs.delete),
    Route("POST", rf"/upload{_V}/files", "upload", files.upload),
    Route("PUT", rf"/upload{_V}/files", "upload", files.upload),
    Route("GET", rf"{_V}{_FILE}:download", "download", jobs.download),
    Route("GET", rf"/download{_V}{_FILE}:download", "download", jobs.download),
    Route("GET", rf"{_V}{_FILE}", "get_file", files.get),
    Route("DELETE", rf"{_V}{_FILE}", "delete_file", files.delete),
    Route("GET", rf"{_V}/files", "list_files", files.list_all),
]


def check_key(call: Call) -> None:
    """Refuse a request without a key, or with a wrong one. The second leg of an upload carries none.

    Raises:
        Refused: 403 without a key, 400 with a wrong one.
    """
    if "upload_id" in call.query:
        return
    key = call.headers.get("x-goog-api-key") or call.query.get("key") or ""
    if not key:
        raise errors.no_key()
    if key != call.core.options.key and (call.core.options.key is not None or key.startswith("wrong")):
        raise errors.wrong_key()


def scripted(call: Call, fault: Fault) -> Refused:
    """The reply of a fault that refuses."""
    return errors.scripted(call, fault, find_model(call.path.get("model") or ""))


def no_route() -> Refused:
    """404 for a path that is none."""
    return errors.refused(404, "Requested entity was not found.")


def headers(call: Call) -> dict[str, str]:  # noqa: ARG001  # all rooms have it
    """What stands in the head of every reply."""
    return {"server": "scaffolding on HTTPServer2", "x-content-type-options": "nosniff"}
