"""Opening a ledger: what an interrupted run left, and everything that can be in the way."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from embatch.errors import (
    OutputBusyError,
    OutputMismatchError,
    OutputNotWritableError,
    TooLongError,
)
from embatch.remote import JobRef
from embatch.storage.ledger import Ledger

if TYPE_CHECKING:
    from pathlib import Path

HOLD = """
import sys
from pathlib import Path
from embatch.storage.ledger import Ledger
ledger = Ledger.open(Path(sys.argv[1]), fingerprint="f", about={})
print(ledger.run_id, flush=True)
sys.stdin.readline()
"""


def rows(count: int, *, first: int = 0) -> list[tuple[bytes, str, int]]:
    texts = [f"text {n}" for n in range(first, first + count)]
    return [(hashlib.blake2b(text.encode(), digest_size=16).digest(), text, 3) for text in texts]


def opened(path: Path, fingerprint: str = "f") -> Ledger:
    return Ledger.open(path, fingerprint=fingerprint, about={"model": "gemini:one"}, started=1.0)


def ids(ledger: Ledger) -> list[int]:
    return [row[0] for row in ledger.peek(1_000_000)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a ledger may be made, in a folder that is not there yet."""
    return tmp_path / ".embatch" / "out.lanes"


# --- going on --------------------------------------------------------------------------------------------------------


def test_a_new_ledger_is_a_new_run(path: Path) -> None:
    """A first run goes on with nothing, and has a name of its own."""
    with closing(opened(path)) as first:
        assert (first.resumed, first.reset) == (False, 0)
        name = first.run_id
        first.finish()
    with closing(opened(path)) as second:
        assert second.run_id != name


def test_jobs_and_bills_outlive_the_process(path: Path) -> None:
    """After a stop the run has its name, its jobs with their units, and its bill; what was in no job is read anew."""
    first = opened(path)
    first.add(rows(10))
    waiting = ids(first)
    first.intend_job(waiting[2], 3, 9, 5.0)
    first.accept_job(1, JobRef(id="batches/1", input_file="files/1"), 6.0)
    called = first.take_call(waiting[3:6])
    first.done([called[0].id])
    first.fail([(called[1].id, TooLongError("no"))])
    first.bill("batch", items=1, tokens=2, dollars=0.5, estimated=False)
    first.close()

    with closing(opened(path)) as again:
        assert (again.run_id, again.resumed, again.reset) == (first.run_id, True, 1)
        assert again.waiting() == (0, 0)
        (job,) = again.jobs()
        assert (job.ref, job.accepted, job.done) == (JobRef(id="batches/1", input_file="files/1"), 6.0, False)
        assert [unit.text for unit in again.job_items(1)] == ["text 0", "text 1", "text 2"]
        assert again.errors([row[0] for row in rows(10)]) == {}
        assert again.spent() == 0.5


def test_texts_of_old_jobs_are_new_to_the_run_once(path: Path) -> None:
    """What is in a job already is not sent again, and is counted as new when it is met, but only once."""
    first = opened(path)
    first.add(rows(3))
    first.intend_job(ids(first)[-1], 3, 9, 5.0)
    first.close()
    with closing(opened(path)) as again:
        assert again.add(rows(4, first=1)) == 4  # text 1 and 2 in the job, text 3 and 4
        assert again.add(rows(5)) == 1  # text 0
        assert again.waiting().items == 2
        assert again.drop_job(1, "expired") == 3


def test_numbers_of_jobs_are_never_used_twice(path: Path) -> None:
    """A job submitted after a stop has a tag that no job before it had, ended ones included."""
    tags = []
    for _ in range(3):
        with closing(opened(path)) as ledger:
            ledger.add(rows(1))
            tags.append(ledger.intend_job(ids(ledger)[0], 1, 3, 0.0).tag)
            ledger.drop_job(len(tags), "refused")
    assert len(set(tags)) == 3


def test_another_model_starts_anew_if_no_job_is_under_way(path: Path) -> None:
    """What an interrupted run of another model left is dropped once nothing paid depends on it."""
    first = opened(path)
    first.add(rows(3))
    first.intend_job(ids(first)[-1], 3, 9, 5.0)
    first.drop_job(1, "collected")
    first.bill("batch", items=1, tokens=2, dollars=0.5, estimated=False)
    first.close()
    with closing(opened(path, "other")) as other:
        assert (other.resumed, other.jobs(), other.spent(), other.waiting().items) == (False, [], 0.0, 0)
        assert other.run_id != first.run_id


def test_jobs_of_another_model_are_not_dropped(path: Path) -> None:
    """While a job of another model is under way, the ledger is refused, with the commands that lead out."""
    first = opened(path)
    first.add(rows(3))
    first.intend_job(ids(first)[-1], 3, 9, 5.0)
    first.close()
    with pytest.raises(OutputMismatchError, match=r"gemini:one.*1 paid job") as caught:
        opened(path, "other")
    assert f"embatch runs resume {first.run_id}" in str(caught.value.hint)
    assert f"embatch runs cancel {first.run_id}" in str(caught.value.hint)
    with closing(opened(path)) as again:  # and it was not touched
        assert len(list(again.job_items(1))) == 3


# --- in the way ------------------------------------------------------------------------------------------------------


def test_two_processes_never_share_a_ledger(path: Path) -> None:
    """While a process holds the ledger, another is refused; the lock ends with the process, however it ends."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        name = holder.stdout.readline().strip()
        with pytest.raises(OutputBusyError, match="another process goes on with the run of 'out'"):
            opened(path)
        holder.kill()
    with closing(opened(path)) as ledger:
        assert (ledger.run_id, ledger.resumed) == (name, True)


def test_one_process_does_not_open_a_ledger_twice(path: Path) -> None:
    """A second run of this process for the same output is refused as well."""
    with closing(opened(path)), pytest.raises(OutputBusyError):
        opened(path)


def test_a_damaged_ledger_is_named(path: Path) -> None:
    """A file that is no database is left as it is, and the message says what to do."""
    path.parent.mkdir()
    path.write_bytes(b"not a database at all, but long enough to be read as one" * 100)
    before = path.read_bytes()
    with pytest.raises(OutputMismatchError, match="no database") as caught:
        opened(path)
    assert "Delete or move the file" in str(caught.value.hint)
    assert path.read_bytes() == before


def test_a_ledger_that_was_cut_is_named(path: Path) -> None:
    """A ledger whose pages are gone is an error with a name, at the latest when it is used."""
    with closing(opened(path)) as first:
        first.add(rows(2000))
        first.intend_job(ids(first)[-1], 2000, 6000, 0.0)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)

    def use() -> None:
        with closing(opened(path)) as ledger:
            list(ledger.job_items(1))
            ledger.add(rows(3000))

    with pytest.raises(OutputMismatchError, match="damaged"):
        use()


def test_a_ledger_of_a_newer_version_is_left_alone(path: Path) -> None:
    """A schema that this version does not know is refused, and not changed."""
    opened(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(OutputMismatchError, match="newer embatch"):
        opened(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (99,)


def test_a_ledger_of_the_first_version_goes_on(path: Path) -> None:
    """A ledger made before repeats were told from resumed texts is brought up to date, its jobs included."""
    from embatch.storage import ledger_file
    from embatch.storage.sqlite import connect

    with closing(connect(path, migrations=ledger_file.MIGRATIONS[:1])) as old:
        old.execute("INSERT INTO run VALUES ('0badcafe', 'f', '{}', 1.0)")
        old.execute(
            "INSERT INTO jobs (number, tag, state, items, tokens, intended) VALUES (1, 't', 'intended', 1, 3, 2.0)"
        )
        old.execute(
            "INSERT INTO units (digest, text, tokens, size, state, job) VALUES (?, 'text 0', 3, 6, 2, 1)",
            (rows(1)[0][0],),
        )
    with closing(opened(path)) as ledger:
        assert ledger.run_id == "0badcafe"
        assert [unit.text for unit in ledger.job_items(1)] == ["text 0"]
        assert ledger.add(rows(2)) == 2


def test_another_kind_of_database_is_left_alone(path: Path) -> None:
    """A database that is no ledger is refused, and not changed."""
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    with pytest.raises(OutputMismatchError, match="another kind"):
        opened(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    """A read-only folder is an error with a name."""
    folder = tmp_path / "shut"
    folder.mkdir(mode=0o500)
    with pytest.raises(OutputNotWritableError):
        opened(folder / "out.lanes")


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    """Where no folder can be, the message says which file was to be written."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputNotWritableError, match=r"out\.lanes"):
        opened(tmp_path / "file" / "out.lanes")


def test_a_ledger_that_is_removed_while_it_is_opened_is_made_anew(path: Path) -> None:
    """A run that ends just when another begins does not take the other's ledger away."""
    first = opened(path)
    first.add(rows(3))
    copy = path.with_name("copy")
    first.finish()
    assert not path.exists()
    with closing(opened(path)) as second:
        second.add(rows(2))
        shutil.copy(path, copy)  # it is there, under its name
        assert second.waiting().items == 2
