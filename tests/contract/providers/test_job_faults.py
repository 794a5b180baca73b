"""Jobs that go wrong, in all the ways that were seen: each row and each job says what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.contract.providers.conftest import WITH_JOBS, items, right, run, tag, work

from embatch.emulator import Fault
from embatch.errors import ProviderError
from embatch.remote import JobState

if TYPE_CHECKING:
    from tests.contract.providers.conftest import Place

pytestmark = pytest.mark.remote
each = pytest.mark.parametrize("place", WITH_JOBS, indirect=True)


@each
def test_the_queue_is_full(place: Place) -> None:
    """At once or only after the job was created: deferred, not failed."""
    place.emulator.fault(Fault(kind="enqueued_full"))
    with pytest.raises(ProviderError) as error:
        place.provider.submit(items(), work(place), tag=tag())
    assert error.value.kind == "enqueued_full"
    job, rows = run(place, "enqueued_late")
    view = place.provider.poll(job)
    assert view.state is JobState.FAILED
    assert view.error is not None
    assert view.error.kind == "enqueued_full"
    assert rows == []


@each
def test_a_job_that_fails_says_why(place: Place) -> None:
    """The reason reaches the user, which Gemini's SDK would drop."""
    job, rows = run(place, "job_fails")
    view = place.provider.poll(job)
    assert view.state is JobState.FAILED
    assert view.error is not None
    assert len(str(view.error)) > 40
    assert rows == []


@each
def test_all_rows_bad(place: Place) -> None:
    """A job that succeeded without a single good row: five errors, each with its key."""
    job, rows = run(place, "all_rows_bad")
    assert place.provider.poll(job).state is JobState.SUCCEEDED
    assert {row.key for row in rows} == {f"key-{i}" for i in range(5)}
    assert all(isinstance(row.result, ProviderError) for row in rows)


@each
def test_no_output_at_all(place: Place) -> None:
    """A job that succeeded with nothing to fetch."""
    job, rows = run(place, "no_output")
    assert place.provider.poll(job).state is JobState.SUCCEEDED
    assert rows == []


@each
@pytest.mark.parametrize("name", ["row_nan", "row_dimension"])
def test_a_broken_row(place: Place, name: str) -> None:
    """NaN or a number too few: an error of that row only. Of size, the object that knows the work can judge."""
    _, rows = run(place, name, count=8)
    broken = [row for row in rows if isinstance(row.result, ProviderError)]
    assert len(rows) == 8
    assert len(broken) == 1
    assert isinstance(broken[0].result, ProviderError)
    assert broken[0].result.kind == "protocol"


@each
def test_some_rows_fail(place: Place) -> None:
    """Rows that met an overloaded model can be sent again, and say so."""
    _, rows = run(place, "row_transient", count=40)
    assert len(rows) == 40
    failed = [row.result for row in rows if isinstance(row.result, ProviderError)]
    assert failed
    assert all(error.kind == "overloaded" for error in failed)


@each
def test_missing_and_doubled_rows_are_handed_out_as_they_are(place: Place) -> None:
    """The engine counts: nothing is invented and nothing hidden."""
    _, rows = run(place, "rows_missing", count=40)
    assert 0 < len(rows) < 40
    _, rows = run(place, "duplicate_keys", count=40)
    keys = [row.key for row in rows]
    assert len(keys) == 40
    assert len(set(keys)) == 39


@each
def test_rows_without_keys(place: Place) -> None:
    """They cannot be joined, and are not guessed from their place."""
    _, rows = run(place, "null_keys")
    assert [row.key for row in rows] == [None] * 5


@each
def test_a_file_that_ends_in_the_middle_of_a_line(place: Place) -> None:
    """Whole lines count, the broken one is an error without a key."""
    _, rows = run(place, "truncated_jsonl", count=20)
    assert rows[-1].key is None
    assert isinstance(rows[-1].result, ProviderError)
    assert rows[-1].result.kind == "protocol"
    for row in rows[:-1]:
        assert row.key is not None
        np.testing.assert_allclose(row.result, right(place, row.key), atol=1e-6)  # type: ignore[arg-type]  # a vector, not an error


@each
def test_expired(place: Place) -> None:
    """OpenAI keeps what was done, and the rest are errors that may be sent again; Gemini keeps nothing."""
    place.emulator.fault(Fault(kind="job_expires", where="create_job"))
    job = place.provider.submit(items(20), work(place), tag=tag())
    place.emulator.advance(4 * 86_400)
    assert place.provider.poll(job).state is JobState.EXPIRED
    rows = list(place.provider.results(job))
    good = [row for row in rows if isinstance(row.result, np.ndarray)]
    facts = place.provider.facts
    assert facts.job is not None
    assert bool(good) is facts.job.partial
    for row in rows:
        if isinstance(row.result, ProviderError):
            assert row.result.kind.waits


@pytest.mark.parametrize("place", ["gemini"], indirect=True)
@pytest.mark.parametrize(
    ("name", "state", "count"),
    [
        ("stale_running", JobState.SUCCEEDED, 5),
        ("stale_succeeded", JobState.FAILED, 0),
        ("state_on_top", JobState.SUCCEEDED, 5),
    ],
)
def test_operations_that_contradict_themselves(place: Place, name: str, state: JobState, count: int) -> None:
    """`done` and `error` beat a state that lags behind, wherever it stands."""
    job, rows = run(place, name)
    view = place.provider.poll(job)
    assert view.state is state
    assert (view.error is not None) is (state is JobState.FAILED)
    assert len(rows) == count


@pytest.mark.parametrize("place", ["gemini"], indirect=True)
def test_details_of_errors_may_be_objects(place: Place) -> None:
    """The SDK could not read the job at all."""
    place.emulator.fault(Fault(kind="error_details", where="create_job"))
    place.emulator.fault(Fault(kind="all_rows_bad", where="create_job"))
    job = place.provider.submit(items(), work(place), tag=tag())
    place.finish_jobs()
    rows = list(place.provider.results(job))
    assert len(rows) == 5
    assert all(isinstance(row.result, ProviderError) for row in rows)
