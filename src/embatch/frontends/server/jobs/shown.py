"""Files, jobs and lists of them as OpenAI's objects, and what clients ask of them, checked. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embatch.frontends.server.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import TypeVar

    from embatch.storage.served_files import ServedFile
    from embatch.storage.served_jobs import ServedJob

    T = TypeVar("T")

ENDPOINT = "/v1/embeddings"
WINDOW = "24h"
SHORTEST_S, LONGEST_S = 3600, 30 * 86_400
"""How long a file can be asked to be kept."""
_MOST_PAIRS, _MOST_NAME, _MOST_VALUE = 16, 64, 512
_FIELDS = frozenset({"input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after"})


def file_object(file: ServedFile) -> dict[str, Any]:
    """A file."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": int(file.created),
        "expires_at": _unix(file.expires),
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def batch_object(job: ServedJob) -> dict[str, Any]:
    """A job."""
    done = job.done
    ended = {status: job.ended if job.status == status else None for status in _ENDINGS}
    return {
        "id": job.id,
        "object": "batch",
        "endpoint": job.endpoint,
        "model": job.model,
        "errors": None if job.errors is None else {"object": "list", "data": job.errors},
        "input_file_id": job.input_file,
        "completion_window": WINDOW,
        "status": job.status,
        "output_file_id": job.output_file if job.ended and done.output_bytes else None,
        "error_file_id": job.error_file if job.ended and done.error_bytes else None,
        "created_at": int(job.created),
        "in_progress_at": _unix(job.begun),
        "expires_at": int(job.expires),
        "finalizing_at": _unix(job.finalizing),
        "completed_at": _unix(ended["completed"]),
        "failed_at": _unix(ended["failed"]),
        "expired_at": _unix(ended["expired"]),
        "cancelling_at": _unix(job.cancelling),
        "cancelled_at": _unix(ended["cancelled"]),
        "request_counts": {"total": job.total, "completed": done.completed, "failed": done.failed},
        "usage": {
            "input_tokens": done.tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": done.tokens,
        },
        "metadata": job.metadata,
    }


_ENDINGS = ("completed", "failed", "expired", "cancelled")


def _unix(moment: float | None) -> int | None:
    return None if moment is None else int(moment)


def page_object(
    found: Sequence[T], limit: int, name: Callable[[T], str], show: Callable[[T], dict[str, Any]]
) -> dict[str, Any]:
    """A page of a list, from one entry more than it holds at most."""
    part = found[:limit]
    return {
        "object": "list",
        "data": [show(each) for each in part],
        "first_id": name(part[0]) if part else None,
        "last_id": name(part[-1]) if part else None,
        "has_more": len(found) > limit,
    }


# --- what clients ask ------------------------------------------------------------------------------------------------


def limit_of(query: Mapping[str, str], *, usual: int, most: int) -> int:
    """How many entries a page is to have.

    Raises:
        ApiError: 400, no such number is allowed.
    """
    given = query.get("limit", str(usual))
    if not (given.isascii() and given.isdigit() and len(given) < 10 and 1 <= int(given) <= most):
        raise bad(f"Invalid 'limit': must be a whole number from 1 to {most}.", "limit")
    return int(given)


def is_newest_first(query: Mapping[str, str]) -> bool:
    """Which way a list goes.

    Raises:
        ApiError: 400, there is no such order.
    """
    order = query.get("order", "desc")
    if order not in {"asc", "desc"}:
        raise bad("Invalid 'order': must be 'asc' or 'desc'.", "order")
    return order == "desc"


def kept_s(fields: Mapping[str, Any], name: str, *, of_form: bool = False) -> float | None:
    """Seconds that a file is to be kept for; None if nothing is said.

    Raises:
        ApiError: 400, it cannot be kept so.
    """
    if of_form:
        anchor, seconds = fields.get(f"{name}[anchor]"), fields.get(f"{name}[seconds]")
        if anchor is None and seconds is None:
            return None
        digits = str(seconds)
        given: Any = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else None
    else:
        asked = fields.get(name)
        if asked is None:
            return None
        if type(asked) is not dict:
            raise bad(f"Invalid type for '{name}': expected an object.", name)
        anchor, given = asked.get("anchor"), asked.get("seconds")
    if anchor != "created_at":
        raise bad(f"Invalid '{name}.anchor': must be 'created_at'.", f"{name}.anchor")
    if type(given) is not int or not SHORTEST_S <= given <= LONGEST_S:
        raise bad(f"Invalid '{name}.seconds': must be from {SHORTEST_S} to {LONGEST_S}.", f"{name}.seconds")
    return float(given)


def check_batch(fields: Mapping[str, Any]) -> str:
    """Whether a job can be made of what a client sent; the name of its input file.

    Raises:
        ApiError: 400, with the field that is wrong.
    """
    unknown = sorted(set(fields) - _FIELDS)
    if unknown:
        raise bad(f"Unknown parameter: '{unknown[0][:100]}'.", unknown[0][:100], "unknown_parameter")
    for name in ("input_file_id", "endpoint", "completion_window"):
        if fields.get(name) is None:
            raise bad(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
    if fields["endpoint"] != ENDPOINT:
        raise bad(f"Invalid value for 'endpoint': only '{ENDPOINT}' is served as a batch.", "endpoint")
    if fields["completion_window"] != WINDOW:
        raise bad(f"Invalid value for 'completion_window': expected '{WINDOW}'.", "completion_window")
    _check_metadata(fields.get("metadata"))
    if type(fields["input_file_id"]) is not str:
        raise bad("Invalid type for 'input_file_id': expected a string.", "input_file_id", "invalid_type")
    return str(fields["input_file_id"])


def _check_metadata(value: object) -> None:
    if value is None:
        return
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise bad("Invalid type for 'metadata': expected a map of strings.", "metadata", "invalid_type")
    if len(value) > _MOST_PAIRS:
        raise bad(f"Invalid 'metadata': too many properties, at most {_MOST_PAIRS}.", "metadata")
    if any(len(name) > _MOST_NAME or len(text) > _MOST_VALUE for name, text in value.items()):
        message = f"a name has at most {_MOST_NAME} characters, a value {_MOST_VALUE}"
        raise bad(f"Invalid 'metadata': {message}.", "metadata")


def bad(message: str, param: str, code: str = "invalid_value") -> ApiError:
    """A refusal with its field."""
    return ApiError(400, message, code=code, param=param)


def missing(kind: str, name: str, param: str = "id") -> ApiError:
    """There is no such thing, or it is somebody else's: the two look the same."""
    return ApiError(404, f"No such {kind}: {name[:100]}", code="not_found", param=param)
