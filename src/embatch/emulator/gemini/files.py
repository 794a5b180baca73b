"""Gemini's files: resumable, multipart and plain uploads, metadata, deletion and download."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from embatch.emulator.answers import Answer, as_json, dumps
from embatch.emulator.files import File
from embatch.emulator.gemini import errors, fields
from embatch.emulator.paging import page

if TYPE_CHECKING:
    from embatch.emulator.answers import Call

_KEPT_S = 48 * 3600.0
_MAX_FILE = 2 * 1024**3
_GRANULARITY = 262_144


def when(unix: float) -> str:
    """RFC 3339 in UTC, with nanoseconds."""
    moment = datetime.fromtimestamp(unix, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S.%f}000Z"


def upload(call: Call) -> Answer:
    """All that is posted to `/upload/…/files`."""
    if "upload_id" in call.query:
        return _chunk(call)
    protocol = call.headers.get("x-goog-upload-protocol") or call.query.get("uploadType") or "media"
    if protocol == "resumable":
        return _start(call)
    if protocol == "multipart":
        meta, mime, data = _parts(call)
    else:
        meta, mime, data = {}, call.headers.get("content-type", ""), call.body
    file = _new(call, meta, mime, len(data))
    call.core.store.write(file.id, data)
    return as_json({"file": _finished(call, file)}, seconds=call.core.control_s())


def _start(call: Call) -> Answer:
    """First leg: metadata in, an address for the content out."""
    if call.headers.get("x-goog-upload-command") != "start":
        raise errors.refused(400, "Invalid upload command: an upload begins with `start`.")
    meta = _meta(call.body)
    length = call.headers.get("x-goog-upload-header-content-length") or meta.get("sizeBytes")
    file = _new(
        call,
        meta,
        call.headers.get("x-goog-upload-header-content-type", ""),
        None if length is None else int(length),
    )
    file.is_whole = False
    call.core.store.write(file.id, b"")
    call.core.put_file(file)
    version = f"/{call.path['version']}" if call.path.get("version") else ""
    url = f"{call.base}/upload{version}/files?upload_id={file.id}&upload_protocol=resumable"
    headers = {
        "x-goog-upload-status": "active",
        "x-goog-upload-url": url,
        "x-goog-upload-control-url": url,
        "x-goog-upload-chunk-granularity": str(_GRANULARITY),
    }
    return Answer(body=b"", media="text/plain; charset=utf-8", headers=headers, seconds=call.core.control_s())


def _chunk(call: Call) -> Answer:
    """Second leg: the content, in one piece or several. A piece that comes twice is written once."""
    file = call.core.file(call.query["upload_id"], call.now)
    if file is None:
        raise errors.refused(404, "Upload not found.")
    commands = {word.strip() for word in call.headers.get("x-goog-upload-command", "").split(",")}
    have = call.core.store.path(file.id).stat().st_size
    if file.is_whole or "query" in commands:
        status = "final" if file.is_whole else "active"
        headers = {"x-goog-upload-status": status, "x-goog-upload-size-received": str(have)}
        return Answer(body=dumps({"file": as_file(call, file)} if file.is_whole else {}), headers=headers)
    if "upload" in commands:
        offset = int(call.headers.get("x-goog-upload-offset") or 0)
        if offset > have:
            raise errors.refused(
                400, f"Upload offset {offset} is beyond the {have} bytes that were received."
            )
        call.core.store.append(file.id, offset, call.body)
        have = offset + len(call.body)
    _check_size(call, have)
    if "finalize" not in commands:
        return Answer(headers={"x-goog-upload-status": "active", "x-goog-upload-size-received": str(have)})
    if file.announced is not None and file.announced != have:
        raise errors.refused(400, f"Upload size mismatch: {file.announced} bytes announced, {have} received.")
    body = {"file": _finished(call, file)}
    return Answer(body=dumps(body), headers={"x-goog-upload-status": "final"}, seconds=call.core.control_s())


def get(call: Call) -> Answer:
    """A file's metadata."""
    return as_json(as_file(call, find(call)), seconds=call.core.control_s())


def list_all(call: Call) -> Answer:
    """Files, newest first, by pages."""
    found = call.core.files(call.now)[::-1]
    part, token = page(found, call.query.get("pageSize"), call.query.get("pageToken"), usual=10)
    body: dict[str, Any] = {"files": [as_file(call, file) for file in part]} if part else {}
    return as_json(body | ({"nextPageToken": token} if token else {}), seconds=call.core.control_s())


def delete(call: Call) -> Answer:
    """Delete a file."""
    call.core.delete_file(find(call).id)
    return as_json({}, seconds=call.core.control_s())


def find(call: Call) -> File:
    """The file in the path.

    Raises:
        Refused: it is not there, or not whole yet.
    """
    file = call.core.file(call.path["file"], call.now)
    if file is None or not file.is_whole:
        raise errors.refused(404, f"File files/{call.path['file']} not found.")
    return file


def as_file(call: Call, file: File) -> dict[str, Any]:
    """A file's metadata as JSON."""
    unix = call.core.unix
    found: dict[str, Any] = {
        "name": f"files/{file.id}",
        "mimeType": file.mime,
        "createTime": when(unix(file.created)),
        "updateTime": when(unix(file.created)),
        "uri": f"{call.base}/v1beta/files/{file.id}",
        "state": "ACTIVE",
        "source": "GENERATED" if file.job else "UPLOADED",
    }
    if file.name:
        found["displayName"] = file.name
    if file.size is not None:
        found["sizeBytes"] = str(file.size)
    if file.sha256:
        found["sha256Hash"] = base64.b64encode(file.sha256.encode()).decode()
    if file.expires is not None:
        found["expirationTime"] = when(unix(file.expires))
    if file.job:
        found["downloadUri"] = f"{call.base}/v1beta/files/{file.id}:download?alt=media"
    return found


def _new(call: Call, meta: dict[str, Any], mime: str, size: int | None) -> File:
    """A record for a file that is about to come."""
    _check_size(call, size or 0)
    name = str(meta.get("name") or "").removeprefix("files/") or call.core.new_id("file", 12)
    if call.core.file(name, call.now) is not None:
        raise errors.refused(409, f"File files/{name} already exists.", "ALREADY_EXISTS")
    return File(
        id=name,
        name=meta.get("displayName") or call.headers.get("x-goog-upload-file-name", ""),
        mime=meta.get("mimeType") or mime,
        created=call.now,
        expires=call.now + _KEPT_S,
        announced=size,
    )


def _finished(call: Call, file: File) -> dict[str, Any]:
    """Measure a file that has come in whole, and keep its record."""
    path = call.core.store.path(file.id)
    with path.open("rb") as stream:
        file.sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    file.size, file.is_whole = path.stat().st_size, True
    call.core.put_file(file)
    return as_file(call, file)


def _check_size(call: Call, size: int) -> None:
    options = call.core.options
    most = options.max_file_bytes or _MAX_FILE
    if size > most:
        raise errors.refused(400, f"File size is too large: {size} bytes. The limit is {most} bytes.")
    stored = sum(file.size or 0 for file in call.core.files(call.now))
    if stored + size > options.max_storage_bytes:
        raise errors.refused(
            429,
            f"You have exceeded the file storage quota: {options.max_storage_bytes} bytes per project.",
        )


def _meta(body: bytes) -> dict[str, Any]:
    if not body.strip():
        return {}
    try:
        value = json.loads(body)
    except ValueError:
        raise errors.refused(400, "Invalid JSON payload received. Unexpected token.") from None
    found = fields.read(value, fields.FILE)
    return dict(found.get("file") or {})


def _parts(call: Call) -> tuple[dict[str, Any], str, bytes]:
    """Metadata, media type and content of a `multipart/related` body."""
    _, _, boundary = call.headers.get("content-type", "").partition("boundary=")
    mark = b"--" + boundary.split(";")[0].strip().strip('"').encode()
    pieces = call.body.split(mark)[1:-1] if boundary else []
    if len(pieces) != 2:
        raise errors.refused(400, "Multipart body must have two parts: metadata and media.")
    (_, meta), (head, data) = (piece.removeprefix(b"\r\n").split(b"\r\n\r\n", 1) for piece in pieces)
    mime = next(
        (
            line.partition(b":")[2].strip().decode("latin-1")
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-type:")
        ),
        "",
    )
    return _meta(meta), mime, data.removesuffix(b"\r\n")
