"""BatchTuner: a prior by document length, learning per document type, memory, statistics, reset."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embatch.decisions.batch_tuner import BatchTuner
from embatch.errors import UsageError


@pytest.mark.parametrize(
    ("characters", "expected"),
    [(10_001, 10), (10_000, 20), (5_001, 20), (5_000, 50), (1_001, 50), (1_000, 100), (1, 100)],
)
def test_the_prior_goes_by_document_length(characters: int, expected: int) -> None:
    """Before anything is measured, longer documents mean fewer a call, however often it is asked."""
    tuner = BatchTuner()
    assert [tuner.suggest_batch_size(["x" * characters] * 3) for _ in range(4)] == [expected] * 4


def test_short_of_memory_means_half_but_never_below_the_smallest() -> None:
    """Over the threshold the suggestion is halved, unless the check is off."""
    tuner = BatchTuner(memory_percent=lambda: 90.0)
    assert tuner.suggest_batch_size(["x"]) == 50
    assert tuner.suggest_batch_size(["x"], memory_check=False) == 100
    assert BatchTuner(memory_percent=lambda: 90.0).suggest_batch_size(["x" * 20_000]) == 10


def test_no_documents_have_an_answer() -> None:
    """An empty list is answered with the current size."""
    assert BatchTuner(initial_size=40).suggest_batch_size([]) == 40


@given(
    low=st.integers(1, 50),
    span=st.integers(0, 500),
    lengths=st.lists(st.integers(0, 20_000), min_size=1, max_size=5),
    percent=st.floats(0, 100),
)
def test_suggestions_stay_within_the_bounds(low: int, span: int, lengths: list[int], percent: float) -> None:
    """Whatever the documents and the memory, suggestions lie between the smallest and the largest size."""
    tuner = BatchTuner(initial_size=low, min_size=low, max_size=low + span, memory_percent=lambda: percent)
    documents = ["x" * length for length in lengths]
    for _ in range(30):
        size = tuner.suggest_batch_size(documents)
        assert low <= size <= low + span
        tuner.record(batch_size=size, seconds=0.1, documents=documents)


def teach(tuner: BatchTuner, peak: int, kind: str, calls: int = 400) -> None:
    for _ in range(calls):
        size = tuner.suggest_batch_size(["x" * 100], document_type=kind)
        rate = 1000.0 * math.pow(0.85, abs(math.log2(size / peak)))
        tuner.record(batch_size=size, seconds=size / rate, characters=100 * size, document_type=kind)


def test_each_document_type_learns_its_own_size_over_the_whole_range() -> None:
    """Two kinds of documents settle near their own best sizes, above and below the prior."""
    tuner = BatchTuner()
    teach(tuner, 400, "notes")
    teach(tuner, 16, "contracts")
    profiles = tuner.get_statistics()["profiles"]
    assert 280 <= profiles["notes"]["best_size"] <= 500
    assert 11 <= profiles["contracts"]["best_size"] <= 23
    assert profiles["notes"]["settled"]
    assert profiles["notes"]["documents_per_s"] > 0


def test_what_did_not_fit_is_not_suggested_again() -> None:
    """After running out of memory at 100, later suggestions are smaller."""
    tuner = BatchTuner()
    tuner.record(batch_size=100, seconds=0.0, documents=["x"], out_of_memory=True)
    assert all(tuner.suggest_batch_size(["x"]) < 100 for _ in range(20))


def test_statistics_name_everything_promised() -> None:
    """The statistics have the documented keys, and averages without dividing by zero."""
    tuner = BatchTuner()
    empty = tuner.get_statistics()
    assert {
        "current_size",
        "min_size",
        "max_size",
        "avg_doc_size",
        "batches_tracked",
        "memory_threshold",
        "profiles",
    } <= empty.keys()
    assert empty["avg_doc_size"] == 0
    tuner.record(batch_size=2, seconds=1.0, documents=["ab", "abcd"])
    assert tuner.get_statistics()["avg_doc_size"] == 3
    assert tuner.get_statistics()["batches_tracked"] == 1


def test_history_is_bounded() -> None:
    """Only the last `history_size` calls are kept, all are counted."""
    tuner = BatchTuner(history_size=3)
    for _ in range(10):
        tuner.record(batch_size=10, seconds=1.0, characters=10)
    assert tuner.get_statistics()["profiles"]["default"]["batches"] == 3
    assert tuner.get_statistics()["batches_tracked"] == 10


def test_reset_forgets() -> None:
    """After reset the tuner is as new."""
    tuner = BatchTuner()
    teach(tuner, 400, "notes", calls=50)
    tuner.reset()
    assert tuner.get_statistics() == BatchTuner().get_statistics()


@pytest.mark.parametrize(
    "options",
    [
        {"min_size": 0},
        {"min_size": 50, "max_size": 40},
        {"initial_size": 5},
        {"memory_threshold": 0},
        {"memory_threshold": 120},
        {"history_size": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    """Each wrong setting is a UsageError."""
    with pytest.raises(UsageError):
        BatchTuner(**options)


def test_who_knows_the_device_may_say_where_to_begin() -> None:
    """`begin` replaces the prior of a kind that is new, within the bounds, and of no other."""
    tuner = BatchTuner()
    tuner.begin(3, document_type="notes")
    assert tuner.suggest_batch_size(["x"], document_type="notes") == 10
    tuner.begin(200, document_type="notes")
    assert tuner.suggest_batch_size(["x"], document_type="notes") == 10
    assert tuner.suggest_batch_size(["x"]) == 100


def test_a_call_that_followed_no_suggestion_is_counted_and_teaches_nothing() -> None:
    """Only what followed a suggestion is compared; all calls are in the statistics."""
    tuner = BatchTuner()
    size = tuner.suggest_batch_size(["x" * 100])
    for _ in range(50):
        tuner.record(batch_size=size // 3, suggested=0, seconds=1.0, documents=["x"])
    assert tuner.suggest_batch_size(["x" * 100]) == size
    assert tuner.get_statistics()["batches_tracked"] == 50
    tuner.record(batch_size=size // 3, suggested=size, seconds=1.0, documents=["x"])
    assert {tuner.suggest_batch_size(["x" * 100]) for _ in range(3)} != {size}
