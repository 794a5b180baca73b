"""Token buckets: what a key may have in a minute."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embatch.frontends.server.limits import Allowance, Bucket
from embatch.frontends.server.settings import ApiKey


@given(st.integers(1, 1000), st.lists(st.tuples(st.floats(0, 30), st.integers(1, 500)), max_size=60))
def test_no_more_is_let_through_than_the_rate_allows(per_minute: int, tries: list[tuple[float, int]]) -> None:
    """Over any time, what was taken is at most a minute's worth, the rate, and the last one's excess."""
    bucket, now, taken = Bucket.full(per_minute, 0.0), 0.0, 0
    for pause, amount in tries:
        now += pause
        if not bucket.wait_s(amount, now):
            before = taken
            bucket.take(amount, now)
            taken += amount
            allowed = per_minute + now / 60 * per_minute
            assert before + min(amount, per_minute) <= allowed * (1 + 1e-5) + 1e-5


@given(st.integers(1, 1000), st.lists(st.integers(1, 3000), min_size=1, max_size=20))
def test_whoever_waits_as_told_is_let_in(per_minute: int, amounts: list[int]) -> None:
    """The time that a refusal names is enough, however much is asked for."""
    bucket, now = Bucket.full(per_minute, 0.0), 0.0
    for amount in amounts:
        now += bucket.wait_s(amount, now)
        assert bucket.wait_s(amount, now) == 0.0
        bucket.take(amount, now)


def test_what_is_given_back_is_there_again() -> None:
    """An estimate that was too high costs nothing in the end, and a bucket is never fuller than full."""
    bucket = Bucket.full(100, 0.0)
    bucket.take(80, 0.0)
    bucket.take(-50, 0.0)
    assert bucket.left == 70
    bucket.take(-50, 0.0)
    assert bucket.left == 100


def test_headers_tell_what_is_left() -> None:
    """Limits, what remains, and when it is whole again; nothing for what is not limited."""
    allowance = Allowance(ApiKey(name="a", secret="s", requests_per_minute=60), 0.0)
    assert allowance.requests is not None
    allowance.requests.take(6, 0.0)
    assert dict(allowance.headers(2.0)) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "56",
        "x-ratelimit-reset-requests": "4.000s",
    }
    assert Allowance(ApiKey(name="a", secret="s"), 0.0).headers(1.0) == []
    assert pytest.approx(4.0) == allowance.requests.reset_s(2.0)
