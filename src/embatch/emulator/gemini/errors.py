"""Gemini's error bodies: `google.rpc.Status` with its details, as public logs show them."""

from __future__ import annotations

import math
from email.utils import formatdate
from time import time
from typing import TYPE_CHECKING, Any, Literal

from embatch.emulator.answers import Answer, Refused, dumps
from embatch.emulator.quotas import Exceeded

if TYPE_CHECKING:
    from embatch.emulator.answers import Call
    from embatch.emulator.catalog import EmulatedModel
    from embatch.emulator.faults import Fault

_RPC = "type.googleapis.com/google.rpc."
_SERVICE = "generativelanguage.googleapis.com"
_HELP = {
    "@type": f"{_RPC}Help",
    "links": [
        {
            "description": "Learn more about Gemini API quotas",
            "url": "https://ai.google.dev/gemini-api/docs/rate-limits",
        }
    ],
}
_QUOTA_TEXT = (
    "You exceeded your current quota, please check your plan and billing details. For more information on this "
    "error, head to: https://ai.google.dev/gemini-api/docs/rate-limits. To monitor your current usage, head to: "
    "https://ai.dev/rate-limit. "
)
RPC_CODES = {
    "CANCELLED": 1,
    "INVALID_ARGUMENT": 3,
    "DEADLINE_EXCEEDED": 4,
    "NOT_FOUND": 5,
    "PERMISSION_DENIED": 7,
    "RESOURCE_EXHAUSTED": 8,
    "FAILED_PRECONDITION": 9,
    "INTERNAL": 13,
    "UNAVAILABLE": 14,
    "UNAUTHENTICATED": 16,
}
_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
OVERLOADED = "The model is overloaded. Please try again later."
INTERNAL = (
    "An internal error has occurred. Please retry or report in "
    "https://developers.generativeai.google/guide/troubleshooting"
)
BAD_GATEWAY = (
    "<!DOCTYPE html>\n<html lang=en>\n  <meta charset=utf-8>\n  <title>Error 502 (Server Error)!!1</title>\n"
    "  <p><b>502.</b> <ins>That’s an error.</ins>\n  <p>The server encountered a temporary error and could not "
    "complete your request.<p>Please try again in 30 seconds.\n</html>\n"
)


def body(
    code: int, message: str, status: str | None = None, details: list[Any] | None = None
) -> dict[str, Any]:
    """The error body of a status code."""
    error: dict[str, Any] = {
        "code": code,
        "message": message,
        "status": status or _STATUSES.get(code, "UNKNOWN"),
    }
    if details:
        error["details"] = details
    return {"error": error}


def refused(
    code: int,
    message: str,
    status: str | None = None,
    details: list[Any] | None = None,
    headers: dict[str, str] | None = None,
) -> Refused:
    """A reply that refuses."""
    return Refused(
        Answer(status=code, body=dumps(body(code, message, status, details)), headers=headers or {})
    )


def bad(message: str) -> Refused:
    """400 INVALID_ARGUMENT, in the form of failed validations."""
    return refused(400, f"* {message}\n")


def unknown_field(name: str, path: str) -> Refused:
    """400 for a name that the schema does not have."""
    at = f" at '{path}'" if path else ""
    return _bad_payload(f'Invalid JSON payload received. Unknown name "{name}"{at}: Cannot find field.', path)


def bad_value(path: str, kind: str, value: object) -> Refused:
    """400 for a value of the wrong type."""
    shown = f'"{value}"' if isinstance(value, str) else value
    return _bad_payload(f"Invalid value at '{path}' ({kind}), {shown}", path)


def _bad_payload(text: str, path: str) -> Refused:
    violations = [{"field": path, "description": text} if path else {"description": text}]
    return refused(400, text, details=[{"@type": f"{_RPC}BadRequest", "fieldViolations": violations}])


def no_model(name: str, version: str, verb: str) -> Refused:
    """404 for a model that is not there, or not for this."""
    return refused(
        404,
        f"models/{name} is not found for API version {version or 'v1beta'}, or is not supported for {verb}. "
        "Call ListModels to see the list of available models and their supported methods.",
    )


def no_key() -> Refused:
    """403 for a request without a key."""
    return refused(
        403,
        "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or "
        "other form of API consumer identity to call this API.",
    )


def wrong_key() -> Refused:
    """400, not 401, for a key that is not one."""
    text = "API key not valid. Please pass a valid API key."
    reason = {
        "@type": f"{_RPC}ErrorInfo",
        "reason": "API_KEY_INVALID",
        "domain": "googleapis.com",
        "metadata": {"service": _SERVICE},
    }
    local = {"@type": f"{_RPC}LocalizedMessage", "locale": "en-US", "message": text}
    return refused(400, text, details=[reason, local])


def quota(call: Call, model: EmulatedModel | None, exceeded: Exceeded) -> Refused:
    """429 for a quota of the minute or the day."""
    name = (model.quota_name or model.name) if model else "gemini-embedding-1.0"
    is_free = call.core.options.tier == "free"
    what = "generate_content" if model is not None and model.verb == "generate" else "embed_content"
    thing = "input_token_count" if exceeded.axis == "tokens" else "requests"
    metric = f"{_SERVICE}/{what}_{'free' if is_free else 'paid'}_tier_{thing}"
    violation = {
        "quotaMetric": metric,
        "quotaId": _quota_id(exceeded, what, is_free=is_free),
        "quotaDimensions": {"model": name, "location": "global"},
        "quotaValue": str(exceeded.limit),
    }
    # A request that alone is over the limit is told to wait all the same.
    wait = told(call, exceeded.wait_s)
    message = (
        f"{_QUOTA_TEXT}\n* Quota exceeded for metric: {metric}, limit: {exceeded.limit}, model: {name}\n"
        f"Please retry in {wait:.9f}s."
    )
    details = [
        _HELP,
        {"@type": f"{_RPC}QuotaFailure", "violations": [violation]},
        {"@type": f"{_RPC}RetryInfo", "retryDelay": f"{wait:.9f}".rstrip("0").rstrip(".") + "s"},
    ]
    return refused(429, message, details=details)


def _quota_id(exceeded: Exceeded, what: str, *, is_free: bool) -> str:
    """Such as EmbedContentRequestsPerMinutePerUserPerProjectPerModel-FreeTier."""
    verb = "".join(part.capitalize() for part in what.split("_"))
    per = "PerDay" if exceeded.per == "day" else "PerMinute"
    if exceeded.axis == "tokens":
        return f"{verb}InputTokensPerModel{per}" + ("-FreeTier" if is_free else "")
    user = "PerUser" if is_free else ""
    return f"{verb}Requests{per}{user}PerProjectPerModel" + ("-FreeTier" if is_free else "")


def queue_full() -> Refused:
    """429 for a job that finds no room: nothing but a link, and no delay."""
    return refused(429, _QUOTA_TEXT, details=[_HELP])


def told(call: Call, seconds: float) -> float:
    """A delay, as this client is to be told."""
    if math.isinf(seconds):
        seconds = 60.0
    return seconds / call.core.options.time_scale if call.core.options.real_delays else seconds


_SCRIPTED: dict[str, tuple[int, str]] = {
    "rate_limit_bare": (429, "Resource has been exhausted (e.g. check quota)."),
    "overloaded": (503, OVERLOADED),
    "internal": (500, INTERNAL),
    "gateway_timeout": (504, "Deadline expired before operation could complete."),
    "request_timeout": (408, "The request timed out."),
    "unauthenticated": (401, "Request had invalid authentication credentials."),
    "forbidden": (403, "Your API key was reported as leaked. Please use another API key."),
    "not_found": (404, "Requested entity was not found."),
    "billing": (
        400,
        "Gemini API free tier is not available in your country. Please enable billing on your project.",
    ),
}


def scripted(call: Call, fault: Fault, model: EmulatedModel | None) -> Refused:
    """The reply of a fault that refuses."""
    kind = fault.kind
    if kind == "bad_gateway":
        page = Answer(status=fault.status or 502, body=BAD_GATEWAY.encode(), media="text/html; charset=UTF-8")
        return Refused(page)
    if kind == "enqueued_full":
        return queue_full()
    if kind in {"rate_limit", "rate_limit_day"}:
        return _scripted_quota(call, fault, model)
    if kind in {"rate_limit_date", "rate_limit_long"}:
        wait = told(call, fault.delay_s)
        is_date = kind == "rate_limit_date"
        header = formatdate(time() + wait, usegmt=True) if is_date else f"{wait:.0f}"
        return refused(429, _QUOTA_TEXT, headers={"retry-after": header})
    code, message = _SCRIPTED.get(kind, (500, "Scripted."))
    status = "FAILED_PRECONDITION" if kind == "billing" else None
    return refused(fault.status or code, message, status)


def _scripted_quota(call: Call, fault: Fault, model: EmulatedModel | None) -> Refused:
    limit = call.core.quotas.items or 100
    is_day = fault.kind == "rate_limit_day"
    wait = fault.delay_s or (8 * 3600.0 if is_day else 0.0)
    per: Literal["day", "minute"] = "day" if is_day else "minute"
    return quota(call, model, Exceeded(axis="items", per=per, limit=limit, used=limit, asked=1, wait_s=wait))
