"""Files and jobs on disk: whole or not at all, in pages without gaps, and states that change only as they may."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import pairwise, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.served import no_more_than

from embatch.errors import (
    DiskFullError,
    OutputBusyError,
    OutputMismatchError,
    OutputNotWritableError,
)
from embatch.storage.served import ServedFolder
from embatch.storage.served_files import ServedFiles
from embatch.storage.served_jobs import STATUSES, Done, ServedJob, ServedJobs
from embatch.storage.served_output import JobOutput, publish

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = 1000.0


@contextmanager
def opened(path: Path) -> Iterator[tuple[ServedFolder, ServedFiles, ServedJobs]]:
    folder = ServedFolder.open(path)
    try:
        yield folder, ServedFiles(folder), ServedJobs(folder)
    finally:
        folder.close()


def keep(files: ServedFiles, data: bytes, owner: str = "", expires: float | None = None) -> str:
    with files.upload() as upload:
        upload.write(data)
        return upload.keep(owner=owner, purpose="batch", name="a", created=NOW, expires=expires).id


def create(jobs: ServedJobs, owner: str = "", input_file: str = "file-x") -> ServedJob:
    return jobs.create(
        owner=owner,
        endpoint="/v1/embeddings",
        input_file=input_file,
        metadata={"a": "b"},
        output_expires_s=None,
        created=NOW,
        expires=NOW + 10,
    )


def now(jobs: ServedJobs, job: ServedJob) -> ServedJob:
    found = jobs.find(job.id)
    assert found is not None
    return found


# --- files -----------------------------------------------------------------------------------------------------------


def test_uploads(tmp_path: Path) -> None:
    """A kept upload is a file with its content, also after the folder was closed; one that was dropped is nothing."""
    with opened(tmp_path) as (folder, files, _):
        name = keep(files, b"content")
        with files.upload() as upload:
            upload.write(b"lost")
        assert [path.name for path in (tmp_path / "parts").iterdir()] == []
        assert folder.file(name).read_bytes() == b"content"
    with opened(tmp_path) as (_, files, _):
        file = files.get(name, "", NOW)
        assert file is not None
        assert file.bytes == 7
        files.delete(name)
        assert files.get(name, "", NOW) is None
        assert list((tmp_path / "files").iterdir()) == []


def test_full_disk(tmp_path: Path) -> None:
    """An upload that does not fit on the disk is a named error, and leaves nothing behind."""
    with opened(tmp_path) as (_, files, _), no_more_than(1 << 20):
        with files.upload() as upload, pytest.raises(DiskFullError):
            upload.write(b"x" * (2 << 20))
        assert list((tmp_path / "parts").iterdir()) == []
        assert files.names() == []


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A folder that cannot be made is a named error."""
    (tmp_path / "file").touch()
    with pytest.raises(OutputNotWritableError):
        ServedFolder.open(tmp_path / "file" / "state")


def test_one_server_a_folder(tmp_path: Path) -> None:
    """A folder belongs to one server at a time."""
    with opened(tmp_path), pytest.raises(OutputBusyError):
        ServedFolder.open(tmp_path)
    with opened(tmp_path):
        pass


def test_files_of_others(tmp_path: Path) -> None:
    """A file is its owner's alone."""
    with opened(tmp_path) as (_, files, _):
        name = keep(files, b"x", owner="ann")
        assert files.get(name, "bob", NOW) is None
        assert files.page("bob", NOW, limit=9) == []
        assert files.page("bob", NOW, limit=9, after=name) is None
        assert [file.id for file in files.page("ann", NOW, limit=9) or []] == [name]


def test_expiry(tmp_path: Path) -> None:
    """A file that has expired is not seen any more and is deleted, unless a job still reads it."""
    with opened(tmp_path) as (_, files, jobs):
        old, used, young = (keep(files, b"x", expires=NOW + days) for days in (1, 1, 9))
        create(jobs, input_file=used)
        assert files.get(old, "", NOW + 1) is None
        assert files.expire(NOW + 1) == 1
        assert set(files.names()) == {used, young}


def test_sweeping(tmp_path: Path) -> None:
    """What a killed server left half done is swept away; what belongs to somebody stays."""
    with opened(tmp_path) as (folder, files, _):
        name = keep(files, b"x")
        folder.file("stray").touch()
        folder.part("stray").touch()
        folder.part("kept").touch()
        (tmp_path / "runs" / "stray" / "deep").mkdir(parents=True)
        folder.sweep(files=files.names(), parts=["kept"], runs=[])
        left = [path.name for kind in ("files", "parts", "runs") for path in (tmp_path / kind).iterdir()]
        assert left == [name, "kept"]


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.sampled_from(["ann", "bob"]), max_size=12), st.integers(1, 5), st.booleans(), st.booleans()
)
def test_pages(owners: list[str], limit: int, newest_first: bool, of_jobs: bool) -> None:
    """Page after page, each entry comes once and in order, though somebody adds to the list meanwhile."""
    with TemporaryDirectory() as path, opened(Path(path)) as (_, files, jobs):
        mine = []
        for owner in owners:
            name = create(jobs, owner).id if of_jobs else keep(files, b"x", owner)
            mine += [name] if owner == "ann" else []
        newest_first = newest_first or of_jobs
        seen: list[str] = []
        after = None
        while True:
            if of_jobs:
                part = [job.id for job in jobs.page("ann", limit=limit, after=after) or []]
                create(jobs, "ann")
            else:
                page = files.page("ann", NOW, limit=limit, after=after, newest_first=newest_first)
                part = [file.id for file in page or []]
            if not part:
                break
            assert len(part) <= limit
            seen += part
            after = part[-1]
        assert seen == (mine[::-1] if newest_first else mine)


# --- states ----------------------------------------------------------------------------------------------------------

MOVES = {
    "begin": {"validating": "in_progress"},
    "reject": {"validating": "failed"},
    "cancel": dict.fromkeys(("validating", "in_progress", "finalizing"), "cancelling"),
    "finalize": dict.fromkeys(("validating", "in_progress"), "finalizing"),
    "end": {"finalizing": "completed", "cancelling": "cancelled"},
}


def move(jobs: ServedJobs, job: ServedJob, how: str) -> bool:
    if how == "begin":
        return jobs.begin(job.id, total=5, model="m", now=NOW)
    if how == "reject":
        return jobs.reject(job.id, [{"code": "x"}], NOW)
    if how == "cancel":
        return jobs.cancel(job.id, NOW)
    if how == "finalize":
        return jobs.finalize(job.id, "completed", NOW)
    return jobs.end(job.id, [], NOW)


def test_states(tmp_path: Path) -> None:
    """A job changes its state only as it may: of two changes that come at once one wins, and the other is told."""
    with opened(tmp_path) as (_, _, jobs):
        for ways in product(MOVES, repeat=3):
            job = create(jobs)
            status = "validating"
            for how in ways:
                allowed = status in MOVES[how]
                assert move(jobs, job, how) is allowed
                status = MOVES[how].get(status, status)
                assert now(jobs, job).status == status
            found = now(jobs, job)
            assert (found.ended is not None) == (status in {"completed", "failed", "cancelled"})
            assert (found.id in {each.id for each in jobs.under_way()}) == (found.ended is None)


def test_counts(tmp_path: Path) -> None:
    """Jobs are counted by status, with zeros."""
    with opened(tmp_path) as (_, _, jobs):
        create(jobs)
        jobs.cancel(create(jobs).id, NOW)
        assert jobs.counts() == {**dict.fromkeys(STATUSES, 0), "validating": 1, "cancelling": 1}


def test_who_reads_a_file(tmp_path: Path) -> None:
    """A file is in use as long as a job that reads it is under way."""
    with opened(tmp_path) as (_, _, jobs):
        job = create(jobs, input_file="file-1")
        assert jobs.user_of("file-1") == job.id
        jobs.reject(job.id, [], NOW)
        assert jobs.user_of("file-1") is None


# --- outputs ---------------------------------------------------------------------------------------------------------


def test_what_was_not_synced_is_cut_away(tmp_path: Path) -> None:
    """After a kill the outputs have exactly what was noted, and go on from there."""
    with opened(tmp_path) as (folder, _, jobs):
        job = create(jobs)
        jobs.begin(job.id, total=3, model="m", now=NOW)
        output = JobOutput(folder, jobs, job)
        output.append(b"one\n", b"bad\n", upto=10, lines=2, completed=1, failed=1, tokens=5)
        output.sync()
        output.append(b"two\n", b"", upto=20, lines=1, completed=1)
        output.close()  # as a kill would leave it, but for what was buffered
        noted = now(jobs, job)
        assert noted.done == Done(10, 2, 1, 1, 5, 4, 4)
        with JobOutput(folder, jobs, noted) as again:
            again.append(b"TWO\n", b"", upto=20, lines=1, completed=1)
            done = again.sync()
        job = now(jobs, job)
        assert job.done == done
        jobs.finalize(job.id, "completed", NOW)
        for _ in range(2):  # a kill may come after the renaming
            files = publish(folder, job, done, now=NOW, expires=None)
        assert jobs.end(job.id, files, NOW)
        assert folder.file(job.output_file).read_bytes() == b"one\nTWO\n"
        assert folder.file(job.error_file).read_bytes() == b"bad\n"
        assert not jobs.end(job.id, files, NOW)


def test_outputs_that_are_gone(tmp_path: Path) -> None:
    """If less is there than was noted, that is said, so that the job starts over."""
    with opened(tmp_path) as (folder, _, jobs):
        job = create(jobs)
        jobs.begin(job.id, total=1, model="m", now=NOW)
        with JobOutput(folder, jobs, job) as output:
            output.append(b"one\n", b"", upto=10, lines=1, completed=1)
            done = output.sync()
        folder.part(job.part_names[0]).unlink()
        with pytest.raises(OutputMismatchError):
            JobOutput(folder, jobs, now(jobs, job))
        with pytest.raises(OutputMismatchError):
            publish(folder, now(jobs, job), done, now=NOW, expires=None)
        jobs.start_over(job.id)
        assert now(jobs, job).done == Done()


def test_no_empty_files(tmp_path: Path) -> None:
    """An output without a line is no file."""
    with opened(tmp_path) as (folder, _, jobs):
        job = create(jobs)
        with JobOutput(folder, jobs, job) as output:
            output.append(b"", b"bad\n", upto=10, lines=1, failed=1)
            done = output.sync()
        files = publish(folder, job, done, now=NOW, expires=None)
        assert [file.id for file in files] == [job.error_file]
        assert list((tmp_path / "parts").iterdir()) == []


def test_disk_that_is_full_during_a_job(tmp_path: Path) -> None:
    """What was noted before the disk was full still counts, and nothing else does."""
    with opened(tmp_path) as (folder, _, jobs):
        job = create(jobs)
        with JobOutput(folder, jobs, job) as output:
            for place in range(3):
                output.append(b"x" * 1000, b"", upto=place + 1, lines=1, completed=1)
            before = output.sync()
            with no_more_than(1 << 20), pytest.raises(DiskFullError):
                output.append(b"y" * (3 << 20), b"", upto=9, lines=1, completed=1)
        assert now(jobs, job).done == before
        with JobOutput(folder, jobs, now(jobs, job)) as output:
            assert output.done == before
        assert folder.part(job.part_names[0]).read_bytes() == b"x" * 3000


def test_times_of_a_way(tmp_path: Path) -> None:
    """Each change of state leaves its time."""
    with opened(tmp_path) as (_, _, jobs):
        job = create(jobs)
        jobs.begin(job.id, total=1, model="m", now=NOW + 1)
        jobs.finalize(job.id, "completed", NOW + 2)
        jobs.cancel(job.id, NOW + 3)
        jobs.end(job.id, [], NOW + 4)
        found = now(jobs, job)
        times = [found.created, found.begun, found.finalizing, found.cancelling, found.ended]
        assert all(later is not None and earlier is not None for earlier, later in pairwise(times))
        assert times == [NOW, NOW + 1, NOW + 2, NOW + 3, NOW + 4]
        assert found.status == "cancelled"
        assert found.metadata == {"a": "b"}
