"""What refusals of OpenAI's protocol mean, by bodies that were seen on the wire."""

from __future__ import annotations

from typing import Any

import pytest

from embatch.providers.openai.errors import openai_refusal
from embatch.remote import ErrorKind

ENQUEUED = (
    "Enqueued token limit reached for text-embedding-3-large in organization org-x. Limit: 3,000,000 enqueued tokens. "
    "Please try again once some in_progress batches have been completed."
)
TOO_LARGE = "Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Requested 60000."

MOST = "Requested 453357 tokens, max 300000 tokens per request"
BATCH_SIZE = {"error": "batch size 64 > maximum allowed batch size 32", "error_type": "Validation"}


def error(message: str, code: str | None = None, type_: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": type_, "param": None, "code": code}}


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (
            error("Rate limit reached. Please try again in 20s", "rate_limit_exceeded", "requests"),
            "rate_minute",
        ),
        (error("Rate limit reached on tokens per min (TPM)", "rate_limit_exceeded", "tokens"), "rate_minute"),
        (error("Rate limit reached on requests per day (RPD): Limit 200", "rate_limit_exceeded"), "rate_day"),
        (error("You exceeded your current quota", "insufficient_quota", "insufficient_quota"), "quota_money"),
        (error("You exceeded your current quota", None, "insufficient_quota"), "quota_money"),
        (error(ENQUEUED, "token_limit_exceeded"), "enqueued_full"),
        (error(ENQUEUED), "enqueued_full"),
        (error(TOO_LARGE, "rate_limit_exceeded", "tokens"), "too_many_tokens"),
        ({"error": "Model is overloaded", "error_type": "overloaded"}, "overloaded"),
        ({"message": "slow down"}, "rate_minute"),
        ("slow down", "rate_minute"),
        (None, "rate_minute"),
    ],
)
def test_a_429_can_mean_seven_things(body: object, kind: str) -> None:
    """Wait, stop for today, stop for money, defer, split, or an engine that is busy."""
    assert openai_refusal(body, "x", status=429, items=9).kind == kind


@pytest.mark.parametrize(
    ("status", "body", "items", "kind"),
    [
        (
            400,
            error(MOST, "max_tokens_per_request"),
            9,
            "too_many_tokens",
        ),
        (400, error("This model's maximum context length is 8192 tokens…"), 9, "input_too_long"),
        (400, error("Invalid 'input': array too long.", "array_above_max_length"), 2049, "too_many_items"),
        (400, error(ENQUEUED, "token_limit_exceeded"), 9, "enqueued_full"),
        (400, error("'$.input' is invalid."), 9, "bad_input"),
        (400, error("Billing hard limit has been reached", "billing_hard_limit_reached"), 9, "quota_money"),
        (400, error("no", "content_filter"), 9, "bad_input"),
        (401, error("Incorrect API key provided: sk-abc***xyz", "invalid_api_key"), 9, "auth"),
        (402, {"error": {"message": "Insufficient credits", "code": 402}}, 9, "quota_money"),
        (403, error("Country, region, or territory not supported"), 9, "auth"),
        (404, error("The model `x` does not exist", "model_not_found"), 9, "not_found"),
        (409, error("conflict"), 9, "overloaded"),
        (413, error("larger than the 209715200 maximum"), 9, "too_many_tokens"),
        (
            413,
            BATCH_SIZE,
            64,
            "too_many_items",
        ),
        (422, {"detail": [{"loc": ["body"], "msg": "field required"}]}, 9, "bad_input"),
        (
            500,
            error("input is too large to process"),
            1,
            "input_too_long",
        ),
        (500, error("The server had an error", "server_error"), 9, "overloaded"),
        (502, "<html><title>502 Bad Gateway</title></html>", 9, "overloaded"),
        (503, error("The engine is currently overloaded"), 9, "overloaded"),
        (504, None, 9, "timeout"),
    ],
)
def test_other_statuses(status: int, body: object, items: int, kind: str) -> None:
    """OpenAI's own bodies, and those of servers that speak its protocol."""
    assert openai_refusal(body, "x", status=status, items=items).kind == kind


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"code": "token_limit_exceeded", "message": ENQUEUED}, "enqueued_full"),
        (
            {"code": "batch_expired", "message": "could not be executed before the window expired"},
            "overloaded",
        ),
        ({"code": "batch_cancelled", "message": "cancelled"}, "overloaded"),
        ({"code": "invalid_json_line", "message": "This line is not parseable"}, "bad_input"),
        ({"code": "rate_limit_exceeded", "message": "m"}, "rate_minute"),
        ({"type": "server_error", "message": "m"}, "overloaded"),
    ],
)
def test_errors_of_jobs_and_rows_have_no_status(body: dict[str, Any], kind: str) -> None:
    """Their code says what they mean; a row that had no turn can be sent again."""
    assert openai_refusal(body, "x").kind == kind


def test_the_daily_limit_of_jobs_is_not_the_days_end() -> None:
    """A limit on creating jobs stops no synchronous calls."""
    body = error("You have created too many batches per day", "rate_limit_exceeded")
    assert openai_refusal(body, "x", status=429, creating_job=True).kind is ErrorKind.RATE_MINUTE


def test_delay_and_message() -> None:
    """Headers before words; the code and the provider's words are told, the key is not."""
    body = error("Rate limit reached. Please try again in 20s", "rate_limit_exceeded", "requests")
    assert openai_refusal(body, "x", status=429, headers={"retry-after-ms": "250"}).retry_after_s == 0.25
    refused = openai_refusal(body, "openai: calling m", status=429)
    assert refused.retry_after_s == 20.0
    assert str(refused) == (
        "openai: calling m (rate_limit_exceeded): Rate limit reached. Please try again in 20s"
    )
    told = openai_refusal(
        error("Incorrect API key provided: topsecret"), "x", status=401, secrets=["topsecret"]
    )
    assert "topsecret" not in str(told)
