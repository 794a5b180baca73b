"""Opening a SQLite file safely: settings, locking, migrations, and its errors in embatch's words.

The journal, the cache and the tuning profiles stand on this. It knows no tables of theirs: a schema is a list of
numbered scripts, and its first script is its identity, so that no file of another kind is ever touched.
"""

from __future__ import annotations

import sqlite3
import time
import zlib
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from embatch.errors import (
    DiskFullError,
    EmbatchError,
    OutputBusyError,
    OutputError,
    OutputMismatchError,
    OutputNotWritableError,
)
from embatch.storage.files import make_folder, os_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

BUSY_S = 10.0
"""How long a writer waits for another one's transaction."""
PAGE_BYTES = 8192
"""Measured with vectors of 1.5 KB: a third faster than 4,096, and 16,384 rewrites too much of the index."""
WAL_BYTES = 64 << 20
"""The write-ahead log is copied into the file (and synced) each time that it has grown by this much."""

_RETRY_S = 0.005
_DAMAGED_HINT = "Delete or move the file; what it held is computed again."
_ERRORS: dict[int, tuple[type[OutputError], str, str | None]] = {
    sqlite3.SQLITE_BUSY: (OutputBusyError, "is in use by another process", None),
    sqlite3.SQLITE_LOCKED: (OutputBusyError, "is in use by this process", None),
    sqlite3.SQLITE_PROTOCOL: (OutputBusyError, "is in use by another process", None),
    sqlite3.SQLITE_FULL: (DiskFullError, "does not fit on the disk: no space left", None),
    sqlite3.SQLITE_READONLY: (OutputNotWritableError, "is read-only", None),
    sqlite3.SQLITE_CANTOPEN: (OutputNotWritableError, "cannot be opened or created", None),
    sqlite3.SQLITE_PERM: (OutputNotWritableError, "may not be written", None),
    sqlite3.SQLITE_AUTH: (OutputNotWritableError, "may not be written", None),
    sqlite3.SQLITE_IOERR: (
        OutputNotWritableError,
        "cannot be read or written: the disk reported an error",
        None,
    ),
    sqlite3.SQLITE_NOLFS: (OutputNotWritableError, "is too large for this file system", None),
    sqlite3.SQLITE_CORRUPT: (OutputMismatchError, "is damaged", _DAMAGED_HINT),
    sqlite3.SQLITE_NOTADB: (OutputMismatchError, "is no database", _DAMAGED_HINT),
    sqlite3.SQLITE_FORMAT: (OutputMismatchError, "is no database that this version can read", _DAMAGED_HINT),
}


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turn an error of SQLite in the block into the error of ours that fits best.

    Raises:
        OutputBusyError: another connection holds the lock.
        DiskFullError: no space is left.
        OutputNotWritableError: permission, a read-only folder, a missing disk.
        OutputMismatchError: the file is damaged, or no database.
        OutputError: anything else, such as use after closing.
    """
    try:
        yield
    except sqlite3.Error as error:
        # The low byte is the primary code; errors of the Python module itself carry none.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        kind, words, hint = _ERRORS.get(code, (OutputError, "cannot be used", None))
        raise kind(f"the file {str(path)!r} {words} ({error})", hint=hint) from error


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """One write transaction: all of the block, or nothing of it."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite itself rolls back after some errors, such as a full disk
            connection.execute("ROLLBACK")
        raise


class HeldConnection:
    """A connection that its owner keeps until it is closed. Not thread-safe by itself.

    Args:
        connection: an open one, closed by `close`.
        closed: the error of whoever wants it after that, in the owner's words. It must not refer to the owner: in a
            circle, an owner that nobody closed would keep its file open until the garbage collector comes by.
    """

    def __init__(self, connection: sqlite3.Connection, closed: Callable[[], EmbatchError]) -> None:
        self._connection: sqlite3.Connection | None = connection
        self._closed = closed

    @property
    def is_open(self) -> bool:
        """Whether it was not closed yet."""
        return self._connection is not None

    def get(self) -> sqlite3.Connection:
        """The connection, or the owner's error if it is closed."""
        if self._connection is None:
            raise self._closed()
        return self._connection

    def close(self) -> None:
        """Close it. Closing twice is allowed."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def connect(
    path: Path, *, migrations: Sequence[str], exclusive: bool = False, busy_s: float = BUSY_S
) -> sqlite3.Connection:
    """Open or create the database at `path`, its schema brought up to date. The caller closes the connection.

    Args:
        path: the file; folders above it are created.
        migrations: scripts that each take the schema one step on. Only ever append; the first is the identity.
        exclusive: hold the file until the connection is closed. The lock ends with the process, however it ends.
        busy_s: how long to wait for the locks of others.

    Raises:
        OutputBusyError: another process holds the file.
        OutputMismatchError: the file is damaged, of another kind, or of a newer version.
        OutputNotWritableError: the folder or file may not be written.
        DiskFullError: no space is left.
    """
    make_folder(path.parent, path)
    with sqlite_errors(path):
        # One thread at a time uses it, but not always the same one.
        connection = sqlite3.connect(path, timeout=busy_s, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection, exclusive=exclusive)
            _migrate(connection, path, migrations)
            _log_ahead(connection, busy_s)
        except BaseException:
            connection.close()
            raise
    return connection


def remove(connection: sqlite3.Connection, path: Path) -> None:
    """Delete a database while its lock is still held, so that nobody can have opened it in between; close it.

    Raises:
        OutputError: the file cannot be deleted.
    """
    with suppress(Exception):  # nothing of it is needed any more
        connection.execute("PRAGMA synchronous = OFF").fetchone()
        connection.execute("PRAGMA journal_mode = DELETE").fetchone()  # takes the -wal file away
    with os_errors(path):
        try:
            path.unlink(missing_ok=True)
        except PermissionError:  # Windows deletes no open file
            connection.close()
            path.unlink(missing_ok=True)
        finally:
            connection.close()


def _prepare(connection: sqlite3.Connection, *, exclusive: bool) -> None:
    """Settings of this connection, and of the file if it is new. Nothing is written to a file that has content."""
    if exclusive:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE").fetchone()
    if not _pragma(connection, "page_count"):  # setting these writes
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        # So that pruning gives space back without room for a second copy.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    for setting in (
        "synchronous = NORMAL",  # a killed process loses nothing, a power cut the last transactions at most
        "foreign_keys = ON",
        "secure_delete = OFF",
        "temp_store = MEMORY",
        "cache_size = -16000",  # KiB
        f"wal_autocheckpoint = {WAL_BYTES // PAGE_BYTES}",
        f"journal_size_limit = {WAL_BYTES}",
    ):
        connection.execute(f"PRAGMA {setting}").fetchone()


def _log_ahead(connection: sqlite3.Connection, busy_s: float) -> None:
    """Change to write-ahead logging, waiting for others: SQLite itself fails at once where two change a new file."""
    until = time.monotonic() + busy_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
            time.sleep(_RETRY_S)
        else:
            return


def _migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[str]) -> None:
    """Run the scripts that this file has not seen, in one transaction each."""
    identity = zlib.crc32(migrations[0].encode()) & 0x7FFFFFFF
    _check(connection, path, identity, newest=len(migrations))
    for number, script in enumerate(migrations, start=1):
        if _pragma(connection, "user_version") >= number:
            continue
        with transaction(connection):
            if _pragma(connection, "user_version") >= number:
                continue  # another process was faster
            for statement in _statements(script):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {identity}")
            connection.execute(f"PRAGMA user_version = {number}")


def _check(connection: sqlite3.Connection, path: Path, identity: int, *, newest: int) -> None:
    with transaction(connection):  # a reader's lock would not stop two processes that both want to be first
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        found = _pragma(connection, "application_id")
        version = _pragma(connection, "user_version")
    if tables and found != identity:
        raise OutputMismatchError(
            f"the file {str(path)!r} is a database of another kind", hint="Choose another file."
        )
    if version > newest:
        raise OutputMismatchError(
            f"the file {str(path)!r} was written by a newer embatch (schema {version}, this one knows {newest})",
            hint="Update embatch, or delete or move the file; what it held is computed again.",
        )


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _statements(script: str) -> Iterator[str]:
    """The statements of a script one by one: `executescript` would end the transaction around it."""
    statement = ""
    for piece in script.split(";"):
        statement += piece
        if statement.strip() and sqlite3.complete_statement(statement + ";"):
            yield statement
            statement = ""
        else:
            statement += ";"
