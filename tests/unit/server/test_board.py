"""What the board adds up, and the histograms under it."""

from __future__ import annotations

import json
import math
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embatch.frontends.server.board import KEPT_BATCHES, Board
from embatch.frontends.server.tallies import (
    COUNTS,
    SECONDS,
    Tally,
    bucket_of,
    cumulative,
    cumulative_seconds,
    percentile,
    summed,
)
from embatch.seen import AskSeen, BatchSeen
from embatch.serving import Priority

pytestmark = pytest.mark.serve


def ask(**changes: Any) -> AskSeen:
    fields: dict[str, Any] = {
        "at": 100.0,
        "seconds": 0.020,
        "waited_s": 0.005,
        "inputs": 2,
        "tokens": 10,
        "priority": Priority.INTERACTIVE,
        "outcome": "answered",
    }
    return AskSeen(**{**fields, **changes})


def batch(**changes: Any) -> BatchSeen:
    fields: dict[str, Any] = {
        "at": 100.0,
        "seconds": 0.010,
        "stream": 0,
        "items": 4,
        "longest": 10,
        "tokens": 30,
        "padded_tokens": 40,
        "budget": 1024,
    }
    return BatchSeen(**{**fields, **changes})


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.floats(1e-4, 120.0), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99]))
def test_percentiles_are_right_within_a_bucket(times: list[float], share: float) -> None:
    """A percentile lies within 4.5 % of the time that sorting finds."""
    buckets: dict[int, int] = {}
    for seconds in times:
        buckets[bucket_of(seconds)] = buckets.get(bucket_of(seconds), 0) + 1
    found = percentile(buckets, share)
    right = sorted(times)[math.ceil(share * len(times)) - 1]
    assert found is not None
    assert found == pytest.approx(right, rel=0.045)


@given(st.lists(st.floats(0.0, 1000.0), max_size=100))
def test_prometheus_gets_the_true_counts(times: list[float]) -> None:
    """Each border's count is that of the times up to it: borders of both histograms are the same."""
    near = [s for s in times if all(abs(s - border) > border * 1e-9 for border in SECONDS)]
    buckets: dict[int, int] = {}
    for seconds in near:
        buckets[bucket_of(seconds)] = buckets.get(bucket_of(seconds), 0) + 1
    wanted = [sum(s <= border for s in near) for border in SECONDS]
    assert cumulative_seconds(buckets) == [*wanted, len(near)]


@given(st.lists(st.integers(1, 3_000_000), max_size=50))
def test_sizes_of_batches_are_counted_truly(sizes: list[int]) -> None:
    """So is each border's count of batches."""
    tally = Tally()
    for size in sizes:
        tally.add_batch(batch(items=size))
    wanted = [sum(size <= border for size in sizes) for border in COUNTS]
    assert cumulative(tally.batch_items, len(COUNTS)) == [*wanted, len(sizes)]


def test_a_sum_of_tallies_is_a_tally_of_all() -> None:
    """Adding up seconds gives what one count over all of them gives."""
    one, two, both = Tally(), Tally(), Tally()
    for tally in (one, both):
        tally.add_ask(ask(outcome="failed", error="BackendError"))
        tally.add_batch(batch(error="OutOfMemoryError"))
    for tally in (two, both):
        tally.add_ask(ask())
        tally.add_batch(batch())
    total = summed([one, two])
    assert total.to_dict() == both.to_dict()
    assert total.rates(1.0) == both.rates(1.0)
    assert one.to_dict()["asks"] == {"failed": 1}


def test_figures_of_the_last_minute_forget_what_is_older() -> None:
    """Recent figures hold 60 seconds; totals hold everything."""
    clock = Clock()
    board = Board(clock=clock)
    board.see(ask(seconds=5.0))
    clock.now += 100
    for _ in range(60):
        board.see(ask())
    got = board.snapshot()
    assert got["totals"]["asks"] == {"answered": 61}
    assert got["recent"]["asks"] == {"answered": 60}
    assert got["recent"]["asks_per_s"] == pytest.approx(1.0)
    assert got["recent"]["latency_s"]["p99"] == pytest.approx(0.020, rel=0.045)
    assert got["recent"]["latency_s"]["mean"] == pytest.approx(0.020)
    assert got["recent"]["wait_s"]["p50"] == pytest.approx(0.005, rel=0.045)


def test_refused_asks_count_but_are_no_latency() -> None:
    """A refusal is quick: it must not make the latency look better."""
    board = Board(clock=Clock())
    board.see(ask(outcome="refused", seconds=0.0001, error="OverloadedError"))
    got = board.snapshot()
    assert got["totals"]["asks"] == {"refused": 1}
    assert got["totals"]["errors"] == {"OverloadedError": 1}
    assert got["totals"]["inputs"] == 0
    assert got["recent"]["latency_s"]["p50"] is None


def test_models_and_priorities_are_told_apart() -> None:
    """Each has its figures; a batch of several priorities counts for its model only."""
    board = Board(clock=Clock())
    board.named("a").see(ask())
    board.named("b").see(ask(priority=Priority.BATCH, inputs=7))
    board.named("b").see(batch())
    got = board.snapshot()
    assert got["models"]["a"]["totals"]["inputs"] == 2
    assert got["models"]["b"]["totals"]["inputs"] == 7
    assert got["models"]["b"]["recent"]["padding"] == pytest.approx(0.25)
    assert got["priorities"]["batch"]["totals"]["inputs"] == 7
    assert set(got["priorities"]) == {"interactive", "batch"}


def test_seconds_and_batches_are_kept_for_a_while_and_told_once() -> None:
    """Five minutes of seconds, 500 batches; `since` leaves out what a dashboard has already."""
    clock = Clock()
    board = Board(clock=clock)
    for second in range(400):
        clock.now = 1000.5 + second
        board.see(ask())
        for part in range(2):
            board.see(batch(at=clock.now + part / 10, items=second + 1))
    got = board.snapshot()
    assert len(got["seconds"]) == 299  # the running one is not whole
    assert got["seconds"][-1] == {
        "at": 1398,
        "asks": {"answered": 1},
        "inputs": 2,
        "tokens": 10,
        "items": 2 * 399,
        "batches": 2,
        "real_tokens": 60,
        "padded_tokens": 80,
        "device_seconds": 0.02,
        "p50": got["seconds"][-1]["p50"],
        "p99": got["seconds"][-1]["p50"],
    }
    assert len(got["batches"]) == KEPT_BATCHES
    assert got["batches"][-1]["items"] == 400
    later = board.snapshot(since=1397.0)
    assert [each["at"] for each in later["seconds"]] == [1397, 1398]
    assert [each["items"] for each in later["batches"]] == [398, 398, 399, 399, 400, 400]


def test_a_snapshot_goes_into_json() -> None:
    """The dashboard sends it as it is."""
    board = Board(clock=Clock())
    board.see(ask(priority=Priority.BATCH), "m")
    board.see(batch(priority=Priority.BATCH), "m")
    got = json.loads(json.dumps(board.snapshot()))
    assert got["batches"][0]["priority"] == "batch"
    assert got["batches"][0]["model"] == "m"


def test_many_threads_lose_no_count() -> None:
    """Streams, the loop and whoever looks do so at the same time."""
    board = Board()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            board.snapshot()
            board.totals()

    def tell() -> None:
        for _ in range(500):
            board.see(ask())
            board.see(batch())

    tellers = [threading.Thread(target=tell) for _ in range(4)]
    looker = threading.Thread(target=look)
    for thread in (looker, *tellers):
        thread.start()
    for thread in tellers:
        thread.join()
    stop.set()
    looker.join()
    totals = board.snapshot()["totals"]
    assert (totals["asks"]["answered"], totals["batches"]) == (2000, 2000)


def test_what_it_does_not_know_is_left_alone() -> None:
    """Other kinds of events are no error."""
    board = Board()
    board.see(object())  # type: ignore[arg-type]  # a kind of a later version
    assert board.snapshot()["totals"]["asks"] == {}
