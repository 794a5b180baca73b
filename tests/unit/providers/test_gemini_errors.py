"""What Gemini's refusals mean, by bodies that were seen on the wire."""

from __future__ import annotations

from typing import Any

import pytest

from embatch.providers.gemini.errors import gemini_refusal
from embatch.remote import ErrorKind

HELP = {"@type": "type.googleapis.com/google.rpc.Help", "links": [{"url": "https://ai.google.dev"}]}
EXCEEDED = "You exceeded your current quota, please check your plan and billing details."


def violation(quota_id: str, value: str = "100", metric: str = "") -> dict[str, Any]:
    return {
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [{"quotaMetric": metric, "quotaId": quota_id, "quotaValue": value}],
    }


def delay(seconds: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": seconds}


def body(code: int, status: str, message: str, *details: dict[str, Any]) -> dict[str, Any]:
    return {"error": {"code": code, "status": status, "message": message, "details": list(details)}}


def exhausted(*details: dict[str, Any], message: str = EXCEEDED) -> dict[str, Any]:
    return body(429, "RESOURCE_EXHAUSTED", message, *details)


MINUTE = violation("EmbedContentRequestsPerMinutePerUserPerProjectPerModel-FreeTier")
DAY = violation("EmbedContentRequestsPerDayPerUserPerProjectPerModel-FreeTier", "1000")


@pytest.mark.parametrize(
    ("sent", "creating_job", "kind"),
    [
        (exhausted(HELP, MINUTE, delay("33s")), False, "rate_minute"),
        (exhausted(HELP, MINUTE, delay("33s")), True, "rate_minute"),
        (exhausted(violation("InputTokensPerModelPerMinute")), False, "rate_minute"),
        (exhausted(HELP, DAY, delay("33s")), False, "rate_day"),
        (exhausted(HELP, MINUTE, DAY), False, "rate_day"),
        (exhausted(HELP), False, "rate_minute"),
        (exhausted(HELP), True, "enqueued_full"),
        (exhausted(violation("BatchEnqueuedTokensPerModel")), True, "enqueued_full"),
        (exhausted(violation("X-PerMinute", "0")), False, "quota_money"),
        (
            exhausted(message=EXCEEDED + "\n* Quota exceeded for metric: x, limit: 0, model: y"),
            False,
            "quota_money",
        ),
        (
            exhausted(message=EXCEEDED + "\n* Quota exceeded for metric: x, limit: 100, model: y"),
            False,
            "rate_minute",
        ),
        (exhausted(message="Your prepayment credits are depleted."), False, "quota_money"),
        (exhausted(delay("600s"), message="You reached your spend cap."), False, "rate_minute"),
        ("Too Many Requests", False, "rate_minute"),
    ],
)
def test_a_429_can_be_a_minute_a_day_money_or_the_queue(sent: object, creating_job: bool, kind: str) -> None:
    """The quota's id tells minute from day; a job refused without any met the queue's limit; `limit: 0` is the plan."""
    assert gemini_refusal(sent, "x", status=429, creating_job=creating_job).kind == kind


@pytest.mark.parametrize(
    ("sent", "status", "items", "kind"),
    [
        (
            body(400, "INVALID_ARGUMENT", "* x: at most 100 requests can be in one batch\n"),
            400,
            101,
            "too_many_items",
        ),
        (body(400, "INVALID_ARGUMENT", "Request payload size exceeds the limit"), 400, 9, "too_many_tokens"),
        (body(400, "INVALID_ARGUMENT", "bad field"), 400, 9, "bad_input"),
        (body(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."), 400, 9, "auth"),
        (body(400, "INVALID_ARGUMENT", "no", {"reason": "API_KEY_INVALID"}), 400, 9, "auth"),
        (body(400, "FAILED_PRECONDITION", "User location is not supported"), 400, 9, "auth"),
        (body(401, "UNAUTHENTICATED", "no"), 401, 9, "auth"),
        (body(403, "PERMISSION_DENIED", "no"), 403, 9, "auth"),
        (body(404, "NOT_FOUND", "models/x is not found"), 404, 9, "not_found"),
        (body(499, "CANCELLED", "no"), 499, 9, "timeout"),
        (body(500, "INTERNAL", "no"), 500, 9, "overloaded"),
        (body(503, "UNAVAILABLE", "The model is overloaded."), 503, 9, "overloaded"),
        (body(504, "DEADLINE_EXCEEDED", "no"), 504, 9, "timeout"),
        ("<html><title>502</title></html>", 502, 9, "overloaded"),
        ([body(429, "RESOURCE_EXHAUSTED", "in a list", DAY)], 429, 9, "rate_day"),
        (None, 502, 9, "overloaded"),
        ({"error": "text"}, 400, 9, "bad_input"),
    ],
)
def test_other_statuses(sent: object, status: int, items: int, kind: str) -> None:
    """Keys are refused with 400 here, billing and region too; pages of proxies are no JSON."""
    assert gemini_refusal(sent, "x", status=status, items=items).kind == kind


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1, "timeout"),
        (2, "overloaded"),
        (3, "bad_input"),
        (4, "timeout"),
        (5, "not_found"),
        (7, "auth"),
        (8, "rate_minute"),
        (13, "overloaded"),
        (14, "overloaded"),
        (16, "auth"),
        (503, "overloaded"),
        (400, "bad_input"),
    ],
)
def test_rows_carry_codes_of_grpc(code: int, kind: str) -> None:
    """The numbers in rows and jobs are gRPC's, now and then HTTP's."""
    error = gemini_refusal({"code": code, "message": "m", "details": [{"@type": "x", "a": {"b": 1}}]}, "row")
    assert error.kind == kind


def test_the_delay_is_read_where_it_is() -> None:
    """RetryInfo may be fractional; without it the message says the delay."""
    assert (
        gemini_refusal(exhausted(MINUTE, delay("14.044580725s")), "x", status=429).retry_after_s
        == 14.044580725
    )
    said = exhausted(HELP, message="… Please retry in 33.384105706s.")
    assert gemini_refusal(said, "x", status=429).retry_after_s == 33.384105706
    assert gemini_refusal(exhausted(HELP), "x", status=429).retry_after_s is None


def test_the_message_holds_the_providers_words_and_code() -> None:
    """What happened, with the provider's code and its own words."""
    error = gemini_refusal(body(404, "NOT_FOUND", "models/x is not found"), "gemini: calling x", status=404)
    assert str(error) == "gemini: calling x (404 NOT_FOUND): models/x is not found"
    assert error.code == "404 NOT_FOUND"
    assert error.kind is ErrorKind.NOT_FOUND
