"""The manifest: what the writer of the Lance store knows of each file, and what was said of the store.

A SQLite file beside the table, for the writer alone. A file is noted here after its chunks are in the table, and its
note is taken away before they are touched, so that a note is never wrong.
"""

from __future__ import annotations

import json
from dataclasses import astuple
from typing import TYPE_CHECKING

from embatch.chunks import FileState
from embatch.storage.files import os_errors
from embatch.storage.sqlite import connect, sqlite_errors, transaction

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

FILE = "files.db"
_MIGRATIONS = (
    """
    CREATE TABLE files (
        path TEXT PRIMARY KEY,
        size INTEGER NOT NULL,
        mtime INTEGER NOT NULL,     -- nanoseconds
        inode TEXT NOT NULL,        -- up to 64 bits without a sign
        digest BLOB NOT NULL,
        chunks INTEGER NOT NULL,
        skipped TEXT NOT NULL,
        failed INTEGER NOT NULL,
        held INTEGER NOT NULL,      -- rows of the table
        version INTEGER NOT NULL    -- of the table, that has them
    ) WITHOUT ROWID;
    CREATE TABLE about (id INTEGER PRIMARY KEY CHECK (id = 0), words TEXT NOT NULL); -- JSON
    """,
)


def delete(location: Path) -> None:
    """Forget everything, whatever state the file is in."""
    with os_errors(location):
        for side in ("", "-wal", "-shm", "-journal"):
            (location / f"{FILE}{side}").unlink(missing_ok=True)


class Manifest:
    """The states of files, by path. One thread at a time uses it."""

    def __init__(self, location: Path) -> None:
        self._path = location / FILE
        self._connection = connect(self._path, migrations=_MIGRATIONS)
        # A note that was taken away must stay so after a power cut: the table may have changed by then.
        self._connection.execute("PRAGMA synchronous = FULL").fetchone()

    def states(self) -> dict[str, FileState]:
        """All of them."""
        query = "SELECT path, size, mtime, inode, digest, chunks, skipped, failed FROM files"
        with sqlite_errors(self._path):
            return {
                path: FileState(
                    path=path,
                    size_bytes=size,
                    mtime_ns=mtime,
                    inode=int(inode),
                    digest=digest,
                    chunks=chunks,
                    skipped=skipped,
                    failed=failed,
                )
                for path, size, mtime, inode, digest, chunks, skipped, failed in self._connection.execute(
                    query
                )
            }

    def held(self, paths: Iterable[str] | None = None) -> dict[str, int]:
        """Rows that the table has of each of these files, or of all; without those that are not noted."""
        with sqlite_errors(self._path):
            if paths is None:
                return dict(self._connection.execute("SELECT path, held FROM files"))
            one = "SELECT held FROM files WHERE path = ?"
            found = ((path, self._connection.execute(one, (path,)).fetchone()) for path in paths)
            return {path: row[0] for path, row in found if row is not None}

    def totals(self) -> tuple[int, int]:
        """Files with rows in the table, and these rows."""
        query = "SELECT count(*), coalesce(sum(held), 0) FROM files WHERE held > 0"
        with sqlite_errors(self._path):
            files, rows = self._connection.execute(query).fetchone()
            return int(files), int(rows)

    def note(self, states: Iterable[FileState], held: Mapping[str, int], version: int) -> None:
        """Put these in place of what was noted; `held` has the rows of those that have any, in this version."""
        rows = []
        for state in states:
            path, size, mtime, inode, digest, chunks, skipped, failed = astuple(state)
            row = (path, size, mtime, str(inode), digest, chunks, skipped, failed, held.get(path, 0), version)
            rows.append(row)
        with sqlite_errors(self._path), transaction(self._connection):
            self._connection.executemany("REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def forget(self, paths: Iterable[str]) -> None:
        """Take the notes of these files away."""
        with sqlite_errors(self._path), transaction(self._connection):
            self._connection.executemany("DELETE FROM files WHERE path = ?", ((path,) for path in paths))

    def forget_after(self, version: int) -> None:
        """Take notes away that tell of newer versions of the table than this, its newest."""
        with sqlite_errors(self._path), transaction(self._connection):
            self._connection.execute("DELETE FROM files WHERE version > ?", (version,))

    @property
    def about(self) -> dict[str, str]:
        """What was said of the store last."""
        with sqlite_errors(self._path):
            row = self._connection.execute("SELECT words FROM about").fetchone()
        return {} if row is None else {str(key): str(value) for key, value in json.loads(row[0]).items()}

    def describe(self, about: Mapping[str, str]) -> None:
        """Keep these words of the store."""
        with sqlite_errors(self._path), transaction(self._connection):
            self._connection.execute("REPLACE INTO about VALUES (0, ?)", (json.dumps(dict(about)),))

    def close(self) -> None:
        """Release the file. Closing twice is allowed."""
        self._connection.close()
