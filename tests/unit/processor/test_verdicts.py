"""What a service's exceptions mean: what is repeated, what is split, what ends the run, and how long is waited."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embatch.errors import ProviderError
from embatch.frontends.processor.verdicts import Verdicts, asked_delay_s, kind_of
from embatch.remote import ErrorKind

TEXTS = ["a", "b"]


class StatusError(Exception):
    """An exception as HTTP libraries make them."""

    def __init__(self, status: int, **attributes: object) -> None:
        super().__init__(f"status {status}")
        self.status_code = status
        self.__dict__.update(attributes)


def judged(
    verdicts: Verdicts, error: BaseException, *, at: float = 0.0, texts: list[str] | None = None
) -> ProviderError:
    """The verdict on a call that took no time."""
    return verdicts.judge(texts or TEXTS, error, sent_at=at, now=at)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (StatusError(429), ErrorKind.RATE_MINUTE),
        (StatusError(401), ErrorKind.AUTH),
        (StatusError(402), ErrorKind.QUOTA_MONEY),
        (StatusError(413), ErrorKind.TOO_MANY_TOKENS),
        (StatusError(400), ErrorKind.BAD_INPUT),
        (StatusError(503), ErrorKind.OVERLOADED),
        (RuntimeError("Rate limit exceeded"), ErrorKind.RATE_MINUTE),
        (RuntimeError("HTTP 429"), ErrorKind.RATE_MINUTE),
        (ValueError("maximum context length is 512"), ErrorKind.INPUT_TOO_LONG),
        (TimeoutError(), ErrorKind.TIMEOUT),
        (ConnectionResetError(), ErrorKind.CONNECTION),
        (RuntimeError("boom"), ErrorKind.OVERLOADED),
        (KeyError("x"), ErrorKind.OVERLOADED),
        (StatusError(200), ErrorKind.OVERLOADED),
        (ProviderError("no", kind=ErrorKind.NOT_FOUND), ErrorKind.NOT_FOUND),
    ],
    ids=repr,
)
def test_kinds(error: BaseException, kind: ErrorKind) -> None:
    """A failure is told by its kind, status, words or class, in this order; what says nothing may succeed later."""
    assert kind_of(error, items=2) is kind


def test_a_status_of_the_response_counts() -> None:
    """Libraries that put the status into the response are understood as well."""
    error = RuntimeError("failed")
    error.response = SimpleNamespace(status_code=429, headers={"Retry-After": "7"})  # type: ignore[attr-defined]  # as SDKs do
    assert kind_of(error, items=1) is ErrorKind.RATE_MINUTE
    assert asked_delay_s(error) == 7


@pytest.mark.parametrize(
    ("attributes", "seconds"),
    [
        ({"retry_after": 3}, 3.0),
        ({"retry_after": "2.5"}, 2.5),
        ({"retry_after": -1}, None),
        ({"retry_after": "soon"}, None),
        ({"headers": {"Retry-After": "9"}, "retry_after": 4}, 9.0),
        ({"headers": 5}, None),
        ({}, None),
    ],
    ids=str,
)
def test_the_delay_that_a_service_asks_for(attributes: dict[str, object], seconds: float | None) -> None:
    """It is read from attributes and headers; nonsense is none."""
    assert asked_delay_s(StatusError(429, **attributes)) == seconds


@given(st.integers(0, 6), st.floats(0.0, 5.0))
def test_a_batch_is_repeated_as_often_as_asked(retries: int, delay: float) -> None:
    """So often it may succeed later, after doubled delays; then it is refused, which splits it at once."""
    verdicts = Verdicts(max_retries=retries, retry_delay=delay)
    verdicts.answered(["other"])
    seen = [judged(verdicts, RuntimeError("boom"), at=float(i)) for i in range(retries + 1)]
    assert [one.kind for one in seen] == [ErrorKind.OVERLOADED] * retries + [ErrorKind.BAD_INPUT]
    assert [one.retry_after_s for one in seen[:-1]] == [min(60.0, delay * 2**i) for i in range(retries)]
    assert seen[-1].retry_after_s is None
    assert verdicts.failed == 0


def test_a_text_alone_fails_and_is_counted() -> None:
    """A single text that is refused for good is given up; its neighbours are not."""
    verdicts = Verdicts(max_retries=1, retry_delay=0.0)
    kinds = [judged(verdicts, ValueError("bad"), texts=["a"]).kind for _ in range(2)]
    assert kinds == [ErrorKind.OVERLOADED, ErrorKind.BAD_INPUT]
    assert verdicts.failed == 1


def test_success_forgets_failures() -> None:
    """What has succeeded once starts anew, and so do the delays."""
    verdicts = Verdicts(max_retries=1, retry_delay=1.0)
    judged(verdicts, RuntimeError("boom"))
    verdicts.answered(TEXTS)
    again = judged(verdicts, RuntimeError("boom"))
    assert (again.kind, again.retry_after_s) == (ErrorKind.OVERLOADED, 1.0)


def test_calls_that_fail_together_double_the_delay_once() -> None:
    """Calls that were under way at the same time are one round."""
    verdicts = Verdicts(max_retries=9, retry_delay=1.0)
    together = [verdicts.judge([str(i)], RuntimeError("boom"), sent_at=0.0, now=1.0) for i in range(5)]
    later = verdicts.judge(["0"], RuntimeError("boom"), sent_at=2.0, now=3.0)
    assert [one.retry_after_s for one in [*together, later]] == [1.0] * 5 + [2.0]


def test_the_service_knows_better_how_long_to_wait() -> None:
    """A delay that the service names is a floor."""
    verdicts = Verdicts(max_retries=3, retry_delay=1.0)
    assert judged(verdicts, StatusError(429, retry_after=20)).retry_after_s == 20
    assert judged(verdicts, StatusError(503, retry_after=30), at=1.0).retry_after_s == 30


def test_refusals_for_a_quota_are_waited_for() -> None:
    """They cost no retry, until a minute's quota would have come back several retries ago."""
    verdicts = Verdicts(max_retries=1, retry_delay=1.0)
    kinds = [judged(verdicts, StatusError(429), at=10.0 * i).kind for i in range(9)]
    assert kinds == [ErrorKind.RATE_MINUTE] * 8 + [ErrorKind.NOT_FOUND]


def test_a_service_that_never_answers_ends_the_run() -> None:
    """Nobody there, with the retries used up: no text is to blame for that, and none is tried alone."""
    verdicts = Verdicts(max_retries=1, retry_delay=0.0)
    kinds = [judged(verdicts, ConnectionError("refused"), at=float(i)).kind for i in range(2)]
    assert kinds == [ErrorKind.OVERLOADED, ErrorKind.NOT_FOUND]


def test_a_broken_service_ends_the_run() -> None:
    """After forty calls in a row that failed, no more texts are tried one by one."""
    verdicts = Verdicts(max_retries=0, retry_delay=0.0)
    seen = [judged(verdicts, RuntimeError("boom"), texts=[str(i), "x"]) for i in range(40)]
    assert {one.kind for one in seen[:39]} == {ErrorKind.BAD_INPUT}
    assert seen[39].kind is ErrorKind.NOT_FOUND
    assert "40 times in a row" in str(seen[39])


def test_no_key_reaches_a_message() -> None:
    """What looks like a key in an exception's words is hidden."""
    assert "sk-abcdefghijkl" not in str(
        judged(Verdicts(max_retries=0, retry_delay=0), RuntimeError("key sk-abcdefghijkl"))
    )
