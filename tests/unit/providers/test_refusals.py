"""What providers' refusals have in common: delays, hints, words without secrets, sizes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from embatch.errors import ProviderError, UsageError
from embatch.providers.refusals import (
    clean,
    duration_s,
    in_our_words,
    limit_hints,
    refusal,
    retry_after_s,
    size_kind,
    status_kind,
)
from embatch.remote import ErrorKind, LimitHints

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("20ms", 0.02),
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("1h2m3.5s", 3723.5),
        ("14.044580725s", 14.044580725),
        ("33", 33.0),
        ("1.5", 1.5),
        ("2m", 120.0),
        ("", None),
        ("soon", None),
        ("-3s", None),
        ("3 s", None),
    ],
)
def test_durations(text: str, seconds: float | None) -> None:
    """Go's durations, as OpenAI and Google write them."""
    assert duration_s(text) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("headers", "words", "delays", "seconds"),
    [
        ({}, "", (), None),
        ({"retry-after": "7"}, "", (), 7.0),
        ({"retry-after": "0.5"}, "", (), 0.5),
        ({"retry-after": "Sat, 21 Nov 2026 12:05:00 GMT"}, "", (), 300.0),
        ({"retry-after": "Sat, 21 Nov 2026 11:05:00 GMT"}, "", (), 0.0),
        ({"retry-after": "tomorrow"}, "", (), None),
        ({"retry-after-ms": "250"}, "", (), 0.25),
        ({"retry-after": "1", "retry-after-ms": "1500"}, "", (), 1.5),
        ({}, "", ("14.044580725s",), 14.044580725),
        ({}, "Please retry in 33.384105706s.", (), 33.384105706),
        ({}, "Please retry in 33.384105706s.", ("40s",), 40.0),
        ({}, "Please try again in 6m0s.", (), 360.0),
        ({}, "Please try again in 120ms.", (), 0.12),
        ({"retry-after": "3"}, "Please try again in 20s", (), 3.0),
    ],
)
def test_the_delay_that_was_asked_for(
    headers: dict[str, str], words: str, delays: tuple[str, ...], seconds: float | None
) -> None:
    """Seconds, thousandths, dates, RetryInfo and words; the longest of what headers and details say."""
    found = retry_after_s(headers, words, delays, now=NOW)
    assert found == (None if seconds is None else pytest.approx(seconds))


def test_hints_from_headers() -> None:
    """OpenAI's rate limit headers become numbers; an answer without them has no hints."""
    headers = {
        "x-ratelimit-limit-requests": "3000",
        "x-ratelimit-remaining-requests": "2999",
        "x-ratelimit-reset-requests": "20ms",
        "x-ratelimit-limit-tokens": "1000000",
        "x-ratelimit-remaining-tokens": "999000",
        "x-ratelimit-reset-tokens": "6m0s",
    }
    assert limit_hints(headers) == LimitHints(
        requests_limit=3000,
        requests_remaining=2999,
        requests_reset_s=0.02,
        tokens_limit=1_000_000,
        tokens_remaining=999_000,
        tokens_reset_s=360.0,
    )
    assert limit_hints({"content-type": "application/json"}) is None
    assert limit_hints({"x-ratelimit-limit-requests": "many"}) is None


def test_a_reset_that_is_a_point_in_time_is_no_duration() -> None:
    """Some gateways send seconds since 1970: waiting that long helps nobody."""
    hints = limit_hints({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "1795262400"})
    assert hints == LimitHints(requests_remaining=1)


@pytest.mark.parametrize(
    "words",
    [
        "Incorrect API key provided: sk-proj-abcdefgh12345678.",
        "key AIzaSyA1234567890abcdefghij not valid",
        "header Bearer verysecretvalue refused",
        "GET https://host/v1?key=verysecretvalue failed",
        "no route to https://user:verysecretvalue@host/",
        "your key is verysecretvalue",
    ],
)
def test_no_key_gets_into_a_message(words: str) -> None:
    """Neither the key that is in use nor anything that looks like one."""
    error = refusal("gemini: calling", words, kind=ErrorKind.AUTH, secrets=["verysecretvalue"])
    for secret in ("verysecretvalue", "abcdefgh12345678", "SyA1234567890"):
        assert secret not in str(error)


def test_words_are_cut_and_web_pages_named() -> None:
    """A long message ends with an ellipsis; a proxy's page of HTML is told by its title."""
    assert len(clean("x" * 1000)) == 500
    assert clean("a\n  b\tc") == "a b c"
    page = "<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>…</body></html>"
    assert clean(page) == "a web page: 502 Bad Gateway"
    assert clean("<html></html>") == "a web page"


@pytest.mark.parametrize(
    ("words", "items", "kind"),
    [
        (
            "* BatchEmbedContentsRequest.requests: at most 100 requests can be in one batch\n",
            101,
            "too_many_items",
        ),
        ("supported range is from 1 (inclusive) to 251 (exclusive)", 300, "too_many_items"),
        ("Too many inputs in request, split into more batches", 300, "too_many_items"),
        ("Invalid 'input': array too long. Expected maximum length 2048", 2049, "too_many_items"),
        ("batch size 64 > maximum allowed batch size 32", 64, "too_many_items"),
        ("Requested 453357 tokens, max 300000 tokens per request", 900, "too_many_tokens"),
        ("Requested 453357 tokens, max 300000 tokens per request", 1, "input_too_long"),
        ("Request payload size exceeds the limit: 20971520 bytes.", 50, "too_many_tokens"),
        ("The file is larger than the 209715200 maximum", 50, "too_many_tokens"),
        (
            "This model's maximum context length is 8192 tokens, however you requested 9000",
            5,
            "input_too_long",
        ),
        ("Input validation error: `inputs` must have less than 512 tokens. Given: 600", 1, "input_too_long"),
        ("something else", 5, None),
    ],
)
def test_sizes_are_told_apart(words: str, items: int, kind: str | None) -> None:
    """Too many texts, too many tokens, one text too long: each is split in its own way."""
    assert size_kind(words, items=items) == kind


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "bad_input"),
        (401, "auth"),
        (402, "quota_money"),
        (403, "auth"),
        (404, "not_found"),
        (408, "timeout"),
        (409, "overloaded"),
        (413, "too_many_tokens"),
        (422, "bad_input"),
        (429, "rate_minute"),
        (499, "timeout"),
        (500, "overloaded"),
        (502, "overloaded"),
        (503, "overloaded"),
        (504, "timeout"),
        (529, "overloaded"),
        (302, "protocol"),
        (None, "protocol"),
    ],
)
def test_statuses(status: int | None, kind: str) -> None:
    """What an HTTP status means by itself."""
    assert status_kind(status, items=2) == kind


def test_our_own_errors_pass_and_foreign_ones_are_chained() -> None:
    """A foreign error is the cause of ours, unless it would tell the key."""

    def mapped(error: Exception) -> ProviderError:
        return refusal("x", str(error), kind=ErrorKind.PROTOCOL, secrets=["topsecret"])

    with pytest.raises(UsageError), in_our_words(mapped):
        raise UsageError("ours")
    with pytest.raises(ProviderError) as caught, in_our_words(mapped, ["topsecret"]):
        raise KeyError("harmless")
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(ProviderError) as caught, in_our_words(mapped, ["topsecret"]):
        raise ValueError("bad header topsecret")
    assert caught.value.__cause__ is None
    assert "topsecret" not in str(caught.value)
