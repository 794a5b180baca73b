"""Opening a database: its settings, its schema, and what it says when it cannot be used."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from embatch.errors import (
    DiskFullError,
    OutputBusyError,
    OutputError,
    OutputMismatchError,
    OutputNotWritableError,
)
from embatch.storage.sqlite import connect, sqlite_errors, transaction

if TYPE_CHECKING:
    from pathlib import Path

FIRST = "CREATE TABLE things (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO things (name) VALUES ('a; b')"
SECOND = "ALTER TABLE things ADD COLUMN size INTEGER; CREATE INDEX by_size ON things (size);"


def schema(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    return connection.execute("SELECT type, name FROM sqlite_master ORDER BY name").fetchall()


def test_settings(tmp_path: Path) -> None:
    """A write-ahead log, synced at checkpoints, and references that are checked."""
    with closing(connect(tmp_path / "deep" / "er" / "x.sqlite", migrations=[FIRST])) as connection:
        settings = {
            name: connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in (
                "journal_mode",
                "synchronous",
                "foreign_keys",
                "busy_timeout",
                "auto_vacuum",
                "page_size",
            )
        }
    assert settings == {
        "journal_mode": "wal",
        "synchronous": 1,
        "foreign_keys": 1,
        "busy_timeout": 10_000,
        "auto_vacuum": 2,
        "page_size": 8192,
    }


def test_migrating_step_by_step_and_at_once_give_the_same_schema(tmp_path: Path) -> None:
    """An old file catches up to what a new file has, its rows kept, and a script never runs twice."""
    with closing(connect(tmp_path / "old.sqlite", migrations=[FIRST])):
        pass
    for _ in range(2):
        with (
            closing(connect(tmp_path / "old.sqlite", migrations=[FIRST, SECOND])) as old,
            closing(connect(tmp_path / "new.sqlite", migrations=[FIRST, SECOND])) as new,
        ):
            assert schema(old) == schema(new)
            for connection in (old, new):
                assert connection.execute("SELECT * FROM things").fetchall() == [(1, "a; b", None)]
                assert connection.execute("PRAGMA user_version").fetchone() == (2,)


def test_a_migration_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """A step is taken whole or not at all."""
    path = tmp_path / "x.sqlite"
    with closing(connect(path, migrations=[FIRST])):
        pass
    with pytest.raises(OutputError):
        connect(path, migrations=[FIRST, "ALTER TABLE things ADD COLUMN size; CREATE NONSENSE"])
    with closing(connect(path, migrations=[FIRST])) as connection:
        assert connection.execute("SELECT * FROM things").fetchall() == [(1, "a; b")]


def test_a_newer_file_is_left_alone(tmp_path: Path) -> None:
    """A file that a later version wrote is named, with both numbers, and not changed."""
    path = tmp_path / "x.sqlite"
    with closing(connect(path, migrations=[FIRST, SECOND])):
        pass
    before = path.read_bytes()
    with pytest.raises(OutputMismatchError, match="schema 2, this one knows 1"):
        connect(path, migrations=[FIRST])
    assert path.read_bytes() == before


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    """Its tables, its settings and its bytes stay as they were."""
    path = tmp_path / "browser.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE history (url)")
    before = path.read_bytes()
    with pytest.raises(OutputMismatchError, match="another kind"):
        connect(path, migrations=[FIRST])
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    """Text under a database's name is refused by name."""
    path = tmp_path / "notes.sqlite"
    path.write_text("not a database at all, but long enough to look like one\n" * 50)
    before = path.read_bytes()
    with pytest.raises(OutputMismatchError, match="no database"):
        connect(path, migrations=[FIRST])
    assert path.read_bytes() == before


def test_a_damaged_database_says_so(tmp_path: Path) -> None:
    """A page of rubbish where a table was is reported as damage."""
    path = tmp_path / "x.sqlite"
    with closing(connect(path, migrations=[FIRST])):
        pass
    data = bytearray(path.read_bytes())
    data[100:] = b"\xff" * (len(data) - 100)
    path.write_bytes(data)
    with pytest.raises(OutputMismatchError, match="damaged"):
        connect(path, migrations=[FIRST])


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    """A path that is a folder cannot be opened."""
    (tmp_path / "x.sqlite").mkdir()
    with pytest.raises(OutputNotWritableError, match="cannot be opened"):
        connect(tmp_path / "x.sqlite", migrations=[FIRST])


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    """A folder that is a file cannot hold a database."""
    (tmp_path / "x").write_text("")
    with pytest.raises(OutputNotWritableError):
        connect(tmp_path / "x" / "y.sqlite", migrations=[FIRST])


def test_a_read_only_folder(read_only_folder: Path) -> None:
    """No permission is an error of its own, in an existing folder and for a new one."""
    for path in (read_only_folder / "x.sqlite", read_only_folder / "deep" / "x.sqlite"):
        with pytest.raises(OutputNotWritableError):
            connect(path, migrations=[FIRST])


def test_no_space_left(tmp_path: Path) -> None:
    """A database that cannot grow says that the disk is full, and what was there before stays."""
    path = tmp_path / "x.sqlite"
    with closing(connect(path, migrations=[FIRST])) as connection:
        connection.execute("PRAGMA max_page_count = 8")
        with pytest.raises(DiskFullError, match="no space"), sqlite_errors(path), transaction(connection):
            connection.executemany("INSERT INTO things (name) VALUES (?)", [("x" * 1000,)] * 1000)
        assert not connection.in_transaction
        assert connection.execute("SELECT count(*) FROM things").fetchone() == (1,)


@pytest.mark.parametrize("reason", ["SQLITE_FULL", "SQLITE_BUSY", "SQLITE_CORRUPT", "SQLITE_READONLY"])
def test_extended_codes_are_read_by_their_primary_code(tmp_path: Path, reason: str) -> None:
    """SQLite adds detail in the higher bytes of a code; the kind of error is in the lowest."""
    error = sqlite3.OperationalError("made up")
    error.sqlite_errorcode = getattr(sqlite3, reason) | 7 << 8
    with pytest.raises(OutputError) as caught, sqlite_errors(tmp_path):
        raise error
    assert type(caught.value) is not OutputError
    assert caught.value.__cause__ is error


def test_a_closed_connection_is_an_error_of_ours(tmp_path: Path) -> None:
    """Use after closing ends in the tree of our errors as well."""
    connection = connect(tmp_path / "x.sqlite", migrations=[FIRST])
    connection.close()
    with pytest.raises(OutputError, match="closed"), sqlite_errors(tmp_path / "x.sqlite"):
        connection.execute("SELECT 1")


def test_an_exclusive_connection_keeps_others_out(tmp_path: Path) -> None:
    """Within the process and from outside, until it is closed."""
    path = tmp_path / "x.sqlite"
    code = (
        "import sys; from pathlib import Path; from embatch.storage.sqlite import connect\n"
        "try: connect(Path(sys.argv[1]), migrations=[sys.argv[2]], busy_s=0).close()\n"
        "except Exception as error: sys.exit(type(error).__name__)"
    )

    def from_outside() -> str:
        command = [sys.executable, "-c", code, str(path), FIRST]
        return subprocess.run(command, capture_output=True, text=True, check=False).stderr.strip()

    with closing(connect(path, migrations=[FIRST], exclusive=True)):
        with pytest.raises(OutputBusyError):
            connect(path, migrations=[FIRST], busy_s=0)
        assert from_outside() == "OutputBusyError"
    assert from_outside() == ""


def test_many_that_open_a_new_file_at_once_all_can(tmp_path: Path) -> None:
    """SQLite gives up at once where two change a new file's journal: such a one waits, as for any other lock."""

    def add(path: Path) -> None:
        with closing(connect(path, migrations=[FIRST])) as connection, transaction(connection):
            connection.execute("INSERT INTO things (name) VALUES ('b')")

    with ThreadPoolExecutor(12) as pool:
        for number in range(40):
            path = tmp_path / f"{number}.sqlite"
            for added in [pool.submit(add, path) for _ in range(12)]:
                added.result()
            with closing(connect(path, migrations=[FIRST])) as connection:
                assert connection.execute("SELECT count(*) FROM things").fetchone() == (1 + 12,)


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    """Whatever leaves the block undoes it."""
    with closing(connect(tmp_path / "x.sqlite", migrations=[FIRST])) as connection:

        def add_and_fail() -> None:
            with transaction(connection):
                connection.execute("INSERT INTO things (name) VALUES ('b')")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            add_and_fail()
        assert connection.execute("SELECT count(*) FROM things").fetchone() == (1,)
