"""What Gemini's refusals mean: of the SDK's exceptions, of jobs and of single rows, by one set of rules."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from embatch.providers.jsonl import table
from embatch.providers.refusals import TABLE, refusal, retry_after_s, size_kind, status_kind, table_kind
from embatch.remote import ErrorKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from embatch.errors import ProviderError

# google.rpc.Code -> the HTTP status that the same refusal has. Rows and jobs carry the former.
_GRPC = {1: 499, 2: 500, 3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400}
_GRPC |= {12: 501, 13: 500, 14: 503, 15: 500, 16: 401}
_GRPC_NAMES = {"CANCELLED": 1, "UNKNOWN": 2, "INVALID_ARGUMENT": 3, "DEADLINE_EXCEEDED": 4, "NOT_FOUND": 5}
_GRPC_NAMES |= {"PERMISSION_DENIED": 7, "RESOURCE_EXHAUSTED": 8, "FAILED_PRECONDITION": 9, "ABORTED": 10}
_GRPC_NAMES |= {"INTERNAL": 13, "UNAVAILABLE": 14, "UNAUTHENTICATED": 16}
_MONEY = re.compile(r"prepay|credits? (?:are|is) depleted|spend(?:ing)? (?:cap|limit)", re.IGNORECASE)
_NO_QUOTA = re.compile(r"\blimit: 0\b")

SDK_TABLE: dict[str, dict[str, ErrorKind]] = {
    "google.genai": {
        "UnknownApiResponseError": ErrorKind.PROTOCOL,
        "EphemeralTokenAPIKeyError": ErrorKind.AUTH,
        "ContinuationInterruptedError": ErrorKind.PROTOCOL,
        "UnknownFunctionCallArgumentError": ErrorKind.PROTOCOL,
        "UnsupportedFunctionError": ErrorKind.PROTOCOL,
        "FunctionInvocationError": ErrorKind.PROTOCOL,
    },
}
"""The SDK's exceptions that are no answers of the API; those are `APIError`s, told apart by `kind_of`."""


def gemini_error(
    error: Exception,
    who: str,
    *,
    items: int = 1,
    creating_job: bool = False,
    secrets: Iterable[str] = (),
) -> ProviderError:
    """The `ProviderError` for any exception that google-genai or the library under it raises. Raise it `from` that.

    Args:
        error: what was raised.
        who: what was done, for the message.
        items: texts in the request.
        creating_job: whether a job was to be created: a 429 without a quota's name then means the queue.
        secrets: what must not be told.
    """
    code = getattr(error, "code", None)
    if type(error).__module__.startswith("google.genai") and isinstance(code, int):
        headers = getattr(getattr(error, "response", None), "headers", None) or {}
        return gemini_refusal(
            getattr(error, "details", None) or str(error),
            who,
            status=code,
            headers={str(name).lower(): str(value) for name, value in dict(headers).items()},
            items=items,
            creating_job=creating_job,
            secrets=secrets,
        )
    kind = table_kind(type(error), SDK_TABLE, TABLE) or ErrorKind.PROTOCOL
    return refusal(who, f"{type(error).__name__}: {error}", kind=kind, secrets=secrets)


def gemini_refusal(
    body: object,
    who: str,
    *,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
    items: int = 1,
    creating_job: bool = False,
    secrets: Iterable[str] = (),
) -> ProviderError:
    """The `ProviderError` for an error's body, from an HTTP answer, a job or a row.

    Args:
        body: the whole body with its `error`, or the error itself, or text.
        who: what was done, for the message.
        status: HTTP status; None takes the body's code.
        headers: of the answer, with lower-case names.
        items: texts in the request.
        creating_job: whether a job was to be created.
        secrets: what must not be told.
    """
    error = _error_of(body)
    words = str(error.get("message") or (body if isinstance(body, str) else "") or error.get("status") or "")
    grpc = _grpc_of(error)
    http = status or http_status(error)
    name = str(error.get("status") or "")
    kind = kind_of(error, http, grpc, items=items, creating_job=creating_job)
    code = " ".join(part for part in (str(http) if http else "", name) if part) or None
    delay = retry_after_s(headers or {}, words, _delays(error))
    return refusal(who, words, kind=kind, code=code, retry_after_s=delay, secrets=secrets)


def kind_of(
    error: Mapping[str, Any], http: int | None, grpc: int | None, *, items: int, creating_job: bool
) -> ErrorKind:
    """What an error object means, by its HTTP status, its gRPC code and its words."""
    words = str(error.get("message") or "")
    if http == 429:
        return _exhausted(error, words, creating_job=creating_job)
    if "API_KEY_INVALID" in str(error.get("details")) or "API key not valid" in words:
        return ErrorKind.AUTH  # sent as 400
    if grpc == 9:
        return ErrorKind.AUTH  # FAILED_PRECONDITION: billing is off, or the region is not served
    if http in {400, 413}:
        return size_kind(words, items=items) or status_kind(http, items=items)
    return status_kind(http, items=items)


def _exhausted(error: Mapping[str, Any], words: str, *, creating_job: bool) -> ErrorKind:
    """Which quota a 429 is about: the ids name minute or day; a job refused without one met the queue's limit."""
    violations = [
        v for detail in _details(error) for v in detail.get("violations", ()) if isinstance(v, dict)
    ]
    ids = " ".join(f"{v.get('quotaId', '')} {v.get('quotaMetric', '')}" for v in violations)
    if any(str(v.get("quotaValue", "")) == "0" for v in violations) or _NO_QUOTA.search(words):
        return ErrorKind.QUOTA_MONEY  # the plan has none of this model
    if "PerDay" in ids:
        return ErrorKind.RATE_DAY
    if "nqueued" in ids:
        return ErrorKind.ENQUEUED_FULL
    if "PerMinute" in ids or "requests" in ids:
        return ErrorKind.RATE_MINUTE
    if _MONEY.search(words):
        return ErrorKind.QUOTA_MONEY if not _delays(error) else ErrorKind.RATE_MINUTE
    return ErrorKind.ENQUEUED_FULL if creating_job else ErrorKind.RATE_MINUTE


def _error_of(body: object) -> Mapping[str, Any]:
    if isinstance(body, list) and body:
        body = body[0]
    error = table(body).get("error", body)
    return table(error) or {"message": error if isinstance(error, str) else ""}


def http_status(error: Mapping[str, Any]) -> int | None:
    """The HTTP status of an error object, whose code may be that of gRPC."""
    code = error.get("code")
    if isinstance(code, int) and code > 16:
        return code
    grpc = _grpc_of(error)
    return None if grpc is None else _GRPC.get(grpc)


def _grpc_of(error: Mapping[str, Any]) -> int | None:
    code = error.get("code")
    if isinstance(code, int) and 0 < code <= 16:
        return code
    return _GRPC_NAMES.get(str(error.get("status")))


def _details(error: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    details = error.get("details")
    return [detail for detail in details if isinstance(detail, dict)] if isinstance(details, list) else []


def _delays(error: Mapping[str, Any]) -> list[str]:
    return [str(detail["retryDelay"]) for detail in _details(error) if "retryDelay" in detail]
