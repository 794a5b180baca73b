"""The file of a remote run's ledger: its schema, its lock, and how it is removed.

`ledger` stands on this. What the tables mean to a run is said there.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path

from embatch.errors import OutputBusyError
from embatch.storage import ledger_money, sqlite
from embatch.storage.files import make_folder, os_errors
from embatch.storage.sqlite import connect

_BUSY_S = 0.5  # a run holds its ledger to the end: waiting longer would not help
_ATTEMPTS = 5
_SIDE_FILES = ("-wal", "-shm", "-journal")

MIGRATIONS = (
    """
    CREATE TABLE run (
        id TEXT NOT NULL,            -- 8 hex digits, part of every tag
        fingerprint TEXT NOT NULL,   -- of what is computed
        about TEXT NOT NULL,         -- JSON: model, account, command; for people and for `runs resume`
        started REAL NOT NULL
    );
    CREATE TABLE units (
        id INTEGER PRIMARY KEY,      -- the order of sending
        digest BLOB NOT NULL UNIQUE, -- of the text
        text TEXT,                   -- NULL once it has its result
        tokens INTEGER NOT NULL,     -- estimated
        size INTEGER NOT NULL,       -- bytes in UTF-8
        state INTEGER NOT NULL,      -- 0 waits, 1 in a call, 2 in a job, 3 done, 4 failed
        attempts INTEGER NOT NULL DEFAULT 0,
        job INTEGER,                 -- the last job that it was in
        error TEXT                   -- JSON: [class, message, hint]
    );
    CREATE INDEX units_waiting ON units (id) WHERE state = 0;
    CREATE INDEX units_job ON units (job, id) WHERE state = 2;
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY,
        tag TEXT NOT NULL UNIQUE,
        state TEXT NOT NULL,         -- intended, accepted, collected, or why it was given up
        items INTEGER NOT NULL,
        tokens INTEGER NOT NULL,
        intended REAL NOT NULL,
        accepted REAL,
        provider_id TEXT,            -- NULL while it is only intended
        input_file TEXT,
        done INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE bill (
        lane TEXT PRIMARY KEY,
        requests INTEGER NOT NULL,
        items INTEGER NOT NULL,
        tokens INTEGER NOT NULL,
        dollars REAL NOT NULL,
        estimated INTEGER NOT NULL   -- tokens of these that the provider did not count
    );
    CREATE TABLE answers (digest BLOB PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID;
    """,
    """
    ALTER TABLE units ADD COLUMN seen INTEGER NOT NULL DEFAULT 1; -- 0: left by an interrupted run, not met again yet
    """,
    """
    ALTER TABLE jobs ADD COLUMN billed INTEGER NOT NULL DEFAULT 0; -- whether `bill` holds it: results may come twice
    """,
    ledger_money.MIGRATION,
)


def in_memory() -> sqlite3.Connection:
    """A ledger that ends with its process."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    connection.executescript(";".join(MIGRATIONS))
    return connection


def lock(path: Path) -> sqlite3.Connection:
    """The ledger at `path`, made if it is missing, held until it is closed.

    Raises:
        OutputBusyError: another process holds it.
        OutputMismatchError: it is damaged, of another kind, or of a newer version.
        OutputNotWritableError: the folder or file may not be written.
    """
    make_folder(path.parent, path)
    for _ in range(_ATTEMPTS):
        with os_errors(path):
            path.touch()
            inode = path.stat().st_ino
        connection = connect(path, migrations=MIGRATIONS, exclusive=True, busy_s=_BUSY_S)
        with suppress(FileNotFoundError):
            if path.stat().st_ino == inode:
                return connection
        connection.close()  # whoever had it has removed it just then
    raise OutputBusyError(f"other processes start and end runs of {path.stem!r} all the time")


def remove(connection: sqlite3.Connection, path: Path) -> None:
    """Delete the ledger, and its folder if nothing else lies there."""
    sqlite.remove(connection, path)
    with os_errors(path):
        for side in _SIDE_FILES:
            Path(f"{path}{side}").unlink(missing_ok=True)
    with suppress(OSError):  # other runs' files may lie there
        path.parent.rmdir()
