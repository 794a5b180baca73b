"""Progress: rates and time left from counts and times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embatch.decisions.progress import Meter


def test_a_steady_run_has_a_steady_rate_and_an_honest_end() -> None:
    """At 10 rows a second, 50 of 100 rows after 5 s leave 5 s."""
    meter = Meter(100.0)
    for step in range(1, 6):
        progress = meter.look(100.0 + step, completed=10 * step, tokens=200 * step, total=100)
    assert progress.rate == pytest.approx(10)
    assert progress.tokens_rate == pytest.approx(200)
    assert progress.eta == pytest.approx(5)
    assert progress.percentage == pytest.approx(50)
    assert progress.seconds == pytest.approx(5)


def test_the_rate_follows_a_machine_that_slows_down() -> None:
    """A minute after the speed has dropped to a tenth, the rate says so."""
    meter = Meter(0.0)
    completed = 0
    for second in range(1, 121):
        completed += 100 if second <= 60 else 10
        progress = meter.look(float(second), completed=completed)
    assert progress.rate == pytest.approx(10, rel=0.2)


def test_a_slow_first_second_is_soon_forgotten() -> None:
    """After a second of starting up and nine at 10 rows a second, the rate is their mean, not a slow climb."""
    meter = Meter(0.0)
    for tenth in range(1, 101):
        progress = meter.look(tenth / 10, completed=max(0, tenth - 10))
    assert 8.5 <= progress.rate <= 10


def test_what_is_not_known_is_not_told() -> None:
    """Without a total there is neither a percentage nor a time left; an empty run is done."""
    progress = Meter(0.0).look(1.0, completed=5)
    assert progress.percentage is None
    assert progress.eta is None
    assert Meter(0.0).look(1.0, completed=0, total=0).percentage == 100


@given(
    steps=st.lists(st.tuples(st.floats(0, 100), st.integers(0, 1000)), min_size=1, max_size=30),
    total=st.integers(0, 100),
)
def test_it_never_goes_beyond_the_end(steps: list[tuple[float, int]], total: int) -> None:
    """Whatever the looks, the percentage stays in 0..100, and rates and time left are not negative."""
    meter = Meter(0.0)
    now, completed = 0.0, 0
    for elapsed, rows in steps:
        now, completed = now + elapsed, completed + rows
        progress = meter.look(now, completed=completed, total=total)
        assert progress.percentage is not None
        assert 0 <= progress.percentage <= 100
        assert progress.rate >= 0
        assert progress.eta is None or progress.eta >= 0
