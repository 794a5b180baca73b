"""OpenAI's error bodies and what its headers say about limits."""

from __future__ import annotations

import math
from email.utils import formatdate
from time import time
from typing import TYPE_CHECKING, Any

from embatch.emulator.answers import Answer, Refused, dumps
from embatch.emulator.quotas import Exceeded

if TYPE_CHECKING:
    from embatch.emulator.answers import Call
    from embatch.emulator.catalog import EmulatedModel
    from embatch.emulator.faults import Fault

ORGANISATION = "org-emulator"
OVERLOADED = "The engine is currently overloaded, please try again later"
SERVER_ERROR = (
    "The server had an error while processing your request. Sorry about that! You can retry your request, or contact "
    "us through our help center at help.openai.com if the error persists."
)
NO_CREDIT = (
    "You exceeded your current quota, please check your plan and billing details. For more information on this error, "
    "read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors."
)
BAD_GATEWAY = (
    "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n"
    "<hr><center>cloudflare</center>\r\n</body>\r\n</html>\r\n"
)


def body(
    message: str, kind: str = "invalid_request_error", code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """An error body."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def refused(
    status: int,
    message: str,
    kind: str = "invalid_request_error",
    code: str | None = None,
    param: str | None = None,
    headers: dict[str, str] | None = None,
) -> Refused:
    """A reply that refuses."""
    answer = Answer(status=status, body=dumps(body(message, kind, code, param)), headers=headers or {})
    return Refused(answer)


def bad(message: str, param: str | None = None, code: str | None = None) -> Refused:
    """400."""
    return refused(400, message, code=code, param=param)


def no_model(name: str) -> Refused:
    """404 for a model that is not there."""
    message = f"The model `{name}` does not exist or you do not have access to it."
    return refused(404, message, code="model_not_found")


def no_key() -> Refused:
    """401 for a request without a key."""
    return refused(
        401,
        "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
        "(i.e. Authorization: Bearer YOUR_KEY), or as the password field (with blank username) if you're accessing the "
        "API from your browser and are prompted for a username and password. You can obtain an API key from "
        "https://platform.openai.com/account/api-keys.",
    )


def wrong_key(key: str) -> Refused:
    """401 for a key that is not one."""
    shown = key[:8] + "*" * max(0, len(key) - 12) + key[-4:] if len(key) > 12 else "*" * len(key)
    return refused(
        401,
        f"Incorrect API key provided: {shown}. You can find your API key at "
        "https://platform.openai.com/account/api-keys.",
        code="invalid_api_key",
    )


_PER = {
    ("requests", "minute"): "requests per min (RPM)",
    ("requests", "day"): "requests per day (RPD)",
    ("tokens", "minute"): "tokens per min (TPM)",
    ("tokens", "day"): "tokens per day (TPD)",
    ("items", "minute"): "inputs per min",
    ("items", "day"): "inputs per day",
}


def quota(call: Call, model: EmulatedModel | None, exceeded: Exceeded) -> Refused:
    """429 for a limit of the minute or the day."""
    name = model.name if model else "text-embedding-3-small"
    per = _PER[exceeded.axis, exceeded.per]
    kind = "tokens" if exceeded.axis == "tokens" else "requests"
    place = f"for {name} in organization {ORGANISATION} on {per}: Limit {exceeded.limit}"
    link = "Visit https://platform.openai.com/account/rate-limits to learn more."
    if math.isinf(exceeded.wait_s):
        message = (
            f"Request too large {place}, Requested {exceeded.asked}. The input or output tokens must be reduced in "
            f"order to run successfully. {link}"
        )
        return refused(429, message, kind, "rate_limit_exceeded")
    wait = told(call, exceeded.wait_s)
    message = (
        f"Rate limit reached {place}, Used {exceeded.used}, Requested {exceeded.asked}. Please try again in "
        f"{duration(wait)}. {link}"
    )
    headers = {"retry-after": str(math.ceil(wait)), "retry-after-ms": str(math.ceil(wait * 1000))}
    return refused(429, message, kind, "rate_limit_exceeded", headers=headers)


def duration(seconds: float) -> str:
    """Go-like: `20ms`, `1s`, `1.5s`, `6m0s`, `8h0m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds, 3), 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{rest:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def told(call: Call, seconds: float) -> float:
    """A delay, as this client is to be told."""
    return seconds / call.core.options.time_scale if call.core.options.real_delays else seconds


def limit_headers(call: Call, model: str) -> dict[str, str]:
    """`x-ratelimit-*`, for the limits that there are."""
    found: dict[str, str] = {}
    with call.core.lock:
        meter = call.core.meter(model, call.now)
        for axis in ("requests", "tokens"):
            left = meter.left(axis, call.now)
            if left is not None:
                limit, remaining, reset = left
                found[f"x-ratelimit-limit-{axis}"] = str(limit)
                found[f"x-ratelimit-remaining-{axis}"] = str(remaining)
                found[f"x-ratelimit-reset-{axis}"] = duration(told(call, reset))
    return found


_SCRIPTED: dict[str, tuple[int, str, str, str | None]] = {
    "rate_limit_bare": (
        429,
        "Rate limit reached. Please try again later.",
        "requests",
        "rate_limit_exceeded",
    ),
    "rate_limit_date": (
        429,
        "Rate limit reached. Please try again later.",
        "requests",
        "rate_limit_exceeded",
    ),
    "rate_limit_long": (
        429,
        "Rate limit reached. Please try again later.",
        "requests",
        "rate_limit_exceeded",
    ),
    "overloaded": (503, OVERLOADED, "service_unavailable", None),
    "internal": (500, SERVER_ERROR, "server_error", None),
    "gateway_timeout": (504, "The request timed out.", "server_error", None),
    "request_timeout": (408, "The request timed out.", "timeout", None),
    "unauthenticated": (401, "Incorrect API key provided.", "invalid_request_error", "invalid_api_key"),
    "forbidden": (
        403,
        "You have insufficient permissions for this operation. Missing scopes: model.request.",
        "invalid_request_error",
        None,
    ),
    "not_found": (404, "No such object.", "invalid_request_error", None),
    "insufficient_quota": (429, NO_CREDIT, "insufficient_quota", "insufficient_quota"),
}


def scripted(call: Call, fault: Fault, model: EmulatedModel | None) -> Refused:
    """The reply of a fault that refuses."""
    kind, wait = fault.kind, fault.delay_s
    if kind == "bad_gateway":
        return Refused(Answer(status=fault.status or 502, body=BAD_GATEWAY.encode(), media="text/html"))
    if kind == "enqueued_full":
        model_name = model.name if model else "text-embedding-3-small"
        limit = call.core.quotas.enqueued_tokens or 3_000_000
        return refused(429, queue_full(model_name, limit), "token_limit_exceeded", "token_limit_exceeded")
    if kind in {"rate_limit", "rate_limit_day"}:
        limit = call.core.quotas.requests or 3_000
        is_day = kind == "rate_limit_day"
        seconds = wait or (8 * 3600.0 if is_day else 0.0)
        per: Any = "day" if is_day else "minute"
        return quota(
            call,
            model,
            Exceeded(axis="requests", per=per, limit=limit, used=limit, asked=1, wait_s=seconds),
        )
    status, message, error_type, code = _SCRIPTED.get(kind, (500, "Scripted.", "server_error", None))
    headers = {}
    if kind == "rate_limit_date":
        headers["retry-after"] = formatdate(time() + told(call, wait), usegmt=True)
    elif kind == "rate_limit_long":
        headers["retry-after"] = str(math.ceil(told(call, wait)))
    return refused(fault.status or status, message, error_type, code, headers=headers)


def queue_full(model: str, limit: int) -> str:
    """What is said when the queue of jobs is full."""
    return (
        f"Enqueued token limit reached for {model} in organization {ORGANISATION}. Limit: {limit:,} enqueued tokens. "
        "Please try again once some in_progress batches have been completed."
    )
