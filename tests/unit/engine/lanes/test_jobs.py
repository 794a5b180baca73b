"""Jobs: what their results may look like, how they end, and what becomes of their texts."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.fake_provider import FakeProvider, facts, vector

from embatch.engine.lanes import requests
from embatch.engine.lanes.clock import Clock
from embatch.engine.lanes.spool import JobSpool
from embatch.errors import GoalError, ProviderError
from embatch.remote import ErrorKind, Goal, JobLimits, JobRow, JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tests.fake_provider import FakeJob
    from tests.unit.engine.lanes.conftest import OpenLanes

    from embatch.remote import JobRef, Work
    from embatch.types import FloatArray

    Spoil = Callable[[JobRow], list[JobRow]]

pytestmark = pytest.mark.timeout(60)


def texts(count: int) -> list[str]:
    return [f"text {n}" for n in range(count)]


def expected(some: Sequence[str]) -> FloatArray:
    return np.stack([vector(text) for text in some])


def error(kind: ErrorKind) -> ProviderError:
    return ProviderError(f"the row says {kind}", kind=kind)


class Once:
    """Spoils the first row it sees of a text, and no other."""

    def __init__(self, text: str, spoil: Spoil) -> None:
        self._vector = vector(text)
        self._spoil = spoil
        self.done = False

    def __call__(self, row: JobRow) -> list[JobRow]:
        if self.done or not np.array_equal(row.result, self._vector):  # type: ignore[arg-type]  # good rows are vectors
            return [row]
        self.done = True
        return self._spoil(row)


class Always(Once):
    """Spoils every row of a text."""

    def __call__(self, row: JobRow) -> list[JobRow]:
        self.done = False
        return super().__call__(row)


NEIGHBOUR = vector("text 8")
SPOILT: dict[str, Spoil] = {
    "missing": lambda _: [],
    "without key": lambda row: [row._replace(key=None)],
    "unknown key": lambda row: [row._replace(key="f" * 32)],
    "key of another kind": lambda row: [row._replace(key="row-7")],
    "key that looks like ours": lambda row: [row._replace(key="z" * 32)],
    "two values": lambda row: [row, row._replace(result=NEIGHBOUR)],
    "two values, three times": lambda row: [row, row._replace(result=NEIGHBOUR), row],
    "nan": lambda row: [row._replace(result=vector("x") * np.float32("nan"))],
    "zeros": lambda row: [row._replace(result=np.zeros(8, np.float32))],
    "wrong dimension": lambda row: [row._replace(result=np.ones(7, np.float32))],
    "no array": lambda row: [row._replace(result=ProviderError("null", kind=ErrorKind.PROTOCOL))],
    "transient": lambda row: [row._replace(result=error(ErrorKind.OVERLOADED))],
    "unknown key's error": lambda _: [JobRow("z" * 32, error(ErrorKind.BAD_INPUT))],
}
GOOD: dict[str, Spoil] = {
    "twice": lambda row: [row, row],
    "error first": lambda row: [row._replace(result=error(ErrorKind.OVERLOADED)), row],
    "error later": lambda row: [row, row._replace(result=error(ErrorKind.OVERLOADED))],
    "beside rubbish": lambda row: [JobRow("e" * 32, NEIGHBOUR), JobRow(None, NEIGHBOUR), row],
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_row_without_a_usable_vector_is_sent_again(lanes: OpenLanes, how: str) -> None:
    """A row that is missing, broken or doubtful costs its own text another job, and no other text anything."""
    spoil = Once("text 7", SPOILT[how])
    provider = FakeProvider(spoil=spoil)

    if how == "without key":  # then the results are fetched again: they must stay broken
        provider.while_downloading = lambda job, _: setattr(spoil, "done", not job.tag.endswith("-1"))
    result = lanes(provider, "batch").embed(texts(30))
    np.testing.assert_array_equal(result.vectors, expected(texts(30)))
    assert provider.billed() == dict.fromkeys(texts(30), 1) | {"text 7": 2}
    assert result.report.embedded == 30


@pytest.mark.parametrize("how", GOOD)
def test_a_row_beside_rubbish_is_good(lanes: OpenLanes, how: str) -> None:
    """A vector that comes twice, or beside an error or rows that nobody knows, is taken, and paid for once."""
    provider = FakeProvider(spoil=Once("text 7", GOOD[how]))
    result = lanes(provider, "batch").embed(texts(30))
    np.testing.assert_array_equal(result.vectors, expected(texts(30)))
    assert set(provider.billed().values()) == {1}


@pytest.mark.parametrize("kind", [ErrorKind.BAD_INPUT, ErrorKind.INPUT_TOO_LONG])
def test_a_refused_row_is_named(lanes: OpenLanes, kind: ErrorKind) -> None:
    """A row that is refused for what it is fails by name, at once."""
    spoil = Once("text 7", lambda row: [row._replace(result=error(kind))])
    provider = FakeProvider(spoil=spoil)
    result = lanes(provider, "batch").embed(texts(30), on_error="collect")
    assert [failure.row for failure in result.errors] == [7]
    assert str(kind) in str(result.errors[0].error)
    assert set(provider.billed().values()) == {1}
    assert (result.report.failed, result.report.embedded) == (1, 29)


@pytest.mark.parametrize("how", sorted(set(SPOILT) - {"without key"}))
def test_a_row_that_stays_bad_ends(lanes: OpenLanes, how: str) -> None:
    """A text that no job brings a vector for is called for in the end, or named: no run goes on for ever."""
    provider = FakeProvider(spoil=Always("text 7", SPOILT[how]))
    result = lanes(provider, "batch").embed(texts(30), on_error="collect")
    good = [row for row in range(30) if row != 7]
    np.testing.assert_array_equal(result.vectors[good], expected([f"text {row}" for row in good]))
    if result.errors:
        assert [failure.row for failure in result.errors] == [7]
    else:
        np.testing.assert_array_equal(result.vectors[7], vector("text 7"))
    assert provider.billed()["text 7"] <= 6
    assert all(count == 1 for text, count in provider.billed().items() if text != "text 7")


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.EXPIRED, JobState.CANCELLED])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_job_that_ends_badly_gives_what_it_has(lanes: OpenLanes, state: JobState, share: float) -> None:
    """Results of a job that failed, expired or was cancelled are used; only the rest is sent again."""
    provider = FakeProvider(end_state=state, without_results=not share)

    def spoil(row: JobRow) -> list[JobRow]:
        known = {job.rows[n][0] for job in provider.jobs.values() for n in range(int(len(job.rows) * share))}
        return [row] if row.key in known or len(provider.jobs) > 1 else []

    provider.spoil = spoil
    seen = [0]

    def before_poll(job: FakeJob) -> None:
        if not job.tag.endswith("-1"):
            provider.end_state, provider.without_results = JobState.SUCCEEDED, False
        seen[0] += 1

    provider.before_poll = before_poll
    result = lanes(provider, "batch").embed(texts(30))
    np.testing.assert_array_equal(result.vectors, expected(texts(30)))
    counts = provider.billed()
    assert [counts[text] for text in texts(30)] == [1 if n < 30 * share else 2 for n in range(30)]


def test_a_job_without_output_is_not_believed(lanes: OpenLanes) -> None:
    """A job that says it succeeded and has no rows counts for nothing; in the end calls do the work."""
    provider = FakeProvider(without_results=True)
    result = lanes(provider, "batch").embed(texts(30))
    np.testing.assert_array_equal(result.vectors, expected(texts(30)))
    assert 1 < len(provider.jobs) < 10
    assert provider.calls


def test_what_a_failed_job_says_is_told(lanes: OpenLanes) -> None:
    """If jobs fail because no credit is left, the run ends with the provider's own words."""
    credit = ProviderError("no credit left", kind=ErrorKind.QUOTA_MONEY)
    provider = FakeProvider(end_state=JobState.FAILED, without_results=True, end_error=credit)
    with pytest.raises(ProviderError, match="no credit left"):
        lanes(provider, "batch").embed(texts(30))
    assert len(provider.jobs) == 1


def test_the_files_of_a_job_are_deleted_once_its_results_are_kept(lanes: OpenLanes) -> None:
    """Files are cleaned up after the job was collected, for each job."""
    provider = FakeProvider(facts=facts(job=JobLimits(items=10)))
    embedder = lanes(provider, "batch")
    embedder.embed(texts(30))
    embedder.embed(texts(40))
    assert set(provider.cleaned) >= {"jobs/1", "jobs/2", "jobs/3"}


def test_a_job_holds_what_the_provider_takes(lanes: OpenLanes) -> None:
    """Jobs have at most the provider's number of items and bytes."""
    limits = JobLimits(items=40, bytes=30 * 450)
    provider = FakeProvider(facts=facts(job=limits))
    result = lanes(provider, "batch").embed(texts(100))
    np.testing.assert_array_equal(result.vectors, expected(texts(100)))
    assert max(len(job.rows) for job in provider.jobs.values()) <= 33
    assert set(provider.billed().values()) == {1}


# --- submitting ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ErrorKind.TOO_MANY_ITEMS, ErrorKind.TOO_MANY_TOKENS])
def test_a_job_that_is_too_large_is_made_smaller(lanes: OpenLanes, kind: ErrorKind) -> None:
    """A job refused for its size is never submitted again at that size."""
    refused: list[tuple[str, ...]] = []

    class Small(FakeProvider):
        def submit(self, items: Iterable[tuple[str, str]], work: Work, *, tag: str) -> JobRef:
            rows = list(items)
            if len(rows) > 30:
                refused.append(tuple(text for _, text in rows))
                raise ProviderError("too large", kind=kind)
            return super().submit(rows, work, tag=tag)

    provider = Small()
    result = lanes(provider, "batch").embed(texts(100))
    np.testing.assert_array_equal(result.vectors, expected(texts(100)))
    assert set(provider.billed().values()) == {1}
    assert len(refused) == len(set(refused)) <= 3


def test_a_full_queue_is_waited_for(lanes: OpenLanes) -> None:
    """While the queue of jobs is full, the job is deferred, not given up, and nothing is paid twice."""
    left = [5]

    def before_submit() -> None:
        if left[0]:
            left[0] -= 1
            raise ProviderError("enqueued tokens", kind=ErrorKind.ENQUEUED_FULL)

    provider = FakeProvider(before_submit=before_submit)
    result = lanes(provider, "batch").embed(texts(50))
    np.testing.assert_array_equal(result.vectors, expected(texts(50)))
    assert set(provider.billed().values()) == {1}
    assert not left[0]


def test_a_queue_that_is_always_full_does_not_hold_the_run(lanes: OpenLanes) -> None:
    """If no job is ever taken, the texts go by calls in the end."""

    def before_submit() -> None:
        raise ProviderError("enqueued tokens", kind=ErrorKind.ENQUEUED_FULL)

    provider = FakeProvider(before_submit=before_submit)
    result = lanes(provider, "batch", clock=None).embed(texts(50))
    np.testing.assert_array_equal(result.vectors, expected(texts(50)))
    assert not provider.jobs


@pytest.mark.parametrize("kind", [ErrorKind.AUTH, ErrorKind.QUOTA_MONEY])
def test_a_refused_key_ends_the_run(lanes: OpenLanes, kind: ErrorKind) -> None:
    """If jobs are refused for the key or for money, nothing else is tried."""

    def before_submit() -> None:
        raise ProviderError("not with this key", kind=kind)

    provider = FakeProvider(before_submit=before_submit)
    with pytest.raises(ProviderError, match="not with this key"):
        lanes(provider, "batch").embed(texts(50))
    assert not provider.billed()


@pytest.mark.parametrize("kind", [ErrorKind.TIMEOUT, ErrorKind.CONNECTION, ErrorKind.PROTOCOL, None])
def test_a_lost_reply_is_no_second_job(lanes: OpenLanes, kind: ErrorKind | None) -> None:
    """If the job was made and only the reply was lost, it is found by its tag and not submitted again."""
    left = [1]

    def after_submit() -> None:
        if left[0]:
            left[0] -= 1
            raise ZeroDivisionError if kind is None else ProviderError("lost", kind=kind)

    provider = FakeProvider(after_submit=after_submit)
    result = lanes(provider, "batch").embed(texts(50))
    np.testing.assert_array_equal(result.vectors, expected(texts(50)))
    assert len(provider.jobs) == 1


def test_a_lost_request_is_submitted_again(lanes: OpenLanes) -> None:
    """If the request itself was lost, so that no job has the tag, it is submitted again under another."""
    left = [2]

    def before_submit() -> None:
        if left[0]:
            left[0] -= 1
            raise ProviderError("lost", kind=ErrorKind.CONNECTION)

    provider = FakeProvider(before_submit=before_submit)
    result = lanes(provider, "batch").embed(texts(50))
    np.testing.assert_array_equal(result.vectors, expected(texts(50)))
    assert [job.tag[-1] for job in provider.jobs.values()] == ["3"]


@pytest.mark.parametrize("cause", [ConnectionRefusedError(), socket.gaierror(), None])
def test_a_job_that_nobody_took_holds_no_money(lanes: OpenLanes, cause: OSError | None) -> None:
    """A refused connection is neither looked for nor counted against the budget; a lost request is both."""
    left = [3]
    looked: list[int] = []

    def before_submit() -> None:
        if left[0]:
            left[0] -= 1
            raise ProviderError("no connection", kind=ErrorKind.CONNECTION) from cause

    provider = FakeProvider(before_submit=before_submit, before_find=lambda: looked.append(1))
    price = 50 * 2 * 1.0e-6
    embedder = lanes(provider, "batch", goal=Goal(budget=2.2 * price), clock=Clock(100))
    if cause is None:
        with pytest.raises(GoalError, match="budget"):
            embedder.embed(texts(50))
        assert looked
        return
    np.testing.assert_array_equal(embedder.embed(texts(50)).vectors, expected(texts(50)))
    assert not looked


@pytest.mark.parametrize("kind", [ErrorKind.CONNECTION, ErrorKind.OVERLOADED, ErrorKind.RATE_MINUTE])
def test_a_lost_reply_is_looked_for_until_somebody_answers(lanes: OpenLanes, kind: ErrorKind) -> None:
    """While the list of jobs cannot be had, nobody knows whether the job exists: it is not submitted again."""
    left, looks = [1], [6]

    def after_submit() -> None:
        if left[0]:
            left[0] -= 1
            raise ProviderError("lost", kind=ErrorKind.CONNECTION)

    def before_find() -> None:
        if looks[0]:
            looks[0] -= 1
            raise ProviderError("no list now", kind=kind)

    provider = FakeProvider(after_submit=after_submit, before_find=before_find)
    result = lanes(provider, "batch").embed(texts(50))
    np.testing.assert_array_equal(result.vectors, expected(texts(50)))
    assert len(provider.jobs) == 1


def test_a_job_that_may_exist_is_left_for_the_next_run(lanes: OpenLanes) -> None:
    """If nobody ever answers, the run ends, and the next one finds the job: it is paid for once."""

    def lost() -> None:
        raise ProviderError("lost", kind=ErrorKind.CONNECTION)

    provider = FakeProvider(after_submit=lost, before_find=lost)
    with pytest.raises(ProviderError, match="lost"):
        lanes(provider, "batch").embed(texts(50))
    provider.after_submit = provider.before_find = None
    result = lanes(provider, "batch").embed(texts(50))
    np.testing.assert_array_equal(result.vectors, expected(texts(50)))
    assert len(provider.jobs) == 1
    assert not provider.calls


def test_a_provider_without_a_list_of_jobs_is_submitted_to_again(lanes: OpenLanes) -> None:
    """Where jobs cannot be listed at all, a lost reply is a lost job: there is no better way."""
    left = [1]

    def before_submit() -> None:
        if left[0]:
            left[0] -= 1
            raise ProviderError("lost", kind=ErrorKind.CONNECTION)

    def before_find() -> None:
        raise ProviderError("no such method", kind=ErrorKind.NOT_FOUND)

    provider = FakeProvider(before_submit=before_submit, before_find=before_find)
    np.testing.assert_array_equal(lanes(provider, "batch").embed(texts(50)).vectors, expected(texts(50)))
    assert len(provider.jobs) == 1


# --- polling and fetching ------------------------------------------------------------------------------------------


def test_a_job_that_is_gone_is_submitted_again(lanes: OpenLanes) -> None:
    """A job that the provider does not know any more is given up after a few looks, not at the first."""
    asked = [0]

    def before_poll(job: FakeJob) -> None:
        if job.tag.endswith("-1"):
            asked[0] += 1
            raise ProviderError("no such job", kind=ErrorKind.NOT_FOUND)

    provider = FakeProvider(before_poll=before_poll)
    result = lanes(provider, "batch").embed(texts(50))
    np.testing.assert_array_equal(result.vectors, expected(texts(50)))
    assert asked[0] >= 3
    assert len(provider.jobs) == 2


def test_a_job_that_was_not_found_once_is_kept(lanes: OpenLanes) -> None:
    """Two looks in a row that do not find a job are a list that lags behind: it is not paid for again."""
    asked = [0]

    def before_poll(_: FakeJob) -> None:
        asked[0] += 1
        if asked[0] in {1, 2, 4, 5}:
            raise ProviderError("no such job", kind=ErrorKind.NOT_FOUND)

    provider = FakeProvider(before_poll=before_poll)
    lanes(provider, "batch").embed(texts(50))
    assert len(provider.jobs) == 1


@pytest.mark.parametrize("kind", [ErrorKind.CONNECTION, ErrorKind.OVERLOADED, ErrorKind.RATE_MINUTE, None])
def test_polls_that_fail_for_a_while_cost_nothing(lanes: OpenLanes, kind: ErrorKind | None) -> None:
    """A provider that cannot be asked for a while keeps its jobs: they are neither cancelled nor paid again."""
    asked = [0]

    def before_poll(_: FakeJob) -> None:
        asked[0] += 1
        if 1 < asked[0] < 12:
            raise ValueError("no JSON") if kind is None else ProviderError("not now", kind=kind)

    provider = FakeProvider(before_poll=before_poll, polls_until_done=14)
    result = lanes(provider, "batch").embed(texts(50))
    np.testing.assert_array_equal(result.vectors, expected(texts(50)))
    assert len(provider.jobs) == 1
    assert not provider.calls


def test_polls_that_are_refused_end_the_run_and_keep_the_job(lanes: OpenLanes) -> None:
    """If the key is refused while a job is under way, the run says so, and the next one takes the job's results."""

    def before_poll(_: FakeJob) -> None:
        raise ProviderError("this key is disabled", kind=ErrorKind.AUTH)

    provider = FakeProvider(before_poll=before_poll)
    with pytest.raises(ProviderError, match="disabled"):
        lanes(provider, "batch").embed(texts(50))
    provider.before_poll = None
    result = lanes(provider, "batch").embed(texts(50))
    np.testing.assert_array_equal(result.vectors, expected(texts(50)))
    assert len(provider.jobs) == 1


def test_results_that_come_too_late_are_let_go(lanes: OpenLanes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results that are still fetched when a refused key ends the run hold no file once they are there."""
    fetching, over, dropped = threading.Event(), threading.Event(), threading.Event()

    class WatchedSpool(JobSpool):
        def close(self) -> None:
            super().close()
            dropped.set()

    def before_poll(job: FakeJob) -> None:
        if job is provider.jobs["jobs/1"]:
            job.polls = provider.polls_until_done + 1
        elif fetching.is_set():
            raise ProviderError("this key is disabled", kind=ErrorKind.AUTH)

    def while_downloading(_: FakeJob, number: int) -> None:
        fetching.set()
        assert number or over.wait(30)

    monkeypatch.setattr(requests, "JobSpool", WatchedSpool)
    provider = FakeProvider(
        facts=facts(job=JobLimits(items=25)),
        before_poll=before_poll,
        while_downloading=while_downloading,
        polls_until_done=1_000_000,
    )
    with pytest.raises(ProviderError, match="disabled"):
        lanes(provider, "batch").embed(texts(50))
    assert not dropped.is_set()
    over.set()
    assert dropped.wait(30)


def test_a_job_that_never_ends_is_given_up_after_its_expiry(lanes: OpenLanes) -> None:
    """A job that neither ends nor says so is given up when the provider should have; its texts go on."""
    provider = FakeProvider(
        facts=facts(job=JobLimits(items=100, expires_s=300.0)), polls_until_done=1_000_000
    )

    def before_poll(job: FakeJob) -> None:
        if not job.tag.endswith("-1"):
            job.polls = provider.polls_until_done + 1

    provider.before_poll = before_poll
    result = lanes(provider, "batch").embed(texts(50))
    np.testing.assert_array_equal(result.vectors, expected(texts(50)))
    assert next(iter(provider.jobs.values())).cancelled


@pytest.mark.parametrize("kind", [ErrorKind.CONNECTION, ErrorKind.TIMEOUT, ErrorKind.PROTOCOL, None])
def test_results_that_break_off_are_fetched_again(lanes: OpenLanes, kind: ErrorKind | None) -> None:
    """A download that breaks half-way is begun anew, also across polls; no row of it is lost or taken twice."""

    def while_downloading(job: FakeJob, number: int) -> None:
        if job.downloads < 6 and number == 25:
            raise KeyError("cut") if kind is None else ProviderError("cut", kind=kind)

    provider = FakeProvider(while_downloading=while_downloading)
    result = lanes(provider, "batch").embed(texts(50))
    np.testing.assert_array_equal(result.vectors, expected(texts(50)))
    assert len(provider.jobs) == 1
    assert not provider.calls


def test_results_that_are_always_rubbish_are_given_up(lanes: OpenLanes) -> None:
    """If a job's results can never be read, its texts are sent again, and the run ends."""

    def while_downloading(job: FakeJob, number: int) -> None:
        if job.tag.endswith("-1") and number == 25:
            raise ProviderError("no JSON", kind=ErrorKind.PROTOCOL)

    provider = FakeProvider(while_downloading=while_downloading)
    result = lanes(provider, "batch").embed(texts(50))
    np.testing.assert_array_equal(result.vectors, expected(texts(50)))
    assert len(provider.jobs) == 2
