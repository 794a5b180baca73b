"""What an emulator must not forget: jobs, files and the ledger, in SQLite, with the files' contents beside it.

Every change is committed before the answer goes out, so that a killed emulator goes on where it was. Without a folder
everything lies in a temporary one. Leaves out what the records mean.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS records (
    kind TEXT NOT NULL, id TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (kind, id)
);
CREATE TABLE IF NOT EXISTS billed (
    time REAL NOT NULL, lane TEXT NOT NULL, job TEXT, model TEXT NOT NULL, text BLOB NOT NULL,
    tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, dollars REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS billed_by_text ON billed (text);
"""

Billed = tuple[float, str, str | None, str, bytes, int, int, float]
"""Time, lane, job, model, digest of the text, tokens, generated tokens, dollars."""


class Store:
    """Records and files of one emulator.

    Args:
        folder: where they are kept; None: nowhere, once it is closed.

    Raises:
        OSError: the folder cannot be used.
    """

    def __init__(self, folder: Path | str | None) -> None:
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="embatch-emulator-")
        self.folder = Path(folder) if folder else Path(self._temporary.name)  # type: ignore[union-attr]  # one of both
        self.files = self.folder / "files"
        self.files.mkdir(parents=True, exist_ok=True)
        where = str(self.folder / "emulator.sqlite") if folder else ":memory:"
        try:
            self._db = sqlite3.connect(where, timeout=0.2, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")  # one emulator on one state
            # WAL with NORMAL survives the death of the process, though not of the machine: enough for an emulator.
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise OSError(f"{where}: {error}") from error

    def close(self) -> None:
        """Give back files; a temporary folder is deleted."""
        self._db.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes in it are kept, or none. One in another is a part of it."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def meta(self, name: str) -> Any:
        """A value that was set; None if it was not."""
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])

    def set_meta(self, name: str, value: object) -> None:
        """Keep a value."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, json.dumps(value)))

    def put(self, kind: str, name: str, record: dict[str, Any]) -> None:
        """Keep a record, in place of an earlier one of that name."""
        self._db.execute(
            "INSERT INTO records VALUES (?, ?, ?) ON CONFLICT (kind, id) DO UPDATE SET value = excluded.value",
            (kind, name, json.dumps(record)),
        )

    def delete(self, kind: str, name: str) -> None:
        """Forget a record."""
        self._db.execute("DELETE FROM records WHERE kind = ? AND id = ?", (kind, name))

    def all(self, kind: str) -> Iterator[dict[str, Any]]:
        """All records of a kind, in the order in which they were first put."""
        for (value,) in self._db.execute("SELECT value FROM records WHERE kind = ? ORDER BY rowid", (kind,)):
            yield json.loads(value)

    def bill(self, rows: Iterable[Billed]) -> None:
        """Add to the ledger: all of the rows, or none."""
        with self.transaction():
            self._db.executemany("INSERT INTO billed VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def billed(self) -> Iterator[Billed]:
        """The ledger, in order of time of entry."""
        yield from self._db.execute("SELECT * FROM billed ORDER BY rowid")

    def billed_counts(self) -> dict[bytes, int]:
        """Digest → how often it was billed."""
        return dict(self._db.execute("SELECT text, COUNT(*) FROM billed GROUP BY text"))

    def billed_totals(self) -> list[tuple[str, str, int, int, int, float]]:
        """Sums by lane and model: lane, model, entries, tokens, generated tokens, dollars."""
        return self._db.execute(
            "SELECT lane, model, COUNT(*), SUM(tokens), SUM(output_tokens), SUM(dollars) FROM billed"
            " GROUP BY lane, model ORDER BY lane, model"
        ).fetchall()

    def billed_texts(self, digest: bytes) -> int:
        """How often one text was billed."""
        (count,) = self._db.execute("SELECT COUNT(*) FROM billed WHERE text = ?", (digest,)).fetchone()
        return int(count)

    # --- contents of files ---------------------------------------------------------------------------------------

    def path(self, name: str) -> Path:
        """Where a file's content lies."""
        return self.files / name

    def append(self, name: str, offset: int, data: bytes) -> None:
        """Write a piece of a file that comes in pieces; what lay behind the offset is dropped."""
        with self.path(name).open("r+b" if self.path(name).exists() else "wb") as stream:
            stream.seek(offset)
            stream.truncate()
            stream.write(data)

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file, or nothing."""
        part = self.path(f"{name}.part")
        part.write_bytes(data)
        part.replace(self.path(name))

    def link(self, name: str, other: str) -> None:
        """A second name for a file's content, which stays when the first one is deleted."""
        try:
            os.link(self.path(name), self.path(other))
        except FileExistsError:
            return
        except OSError:  # a file system without hard links
            shutil.copyfile(self.path(name), self.path(other))

    def remove(self, name: str) -> None:
        """Delete a file's content, if it is there."""
        self.path(name).unlink(missing_ok=True)
