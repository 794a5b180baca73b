"""OpenAI's files: upload as a form, metadata, content, deletion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embatch.emulator.answers import Answer, as_json
from embatch.emulator.files import File
from embatch.emulator.openai import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    T = TypeVar("T")

    from embatch.emulator.answers import Call

_KEPT_S = 30 * 86_400.0
_SHORTEST_S, _LONGEST_S = 3600, 30 * 86_400
_MAX_FILE = 209_715_200
_PURPOSES = frozenset({"batch", "assistants", "fine-tune", "vision", "user_data", "evals"})


def upload(call: Call) -> Answer:
    """`POST /v1/files`."""
    purpose, sent = call.form.get("purpose"), call.form.get("file")
    if not isinstance(sent, tuple):
        raise errors.bad("'file' is a required property")
    if purpose not in _PURPOSES:
        raise errors.bad(f"'{purpose}' is not one of {sorted(_PURPOSES)} - 'purpose'")
    name, data = sent
    most = call.core.options.max_file_bytes or _MAX_FILE
    if len(data) > most:
        raise errors.refused(413, f"File is {len(data)} bytes, which is larger than the {most} maximum.")
    if not data:
        raise errors.bad("File is empty.", "file")
    kept = call.form.get("expires_after[seconds]")
    if kept is not None and not _SHORTEST_S <= int(kept) <= _LONGEST_S:
        raise errors.bad("'expires_after.seconds' must be between 3600 and 2592000.", "expires_after")
    is_batch = purpose == "batch"
    file = File(
        id=f"file-{call.core.new_id('file')}",
        name=name,
        mime="application/jsonl",
        size=len(data),
        created=call.now,
        expires=call.now + (float(kept) if kept else _KEPT_S) if is_batch or kept else None,
        purpose=purpose,
    )
    call.core.store.write(file.id, data)
    call.core.put_file(file)
    return as_json(as_file(call, file), seconds=call.core.control_s())


def as_file(call: Call, file: File) -> dict[str, Any]:
    """A file's metadata as JSON."""
    unix = call.core.unix
    return {
        "object": "file",
        "id": file.id,
        "purpose": file.purpose,
        "filename": file.name,
        "bytes": file.size or 0,
        "created_at": int(unix(file.created)),
        "expires_at": None if file.expires is None else int(unix(file.expires)),
        "status": "processed",
        "status_details": None,
    }


def find(call: Call, name: str | None = None) -> File:
    """The file in the path, or of this name.

    Raises:
        Refused: it is not there.
    """
    name = call.path["file"] if name is None else name
    file = call.core.file(name, call.now)
    if file is None:
        raise errors.refused(404, f"No such File object: {name}", param="id")
    return file


def get(call: Call) -> Answer:
    """`GET /v1/files/{id}`."""
    return as_json(as_file(call, find(call)), seconds=call.core.control_s())


def delete(call: Call) -> Answer:
    """`DELETE /v1/files/{id}`."""
    file = find(call)
    call.core.delete_file(file.id)
    return as_json({"id": file.id, "object": "file", "deleted": True}, seconds=call.core.control_s())


def list_all(call: Call) -> Answer:
    """`GET /v1/files`."""
    purpose = call.query.get("purpose")
    found = [file for file in call.core.files(call.now)[::-1] if purpose in {None, file.purpose}]
    return as_json(
        listed(call, found, lambda file: file.id, lambda file: as_file(call, file), usual=10_000),
        seconds=call.core.control_s(),
    )


def listed(
    call: Call,
    found: Sequence[T],
    name: Callable[[T], str],
    show: Callable[[T], dict[str, Any]],
    *,
    usual: int,
) -> dict[str, Any]:
    """A list with `after`, `limit` and `has_more`.

    Raises:
        Refused: `limit` is no number that is allowed.
    """
    limit = call.query.get("limit", str(usual))
    if not limit.isdigit() or not 1 <= int(limit) <= max(usual, 100):
        raise errors.bad(f"Invalid 'limit': must be between 1 and {max(usual, 100)}.", "limit")
    after = call.query.get("after")
    start = 0
    if after is not None:
        places = [place for place, each in enumerate(found) if name(each) == after]
        if not places:
            raise errors.refused(404, f"No such object: {after}", param="after")
        start = places[0] + 1
    part = found[start : start + int(limit)]
    return {
        "object": "list",
        "data": [show(each) for each in part],
        "first_id": name(part[0]) if part else None,
        "last_id": name(part[-1]) if part else None,
        "has_more": start + len(part) < len(found),
    }
