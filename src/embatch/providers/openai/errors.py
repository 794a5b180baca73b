"""What refusals of OpenAI's protocol mean: of the SDK's exceptions, of jobs and of single rows, by one set of rules."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from embatch.providers.jsonl import table
from embatch.providers.refusals import TABLE, refusal, retry_after_s, size_kind, status_kind, table_kind
from embatch.remote import ErrorKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from embatch.errors import ProviderError

SDK_TABLE: dict[str, dict[str, ErrorKind]] = {
    "openai": {
        "APITimeoutError": ErrorKind.TIMEOUT,
        "APIConnectionError": ErrorKind.CONNECTION,
        "APIResponseValidationError": ErrorKind.PROTOCOL,
        "LengthFinishReasonError": ErrorKind.PROTOCOL,
        "ContentFilterFinishReasonError": ErrorKind.BAD_INPUT,
        "InvalidWebhookSignatureError": ErrorKind.PROTOCOL,
        "SubjectTokenProviderError": ErrorKind.AUTH,
        "WebSocketConnectionClosedError": ErrorKind.CONNECTION,
        "WebSocketQueueFullError": ErrorKind.OVERLOADED,
        "APIError": ErrorKind.OVERLOADED,  # an error event in a stream: it has no status
        "OpenAIError": ErrorKind.AUTH,  # credentials that cannot be had
    },
}
"""The SDK's exceptions that are no answers of the API; those are `APIStatusError`s, told apart by `kind_of`."""

_MONEY = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "quota_exceeded"}
_ENQUEUED = re.compile(r"enqueued token limit|token_limit_exceeded|batch queue", re.IGNORECASE)
_PER_DAY = re.compile(r"per day|\((?:RPD|TPD)\)", re.IGNORECASE)
_OVERLOADED = re.compile(r"overloaded", re.IGNORECASE)
_NOT_RUN = {"batch_expired", "batch_cancelled"}  # this row had no turn; it was not billed

_SIZE_STATUSES = {None, 400, 413, 422, 429, 500}  # 429 and 500 too: seen for requests that are too large


class Refused(NamedTuple):
    """The parts of an error object, whatever server wrote it."""

    words: str
    code: str
    type: str


def openai_error(
    error: Exception,
    who: str,
    *,
    items: int = 1,
    creating_job: bool = False,
    secrets: Iterable[str] = (),
) -> ProviderError:
    """The `ProviderError` for any exception that openai or the library under it raises. Raise it `from` that.

    Args:
        error: what was raised.
        who: what was done, for the message.
        items: texts in the request.
        creating_job: whether a job was to be created.
        secrets: what must not be told.
    """
    status = getattr(error, "status_code", None)
    response = getattr(error, "response", None)
    known = table_kind(type(error), SDK_TABLE, TABLE)
    answered = isinstance(status, int) and response is not None and known is not ErrorKind.PROTOCOL
    if type(error).__module__.startswith("openai") and (answered or type(error).__name__ == "APIError"):
        headers = getattr(response, "headers", None) or {}
        body = getattr(error, "body", None)
        return openai_refusal(
            body if body is not None else str(error),
            who,
            status=status if answered else None,
            headers={str(name).lower(): str(value) for name, value in dict(headers).items()},
            items=items,
            creating_job=creating_job,
            secrets=secrets,
            otherwise=known,
        )
    if error.__cause__ is not None:  # what the SDK calls a connection error may be a base URL that is none
        beneath = table_kind(type(error.__cause__), TABLE)
        known = beneath if beneath in {ErrorKind.NOT_FOUND, ErrorKind.AUTH} else known
    cause = f" ({error.__cause__})" if error.__cause__ and str(error.__cause__) else ""
    return refusal(
        who, f"{type(error).__name__}: {error}{cause}", kind=known or ErrorKind.PROTOCOL, secrets=secrets
    )


def openai_refusal(
    body: object,
    who: str,
    *,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
    items: int = 1,
    creating_job: bool = False,
    secrets: Iterable[str] = (),
    otherwise: ErrorKind | None = None,
) -> ProviderError:
    """The `ProviderError` for an error's body, from an HTTP answer, a job or a row.

    Args:
        body: the whole body with its `error`, or the error itself, or text.
        who: what was done, for the message.
        status: HTTP status; None where there was none, as in a job's own error.
        headers: of the answer, with lower-case names.
        items: texts in the request.
        creating_job: whether a job was to be created.
        secrets: what must not be told.
        otherwise: the kind if neither words nor status say one.
    """
    said = refused(body)
    kind = kind_of(said, status, items=items, creating_job=creating_job, otherwise=otherwise)
    code = said.code or said.type or (str(status) if status else "")
    return refusal(
        who,
        said.words,
        kind=kind,
        code=code or None,
        retry_after_s=retry_after_s(headers or {}, said.words),
        secrets=secrets,
    )


def kind_of(
    said: Refused, status: int | None, *, items: int, creating_job: bool, otherwise: ErrorKind | None = None
) -> ErrorKind:
    """What an error means: codes first, then words, then the status."""
    everything = f"{said.words} {said.code} {said.type}"
    if (named := _by_code(said, everything)) is not None:
        return named
    if status in _SIZE_STATUSES and (size := size_kind(everything, items=items)):
        return size
    if status == 429 or said.code == "rate_limit_exceeded":
        return _limited(everything, creating_job=creating_job)
    return status_kind(status, items=items) if status is not None else otherwise or _by_type(said)


def _by_code(said: Refused, everything: str) -> ErrorKind | None:
    """The kinds that a code or the queue's own words name, whatever the status."""
    if {said.code, said.type} & _MONEY:
        return ErrorKind.QUOTA_MONEY
    if _ENQUEUED.search(everything):
        return ErrorKind.ENQUEUED_FULL
    if said.code in _NOT_RUN:
        return ErrorKind.OVERLOADED
    return ErrorKind.AUTH if said.code == "invalid_api_key" else None


def _limited(everything: str, *, creating_job: bool) -> ErrorKind:
    if _OVERLOADED.search(everything):
        return ErrorKind.OVERLOADED
    if _PER_DAY.search(everything) and not creating_job:
        return ErrorKind.RATE_DAY
    return ErrorKind.RATE_MINUTE


def _by_type(said: Refused) -> ErrorKind:
    """The kind of an error without a status, by the type that OpenAI gives it."""
    if said.type in {"server_error", "service_unavailable"} or said.code == "server_error":
        return ErrorKind.OVERLOADED
    return ErrorKind.BAD_INPUT


def refused(body: object) -> Refused:
    """The message, code and type of an error body; servers differ in where they put them."""
    outer = table(body)
    inner: Any = outer.get("error", outer) if outer else body
    if isinstance(inner, str):
        return Refused(inner, "", str(outer.get("error_type") or ""))
    inner = table(inner)
    words = next((inner[name] for name in ("message", "detail", "error", "msg") if inner.get(name)), "")
    code = inner.get("code")
    return Refused(
        words if isinstance(words, str) else str(words),
        str(code) if code not in (None, "") else "",
        str(inner.get("type") or inner.get("error_type") or ""),
    )
