"""The folder of a server's files and batch jobs: one database, uploads and outputs beside it, held by one process.

    served.sqlite     what there is: `served_files`, `served_jobs`
    files/<id>        uploads and outputs, whole
    parts/…           what is being written: dropped, or gone on with, after a kill
    runs/<job>/…      ledgers and journals of jobs that go through a provider

A file is renamed into `files` before its row is written, and its row is deleted before it goes: what lies there
without a row belongs to nobody and is swept away when the folder is opened.
"""

from __future__ import annotations

import shutil
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Self

from embatch.errors import EmbatchError, OutputBusyError
from embatch.storage.files import make_folder, os_errors
from embatch.storage.sqlite import HeldConnection, connect, sqlite_errors, transaction

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_BUSY_S = 0.5  # a server holds its folder to the end: waiting longer would not help

MIGRATIONS = (
    """
    CREATE TABLE files (
        number INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order in which they came
        id TEXT NOT NULL UNIQUE,
        owner TEXT NOT NULL,       -- name of the key that made it, empty without keys
        purpose TEXT NOT NULL,     -- batch or batch_output
        name TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        created REAL NOT NULL,     -- seconds since the Unix epoch, as all times here
        expires REAL               -- NULL: never
    );
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        owner TEXT NOT NULL,
        status TEXT NOT NULL,      -- OpenAI's words
        ending TEXT,               -- what a job that is finalizing or cancelling ends as
        endpoint TEXT NOT NULL,
        model TEXT,                -- NULL until it is validated
        input_file TEXT NOT NULL,
        output_file TEXT NOT NULL, -- names that the outputs get, if there will be any
        error_file TEXT NOT NULL,
        output_expires REAL,       -- seconds after the end; NULL: the usual
        metadata TEXT,             -- JSON object
        errors TEXT,               -- JSON list: why it failed
        created REAL NOT NULL,
        expires REAL NOT NULL,
        begun REAL,                -- in_progress
        finalizing REAL,
        cancelling REAL,
        ended REAL,
        total INTEGER NOT NULL,    -- rows
        completed INTEGER NOT NULL,
        failed INTEGER NOT NULL,
        tokens INTEGER NOT NULL,
        done_bytes INTEGER NOT NULL,   -- of the input: rows up to here are in the outputs
        done_lines INTEGER NOT NULL,
        output_bytes INTEGER NOT NULL, -- what lies behind these is no result yet
        error_bytes INTEGER NOT NULL
    );
    CREATE INDEX files_by_owner ON files (owner, number);
    CREATE INDEX jobs_by_owner ON jobs (owner, number);
    CREATE INDEX jobs_by_status ON jobs (status);
    """,
)


class ServedFolder:
    """The folder and its database, locked for this process. Thread-safe. Made by `open`."""

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        """Only `open` calls this."""
        self.folder = folder
        self._connection = HeldConnection(
            connection,
            lambda: EmbatchError(f"the folder {str(folder)!r} is closed", hint="Start the server again."),
        )
        self._lock = threading.RLock()

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Take the folder for this process, made if it is missing.

        Raises:
            OutputBusyError: another server has it.
            OutputNotWritableError: it may not be written.
            OutputMismatchError: its database is damaged, or of a newer version.
            DiskFullError: no space is left.
        """
        for part in ("files", "parts", "runs"):
            make_folder(folder / part, folder)
        path = folder / "served.sqlite"
        try:
            connection = connect(path, migrations=MIGRATIONS, exclusive=True, busy_s=_BUSY_S)
        except OutputBusyError as error:
            raise OutputBusyError(
                f"another server keeps its files and jobs in {str(folder)!r}",
                hint="Stop it, or give this one a folder of its own.",
            ) from error
        return cls(folder, connection)

    def file(self, name: str) -> Path:
        """Where a whole file lies."""
        return self.folder / "files" / name

    def part(self, name: str) -> Path:
        """Where it lies while it is being written."""
        return self.folder / "parts" / name

    def run(self, name: str) -> Path:
        """A folder for what makes a job's run through a provider survive its process; made when it is needed."""
        return self.folder / "runs" / name

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for statements that change nothing."""
        with self._lock, sqlite_errors(self.folder):
            yield self._connection.get()

    @contextmanager
    def glancing(self) -> Iterator[sqlite3.Connection | None]:
        """As `reading`, but None instead of a wait while somebody else is at it: for an event loop."""
        if not self._lock.acquire(blocking=False):
            yield None
            return
        try:
            with self.reading() as connection:
                yield connection
        finally:
            self._lock.release()

    @contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of the block, or nothing of it."""
        with self.reading() as connection, transaction(connection):
            yield connection

    def sweep(self, *, files: Iterable[str], parts: Iterable[str], runs: Iterable[str]) -> None:
        """Delete what is not among these: what killed processes left."""
        for name, kept in (("files", set(files)), ("parts", set(parts)), ("runs", set(runs))):
            with os_errors(self.folder):
                strays = [path for path in (self.folder / name).iterdir() if path.name not in kept]
            for path in strays:
                with suppress(OSError):  # it is tried again the next time
                    if path.is_dir():
                        shutil.rmtree(path)
                    else:
                        path.unlink()

    def close(self) -> None:
        """Let go of the folder. Closing twice is allowed."""
        with self._lock:
            self._connection.close()
