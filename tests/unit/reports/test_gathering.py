"""From a record to figures: whatever was recorded, sums hold, times stay within the run, and words fit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embatch.engine.telling import by_length, plain_tokens
from embatch.frontends.report import sums
from embatch.frontends.report.figures import Span
from embatch.frontends.report.gathering import gather
from embatch.frontends.report.terminal import lines
from embatch.frontends.report.timelines import MOST_BARS, merged, timeline
from embatch.seen import AskSeen, BatchSeen
from embatch.seen_lanes import (
    BlockSeen,
    CallSeen,
    DecisionSeen,
    FailureSeen,
    JobSeen,
    LaneSeen,
    OutlookSeen,
    PauseSeen,
    TunerSeen,
    WindowSeen,
)
from embatch.serving import Priority
from embatch.storage.run_archive import RunRecord

START = 1_800_000_000.0
moments = st.floats(0, 500).map(lambda seconds: START + seconds)
short = st.floats(0, 60)
counts = st.integers(0, 5000)
names = st.text(max_size=12)

batches = st.builds(
    BatchSeen,
    at=moments,
    seconds=short,
    stream=st.integers(0, 3),
    items=st.integers(1, 64),
    longest=st.integers(1, 512),
    tokens=st.integers(1, 4096),
    padded_tokens=st.integers(4096, 9000),
    budget=st.sampled_from([0, 512, 1024, 2048]),
    fresh=st.booleans(),
    error=st.sampled_from(["", "", "OutOfMemoryError"]),
)
calls = st.builds(
    CallSeen,
    at=moments,
    seconds=short,
    items=counts,
    done=counts,
    failed=counts,
    back=counts,
    tokens=counts,
    dollars=st.floats(0, 1),
    error=st.sampled_from(["", "rate_minute", "timeout"]),
    retry_after_s=st.none() | short,
)
stages = st.builds(
    JobSeen,
    at=moments,
    id=st.integers(-2, 4),
    stage=st.sampled_from(["attached", "submitted", "accepted", "refused", "seen", "ended"]),
    state=st.sampled_from(["", "running", "succeeded", "failed"]),
    items=counts,
    completed=st.none() | counts,
    done=counts,
)
others = st.one_of(
    st.builds(WindowSeen, at=moments, seconds=short, rows=counts, units=counts, tokens=counts, plain_tokens=counts,
              lengths=st.lists(st.integers(0, 50), max_size=10).map(tuple)),
    st.builds(BlockSeen, at=moments, seconds=short, rows=counts),
    st.builds(TunerSeen, at=moments, budget=counts, memory=st.floats(0, 1)),
    st.builds(FailureSeen, at=moments, row=counts, key=names, source=names, error=names, message=names),
    st.builds(LaneSeen, at=moments, run_id=names, strategy=names, items=counts, tokens=counts),
    st.builds(OutlookSeen, at=moments, strategy=names, call_items=counts, job_items=counts, seconds=short,
              seconds_p10=short, seconds_p90=short, dollars=st.none() | short, afforded=st.booleans()),
    st.builds(PauseSeen, at=moments, seconds=short, reason=names),
    st.builds(DecisionSeen, at=moments, text=names),
    st.builds(AskSeen, at=moments, seconds=short, waited_s=short, inputs=counts, tokens=counts,
              priority=st.sampled_from(list(Priority)), outcome=st.sampled_from(["answered", "refused"])),
)  # fmt: skip
events = st.lists(st.tuples(st.one_of(batches, calls, stages, others), st.integers(1, 64)), max_size=40)


def record_of(told: list[Any], **more: Any) -> RunRecord:
    """A record with these events; `more` replaces its parts."""
    head = {"kind": "embed", "start": START, "model": "m", "fields": {}}
    return RunRecord(**{"id": "abcd1234", "head": head, "events": tuple(told), **more})


@settings(max_examples=60, deadline=None)
@given(events, st.sampled_from(["done", "killed", "failed", "running"]))
def test_any_events_give_a_report(told: list[Any], state: str) -> None:
    """Whatever a record holds, the report's figures are finite, within the run, and fit a terminal."""
    figures = gather(record_of(told, state=state, foot={}))
    assert figures.seconds >= 0
    for span in figures.timeline.spans:
        assert 0 <= span.start <= span.end <= figures.seconds + 1e-6
        assert 0 <= span.row < len(figures.timeline.rows)
    for part in figures.time:
        assert part.seconds >= 0
        assert math.isfinite(part.seconds)
    assert all(len(line) <= 80 for line in lines(figures))


@settings(max_examples=60, deadline=None)
@given(events)
def test_totals_of_a_killed_run_are_those_of_its_events(told: list[Any]) -> None:
    """Without a report of its own, a run has done what its events add up to, those left out included."""
    found = sums.totals(told, {}, seconds=10.0, streams=0)
    good = [(seen, n) for seen, n in told if isinstance(seen, BatchSeen) and not seen.error]
    assert found.batches == sum(n for _, n in good)
    assert found.padded_tokens == sum(seen.padded_tokens * n for seen, n in good)
    assert found.failed == sum(n for seen, n in told if isinstance(seen, FailureSeen))
    assert 0.0 <= found.padding <= 1.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(batches, st.integers(1, 9)), min_size=1, max_size=30), st.integers(1, 50))
def test_bins_hold_all_there_was(told: list[Any], number: int) -> None:
    """However time is divided, items and tokens over all bins are those of the batches."""
    found = sums.bins(told, start=START, end=START + 600, number=number)
    good = [(seen, n) for seen, n in told if not seen.error]
    assert sum(one.tokens for one in found) == pytest.approx(sum(seen.tokens * n for seen, n in good))
    assert sum(one.items for one in found) == pytest.approx(sum(seen.items * n for seen, n in good))


@given(st.lists(st.tuples(batches, st.just(1)), max_size=60))
def test_shapes_count_each_batch_once(told: list[Any]) -> None:
    """Batches by length add up to all batches, and each lies within its step."""
    found = sums.shapes(told)
    good = [seen for seen, _ in told if not seen.error]
    assert sum(shape.batches for shape in found) == len(good)
    assert sum(shape.padded_tokens for shape in found) == sum(seen.padded_tokens for seen in good)
    assert all(0.0 <= shape.padding <= 1.0 for shape in found)


@given(st.lists(st.integers(1, 300), max_size=200))
def test_plain_batches_are_counted_from_the_lengths(lengths: list[int]) -> None:
    """The padded tokens of batches of 32 in the order given, and the counts by length, are what they say."""
    array = np.array(lengths, np.int32)
    chunks = [lengths[i : i + 32] for i in range(0, len(lengths), 32)]
    assert plain_tokens(array) == sum(max(chunk) * len(chunk) for chunk in chunks)
    counted = by_length(array)
    assert sum(counted) == len(lengths)
    for power, count in enumerate(counted):
        assert count == sum((1 << power) // 2 < length <= 1 << power for length in lengths)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), max_size=30))
def test_time_covered_is_counted_once(spans: list[tuple[float, float]]) -> None:
    """Spans that overlap count once: never more than the whole, never less than the longest."""
    ordered = [(min(pair), max(pair)) for pair in spans]
    total = sums.covered(ordered)
    assert total <= 100 + 1e-9
    assert total >= max((end - start for start, end in ordered), default=0.0) - 1e-9


@given(st.integers(0, 3000), st.integers(1, 500))
def test_merged_bars_keep_what_they_stand_for(number: int, most: int) -> None:
    """Bars that are put together are few, and lose neither items nor batches."""
    spans = [
        Span(row=0, start=float(i), end=i + 0.5, kind="batch", items=i, tokens=2 * i) for i in range(number)
    ]
    found = merged(spans, most)
    assert len(found) <= most
    assert sum(span.items for span in found) == sum(span.items for span in spans)
    assert sum(span.count for span in found) == number


def test_calls_that_overlap_lie_in_rows_of_their_own() -> None:
    """Two calls at once need two rows; a third after them fits in one of these; a refusal is seen as one."""
    told = [
        (
            CallSeen(
                at=START + at,
                seconds=2.0,
                items=1,
                done=1,
                failed=0,
                back=0,
                tokens=1,
                dollars=0.0,
                error=error,
            ),
            1,
        )
        for at, error in ((0.0, ""), (1.0, "rate_minute"), (3.5, ""))
    ]
    found = timeline(told, start=START, end=START + 6)
    assert found.rows == ("calls 1", "calls 2")
    assert [span.kind for span in found.spans] == ["call", "call", "refused"]
    assert len(found.spans) <= MOST_BARS


def test_a_job_that_never_ended_lasts_as_long_as_the_run() -> None:
    """A job under way when the run was killed is drawn until the end, and says so."""
    told = [
        (JobSeen(at=START + 1, id=1, stage="submitted", items=5), 1),
        (JobSeen(at=START + 2, id=1, stage="accepted", items=5), 1),
    ]
    found = timeline(told, start=START, end=START + 9)
    assert [(span.kind, span.start, span.end) for span in found.spans] == [
        ("queued", 1.0, 2.0),
        ("job", 2.0, 9.0),
    ]
    assert found.spans[-1].note == "under way"


def test_a_shared_rest_is_no_retry() -> None:
    """What follows a failed batch in halves is a retry; a rest that was shared among the streams is none."""

    def batch(at: float, items: int, *, fresh: bool, error: str = "", budget: int = 64) -> BatchSeen:
        return BatchSeen(
            at=at, seconds=0.1, stream=0, items=items, longest=8, tokens=8, padded_tokens=8, budget=budget,
            fresh=fresh, error=error,
        )  # fmt: skip

    told = [
        batch(0, 8, fresh=True, error="OutOfMemoryError"),
        batch(1, 4, fresh=False),
        batch(2, 4, fresh=False),
        batch(3, 1, fresh=False, budget=0),
        batch(4, 6, fresh=False),
    ]
    assert sums.retries(told) == [False, True, True, True, False]


def test_a_runs_own_report_comes_before_what_was_recorded() -> None:
    """Thinned events are a sample: where the run has counted itself, its count is told."""
    batch = BatchSeen(
        at=START, seconds=1.0, stream=0, items=8, longest=9, tokens=64, padded_tokens=72, budget=128
    )
    foot = {"report": {"items": 1000, "batches": 125, "tokens": 8000, "padded_tokens": 9000}, "state": "done"}
    figures = gather(record_of([(batch, 64)], foot=foot, state="done"))
    assert (figures.totals.items, figures.totals.batches) == (1000, 125)
    assert any("thinned" in note for note in figures.notes)


def test_a_run_without_padding_claims_no_saving() -> None:
    """A model that pads nothing has no alternative that computes more, and the report says so."""
    head = {"kind": "embed", "start": START, "cost": "packed"}
    figures = gather(record_of([], head=head, foot={"report": {"items": 1}}, state="done"))
    assert figures.alternatives == ()
    assert "pads nothing" in figures.alternatives_note


def test_planned_batches_are_held_against_plain_ones_by_their_tokens() -> None:
    """The other way takes as much longer as it would have computed more tokens, and is called an estimate."""
    window = WindowSeen(at=START, seconds=0.1, rows=9, units=9, tokens=900, plain_tokens=3000)
    report = {"items": 9, "tokens": 900, "padded_tokens": 1000, "device_seconds": 4.0, "seconds": 2.5}
    head = {"kind": "embed", "start": START, "streams": 2, "cost": "padded"}
    figures = gather(
        record_of([(window, 1)], head=head, foot={"report": report, "state": "done"}, state="done")
    )
    this, other = figures.alternatives
    assert (this.this, this.seconds, other.seconds) == (True, 2.0, 6.0)
    assert "estimate" in other.note
