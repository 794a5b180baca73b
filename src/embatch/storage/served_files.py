"""Files that clients of a server uploaded, and those that its jobs made: rows in a database, contents beside it.

An upload is written under another name, synced and renamed: a file that has a row is whole, whatever was killed when.
"""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, Self

from embatch.storage.files import os_errors, sync_folder

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from types import TracebackType
    from typing import BinaryIO

    from embatch.storage.served import ServedFolder

_COLUMNS = "id, owner, purpose, name, bytes, created, expires"
_ADD = f"INSERT INTO files ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"  # noqa: S608  # constants
_ADD_ONCE = f"INSERT OR IGNORE INTO files ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"  # noqa: S608  # constants
_LIVE = "(expires IS NULL OR expires > ?)"
_GET = f"SELECT {_COLUMNS} FROM files WHERE id = ? AND owner = ? AND {_LIVE}"  # noqa: S608  # constants
_NUMBER = "SELECT number FROM files WHERE id = ? AND owner = ?"
_PAGE = f"""
    SELECT {_COLUMNS} FROM files
    WHERE owner = ? AND {_LIVE} AND (? IS NULL OR purpose = ?) AND number
"""  # noqa: S608  # constants
_OLDER, _NEWER = f"{_PAGE} < ? ORDER BY number DESC LIMIT ?", f"{_PAGE} > ? ORDER BY number LIMIT ?"
_DELETE = "DELETE FROM files WHERE id = ?"
_EXPIRED = """
    SELECT id FROM files WHERE expires <= ?
    AND id NOT IN (SELECT input_file FROM jobs WHERE ended IS NULL)
"""
_IDS = "SELECT id FROM files"
_LAST = 1 << 62


class ServedFile(NamedTuple):
    """One file. Times are seconds since the Unix epoch."""

    id: str
    owner: str
    """Name of the key that made it; empty without keys."""
    purpose: str
    name: str
    bytes: int
    created: float
    expires: float | None = None


class ServedFiles:
    """The files of a folder. Thread-safe; every method may block for the disk."""

    def __init__(self, folder: ServedFolder) -> None:
        self._folder = folder

    def upload(self) -> Upload:
        """A file to write into; nothing is seen of it before `keep`.

        Raises:
            OutputError: the folder cannot be written.
        """
        return Upload(self._folder)

    def get(self, name: str, owner: str, now: float) -> ServedFile | None:
        """The owner's file of this name, unless it has expired."""
        with self._folder.reading() as connection:
            row = connection.execute(_GET, (name, owner, now)).fetchone()
        return None if row is None else ServedFile(*row)

    def page(
        self,
        owner: str,
        now: float,
        *,
        limit: int,
        after: str | None = None,
        purpose: str | None = None,
        newest_first: bool = True,
    ) -> list[ServedFile] | None:
        """Up to `limit` files that come after the one named; None if the owner has none of that name."""
        with self._folder.reading() as connection:
            number = _LAST if newest_first else -1
            if after is not None:
                found = connection.execute(_NUMBER, (after, owner)).fetchone()
                if found is None:
                    return None
                (number,) = found
            row = (owner, now, purpose, purpose, number, limit)
            return [ServedFile(*each) for each in connection.execute(_OLDER if newest_first else _NEWER, row)]

    def delete(self, name: str) -> None:
        """Delete it. Who reads it now reads it to its end."""
        with self._folder.changing() as connection:
            connection.execute(_DELETE, (name,))
        with suppress(OSError):  # swept away when the folder is opened the next time
            self._folder.file(name).unlink()

    def expire(self, now: float) -> int:
        """Delete what has expired, but for inputs of jobs under way; how many were."""
        with self._folder.reading() as connection:
            names = [name for (name,) in connection.execute(_EXPIRED, (now,))]
        for name in names:
            self.delete(name)
        return len(names)

    def names(self) -> list[str]:
        """Of all files that have a row."""
        with self._folder.reading() as connection:
            return [name for (name,) in connection.execute(_IDS)]


class Upload:
    """A file that is coming in, written as it comes. Used by one thread at a time; dropped unless kept."""

    def __init__(self, folder: ServedFolder) -> None:
        self.id = f"file-{uuid.uuid4().hex[:24]}"
        self.bytes = 0
        self._folder = folder
        self._path = folder.part(f"{self.id}.upload")
        with os_errors(self._path):
            self._stream: BinaryIO | None = self._path.open("wb", buffering=0)

    def write(self, data: bytes) -> None:
        """Append.

        Raises:
            OutputError: it cannot be written, for want of space or otherwise.
        """
        assert self._stream is not None
        with os_errors(self._path):
            view = memoryview(data)
            while view:
                view = view[self._stream.write(view) :]
        self.bytes += len(data)

    def keep(
        self, *, owner: str, purpose: str, name: str, created: float, expires: float | None
    ) -> ServedFile:
        """Make it a file: sync, rename, write its row.

        Raises:
            OutputError: it cannot be written.
        """
        assert self._stream is not None
        file = ServedFile(self.id, owner, purpose, name, self.bytes, created, expires)
        target = self._folder.file(self.id)
        with os_errors(target):
            os.fsync(self._stream.fileno())
            self._stream.close()
            self._path.replace(target)
        self._stream = None
        sync_folder(target.parent)
        try:
            with self._folder.changing() as connection:
                connection.execute(_ADD, file)
        except BaseException:
            with suppress(OSError):
                target.unlink()
            raise
        return file

    def close(self) -> None:
        """Forget it, unless it was kept. Never raises."""
        if self._stream is not None:
            with suppress(OSError):
                self._stream.close()
            with suppress(OSError):
                self._path.unlink()
            self._stream = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Forget it unless it was kept."""
        self.close()


def add_rows(connection: sqlite3.Connection, files: Sequence[ServedFile]) -> None:
    """Write rows of files that lie there already, within a transaction of the caller's; known ones stay."""
    connection.executemany(_ADD_ONCE, files)
