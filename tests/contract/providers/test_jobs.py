"""What every provider's jobs keep to: submitted, polled, collected by key, found again, cancelled, cleaned up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.contract.providers.conftest import WITH_JOBS, items, right, run, tag, work

from embatch.emulator import Fault
from embatch.errors import ProviderError
from embatch.remote import Generated, GenerateWork, JobRef, JobState

if TYPE_CHECKING:
    from tests.contract.providers.conftest import Place

    from embatch.remote import JobRow, Provider

pytestmark = pytest.mark.remote
each = pytest.mark.parametrize("place", WITH_JOBS, indirect=True)


@each
@pytest.mark.parametrize("dims", [None, 256])
def test_end_to_end(place: Place, dims: int | None) -> None:
    """Every key comes back once, in whatever order, with its text's own vector, finished like a call's."""
    asked = work(place, dimensions=dims)
    job = place.provider.submit(items(40), asked, tag=tag())
    view = place.provider.poll(job)
    assert not view.state.terminal
    assert list(place.provider.results(job)) == []
    place.finish_jobs()
    view = place.provider.poll(job)
    assert (view.state, view.total, view.completed, view.failed) == (JobState.SUCCEEDED, 40, 40, 0)
    rows = list(place.provider.results(job))
    assert sorted(row.key or "" for row in rows) == sorted(f"key-{i}" for i in range(40))
    for row in rows:
        assert isinstance(row.result, np.ndarray)
        assert row.key is not None
        assert row.tokens
        np.testing.assert_allclose(row.result, right(place, row.key, dims), atol=1e-6)


@each
def test_another_process_reads_the_same_rows(place: Place) -> None:
    """A job is found by its name alone: the object that started it need not be there any more."""
    job, rows = run(place, dimensions=256)
    again = list(place.open().results(JobRef(id=job.id)))
    by_key = {row.key: row.result for row in again}
    for row in rows:
        np.testing.assert_array_equal(by_key[row.key], row.result)


@each
def test_generation(place: Place) -> None:
    """Jobs generate, too."""
    asked = GenerateWork(model=place.generating_model, system="be brief", max_output_tokens=20)
    job = place.generating.submit(items(3), asked, tag=tag())
    place.finish_jobs()
    rows = list(place.generating.results(job))
    assert {row.key for row in rows} == {"key-0", "key-1", "key-2"}
    assert all(isinstance(row.result, Generated) and row.result.text for row in rows)


@each
def test_found_again_by_its_tag(place: Place) -> None:
    """Among many jobs, over pages of the list; nothing for a tag that nobody used."""
    first, second = tag(), tag()
    job = place.provider.submit(items(), work(place), tag=first)
    later = place.provider.submit(items(), work(place), tag=second)
    for _ in range(5):
        place.provider.submit(items(1), work(place), tag="embatch-filler")
    other = place.open()
    other.page_size = 2  # type: ignore[attr-defined]  # of the adapters
    before = place.emulator.requests["list_jobs"]
    assert other.find(first) == job
    assert place.emulator.requests["list_jobs"] > before + 2
    assert other.find(second) == later
    assert other.find(tag()) is None
    place.finish_jobs()


@each
def test_the_newest_of_several(place: Place) -> None:
    """The same tag twice: the later job."""
    mine = tag()
    place.provider.submit(items(), work(place), tag=mine)
    place.emulator.advance(10)
    later = place.provider.submit(items(), work(place), tag=mine)
    assert place.provider.find(mine) == later
    place.finish_jobs()


@each
def test_a_lost_reply_leaves_an_orphan_that_is_found(place: Place) -> None:
    """The job exists although submitting failed: the error says that it may, and the tag finds it."""
    mine = tag()
    place.emulator.fault(Fault(kind="create_lost", where="create_job"))
    with pytest.raises(ProviderError) as error:
        place.provider.submit(items(), work(place), tag=mine)
    assert error.value.kind.may_have_happened
    assert len(place.emulator.jobs(mine)) == 1
    job = place.provider.find(mine)
    assert job is not None
    assert job.input_file
    place.finish_jobs()
    assert len(list(place.provider.results(job))) == 5


@each
def test_cancelled(place: Place) -> None:
    """Asked to end, it ends; asking again, or after its end, is no error. Gemini says RUNNING until then."""
    job = place.provider.submit(items(), work(place), tag=tag())
    place.provider.cancel(job)
    assert place.provider.poll(job).state in {JobState.CANCELLING, JobState.CANCELLED, JobState.RUNNING}
    place.provider.cancel(job)
    place.finish_jobs()
    assert place.provider.poll(job).state is JobState.CANCELLED
    place.provider.cancel(job)
    done, _ = run(place)
    place.provider.cancel(done)
    assert place.provider.poll(done).state is JobState.SUCCEEDED


@each
def test_cleaned_up(place: Place) -> None:
    """Its files are gone, input and output; cleaning up twice, or after nothing, never raises."""
    job, _ = run(place)
    before = place.emulator.requests["delete_file"]
    place.provider.clean_up(job)
    assert place.emulator.requests["delete_file"] == before + 2
    with pytest.raises(ProviderError) as error:
        list(place.provider.results(job))
    assert error.value.kind == "not_found"
    place.provider.clean_up(job)
    place.provider.clean_up(JobRef(id="batches/none" if place.kind == "gemini" else "batch_none"))
    place.emulator.fault(Fault(kind="reset_before", times=4))
    place.provider.clean_up(job)


@each
def test_a_job_that_nobody_knows(place: Place) -> None:
    """NOT_FOUND, for every question."""
    job = JobRef(id="batches/none" if place.kind == "gemini" else "batch_none")
    for ask in (place.provider.poll, place.provider.cancel, lambda job: list(place.provider.results(job))):
        with pytest.raises(ProviderError) as error:
            ask(job)
        assert error.value.kind == "not_found"


@each
@pytest.mark.parametrize("fault", ["upload", "create_job"])
@pytest.mark.parametrize(
    ("name", "kind"),
    [("overloaded", "overloaded"), ("unauthenticated", "auth"), ("reset_before", "connection")],
)
def test_a_job_that_is_refused(place: Place, fault: Any, name: str, kind: str) -> None:
    """While uploading or creating: the kind is told, nothing is tried twice, and the uploaded file is deleted."""
    place.emulator.fault(Fault(kind=name, where=fault))
    mine, before = tag(), place.emulator.requests
    with pytest.raises(ProviderError) as error:
        place.provider.submit(items(), work(place), tag=mine)
    assert error.value.kind == kind
    assert place.emulator.jobs(mine) == []
    assert place.emulator.requests["create_job"] - before["create_job"] == (fault == "create_job")
    deleted = place.emulator.requests["delete_file"] - before["delete_file"]
    assert deleted == (fault == "create_job" and kind != "connection")


@each
@pytest.mark.parametrize("operation", ["poll_job", "download", "list_jobs", "cancel"])
@pytest.mark.parametrize(
    ("name", "kind"),
    [("rate_limit", "rate_minute"), ("bad_gateway", "overloaded"), ("reset_before", "connection")],
)
def test_questions_that_fail(place: Place, operation: Any, name: str, kind: str) -> None:
    """Polling, fetching, listing and cancelling fail with their kind, after one request; asked again, they work."""
    mine = tag()
    job = place.provider.submit(items(), work(place), tag=mine)
    ask: dict[str, Any] = {
        "poll_job": lambda: place.provider.poll(job),
        "download": lambda: list(place.provider.results(job)),
        "list_jobs": lambda: place.provider.find(mine),
        "cancel": lambda: place.provider.cancel(job),
    }
    if operation == "download":
        place.finish_jobs()
    before = place.emulator.requests[operation]
    place.emulator.fault(Fault(kind=name, where=operation))
    with pytest.raises(ProviderError) as error:
        ask[operation]()
    assert error.value.kind == kind
    assert place.emulator.requests[operation] == before + 1
    ask[operation]()
    place.finish_jobs()


@each
def test_results_that_break_off_on_the_way(place: Place) -> None:
    """No row is handed out of a download that was cut: it is fetched again as a whole."""
    job = place.provider.submit(items(50), work(place), tag=tag())
    place.finish_jobs()
    place.emulator.fault(Fault(kind="cut_body", where="download"))
    rows: list[JobRow] = []
    with pytest.raises(ProviderError) as error:
        rows.extend(place.provider.results(job))
    assert error.value.kind == "connection"
    assert rows == []
    assert len(list(place.provider.results(job))) == 50


@each
def test_cancelling_too_late(place: Place) -> None:
    """Cancelling was accepted, but the job completed: its rows are there."""
    job = place.provider.submit(items(), work(place), tag=tag())
    place.emulator.fault(Fault(kind="cancel_race"))
    place.provider.cancel(job)
    place.finish_jobs()
    assert place.provider.poll(job).state is JobState.SUCCEEDED
    assert len(list(place.provider.results(job))) == 5


@each
def test_a_file_that_is_too_large_is_not_uploaded(place: Place, tmp_path: Any) -> None:
    """The items are to be split."""
    facts = tmp_path / "facts.toml"
    facts.write_text(f'[models."{place.kind}:{place.model}".job]\nbytes = 1000', encoding="utf-8")
    before = place.emulator.requests["upload"]
    with pytest.raises(ProviderError) as error:
        place.open(facts_file=facts).submit(items(20), work(place), tag=tag())
    assert error.value.kind == "too_many_tokens"
    assert place.emulator.requests["upload"] == before


@each
def test_the_input_is_read_once_and_streamed(place: Place) -> None:
    """A generator will do; nothing is asked of it twice."""
    asked = iter(items(3))
    place.provider.submit(asked, work(place), tag=tag())
    assert next(asked, None) is None
    place.finish_jobs()


@pytest.mark.parametrize("place", ["compatible"], indirect=True)
def test_compatible_servers_have_no_jobs(place: Place) -> None:
    """Whoever asks is told how to do without."""
    provider: Provider = place.provider
    assert provider.facts.job is None
    job = JobRef(id="batch_1")
    for ask in (
        lambda: provider.submit(items(), work(place), tag="t"),
        lambda: provider.poll(job),
        lambda: list(provider.results(job)),
        lambda: provider.cancel(job),
        lambda: provider.find("t"),
    ):
        with pytest.raises(ProviderError) as error:
            ask()
        assert "individual" in error.value.hint
