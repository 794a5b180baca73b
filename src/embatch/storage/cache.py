"""Vectors by content: a file in which a text's digest finds its vector again.

Between the plan and the backend: what is found here needs no batch. The run's journal and the long-lived cache are
both this. It does not make digests, and takes it on trust that equal digests under one fingerprint mean equal vectors.

Layout: the rows of one `put` lie together as one block, digests and vectors, written by a single statement. The index
from digest to row is brought up to date once for many blocks, since putting random keys into a tree one by one costs
more than the vectors themselves. Until then a dictionary of bounded size knows the newest rows, and after a kill the
blocks beyond the mark tell what to index. Statements are few and large for a second reason: each one gives up Python's
lock, and a busy process may take milliseconds to hand it back. A checksum and the digest itself are compared on
reading, so that a damaged file costs time and never gives a wrong vector.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from embatch.decisions.vectors import is_finite_rows
from embatch.errors import OutputMismatchError, UsageError
from embatch.storage.sqlite import HeldConnection, connect, sqlite_errors, transaction

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from pathlib import Path

    from embatch.types import FloatArray

DIGEST_BYTES = 16
_BLOCK_BYTES = 128 << 10  # what one scattered read costs; a larger `put` becomes several blocks
_RECENT_BYTES = 16 << 20  # blocks kept after reading: a resumed run asks in the order in which it wrote
_INDEX_ROWS = 16_384  # rows that wait for the index: 2 MB, 50 ms
_GET_ROWS = 4096  # digests looked up by one statement

MIGRATIONS = (
    """
    CREATE TABLE fingerprints (id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE);
    CREATE TABLE blocks (
        id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice: other processes remember blocks by it
        fingerprint_id INTEGER NOT NULL REFERENCES fingerprints (id),
        count INTEGER NOT NULL,
        dim INTEGER NOT NULL,
        checksum INTEGER NOT NULL,             -- CRC-32 of the vectors and then the digests
        digests BLOB NOT NULL,                 -- 16 bytes a row
        vectors BLOB NOT NULL                  -- float32, little endian, row after row
    );
    CREATE TABLE vectors (
        fingerprint_id INTEGER NOT NULL,
        digest BLOB NOT NULL,
        block INTEGER NOT NULL,
        row INTEGER NOT NULL,
        PRIMARY KEY (fingerprint_id, digest)
    ) WITHOUT ROWID;
    CREATE TABLE mark (indexed INTEGER NOT NULL);  -- blocks up to here are in the table `vectors`
    INSERT INTO mark VALUES (0);
    """,
)

_ADD_FINGERPRINT = "INSERT OR IGNORE INTO fingerprints (fingerprint) VALUES (?)"
_FIND_FINGERPRINT = "SELECT id FROM fingerprints WHERE fingerprint = ?"
_ADD_BLOCK = """
    INSERT INTO blocks (fingerprint_id, count, dim, checksum, digests, vectors) VALUES (?, ?, ?, ?, ?, ?)
"""
_READ_BLOCK = "SELECT count, checksum, digests, vectors FROM blocks WHERE id = ? AND fingerprint_id = ?"
# Numbers 0, 1, … stand for the digests in one long blob. In the order of the tree, each of its pages is written once.
_INDEX = """
    WITH RECURSIVE n (i) AS (
        SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < (
            SELECT max(length(digests)) / 16 FROM blocks WHERE id > (SELECT indexed FROM mark)))
    INSERT OR IGNORE INTO vectors
    SELECT fingerprint_id, substr(digests, 1 + 16 * i, 16) AS digest, id, i
    FROM blocks CROSS JOIN n ON i < length(digests) / 16
    WHERE id > (SELECT indexed FROM mark)
    ORDER BY fingerprint_id, digest, id
"""
_MARK = "UPDATE mark SET indexed = (SELECT coalesce(max(id), indexed) FROM blocks)"
_UNINDEXED = "SELECT EXISTS (SELECT 1 FROM blocks WHERE id > (SELECT indexed FROM mark))"
_FIND = """
    WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :count)
    SELECT group_concat(i || ' ' || block || ' ' || row, ' ')
    FROM n CROSS JOIN vectors
    ON fingerprint_id = :fingerprint AND digest = substr(:digests, 1 + 16 * i, 16)
"""
_COUNT = "SELECT count(*) FROM vectors WHERE fingerprint_id = ?"
_SIZE = """
    SELECT (page_count - freelist_count) * page_size
    FROM pragma_page_count, pragma_freelist_count, pragma_page_size
"""
_OLDEST = """
    SELECT min(id) FROM (
        -- a row of the index is about twice its digest
        SELECT id, sum(length(vectors) + 3 * length(digests)) OVER (ORDER BY id) AS bytes FROM blocks)
    WHERE bytes >= ?
"""


class _Block(NamedTuple):
    """Vectors that were put together, as read and checked."""

    digests: bytes
    vectors: FloatArray

    def holds(self, rows: dict[bytes, int]) -> bool:
        """Whether each digest belongs to its row."""
        at = self.digests
        return all(
            at[DIGEST_BYTES * row : DIGEST_BYTES * (row + 1)] == digest for digest, row in rows.items()
        )


class VectorCache:
    """A `VectorStore` in a SQLite file. Vectors of several fingerprints may share the file and never mix.

    Args:
        path: the file; it and the folders above it are created.
        fingerprint: of the ModelSpec that the vectors belong to.
        dimensions: length of each vector.
        exclusive: keep other processes out while this is open.
        connection: an open connection to `path` that holds these tables; closed with the cache.

    Raises:
        OutputError: one of its kinds, when the file cannot be used; see `embatch.storage.sqlite`.
    """

    def __init__(
        self,
        path: Path,
        *,
        fingerprint: str,
        dimensions: int,
        exclusive: bool = False,
        connection: sqlite3.Connection | None = None,
    ) -> None:
        self._path = path
        self._dimensions = dimensions
        self._block_rows = max(1, _BLOCK_BYTES // (4 * dimensions))
        self._newest: dict[bytes, tuple[int, int]] = {}  # digest -> (block, row), not yet in the index
        self._recent: OrderedDict[int, _Block] = OrderedDict()
        self._recent_bytes = 0
        self._connection = HeldConnection(
            connection or connect(path, migrations=MIGRATIONS, exclusive=exclusive),
            lambda: UsageError(f"the store {str(path)!r} is closed", hint="Open it again to use it."),
        )
        try:
            with sqlite_errors(path):
                with transaction(self._open):
                    self._open.execute(_ADD_FINGERPRINT, (fingerprint,))
                row = self._open.execute(_FIND_FINGERPRINT, (fingerprint,)).fetchone()
                self._fingerprint: int = row[0]
                self._index()
        except BaseException:
            self.release()
            raise

    def get(self, digests: Sequence[bytes]) -> dict[bytes, FloatArray]:
        """The stored vectors among those asked for, each `(dim,)` float32 and the caller's own.

        A block that turns out to be damaged is dropped, and its rows are as good as never stored.

        Args:
            digests: of 16 bytes each.
        """
        found: dict[bytes, FloatArray] = {}
        with sqlite_errors(self._path):
            for start in range(0, len(digests), _GET_ROWS):
                self._get(digests[start : start + _GET_ROWS], found)
        return found

    def put(self, digests: Sequence[bytes], vectors: FloatArray) -> None:
        """Store vectors `(n, dim)` under their digests, in one transaction. When it returns, a kill loses nothing.

        A digest that is known keeps its vector. Rows that hold NaN or infinity are left out.

        Raises:
            UsageError: the shapes do not fit each other or this cache.
            DiskFullError: no space is left; nothing of this call is stored, all earlier ones are.
        """
        if vectors.shape != (len(digests), self._dimensions):
            raise UsageError(
                f"{len(digests)} digests and vectors of shape {vectors.shape} do not fit a store of "
                f"{self._dimensions} dimensions"
            )
        finite = is_finite_rows(vectors)
        if not finite.all():
            digests = [digest for digest, good in zip(digests, finite.tolist(), strict=True) if good]
            vectors = vectors[finite]
        if not digests:
            return
        with sqlite_errors(self._path):
            self._put(digests, np.ascontiguousarray(vectors, dtype="<f4"))
            if len(self._newest) >= _INDEX_ROWS:
                self._index()

    def count(self) -> int:
        """How many vectors of this fingerprint are stored."""
        with sqlite_errors(self._path):
            self._index()
            return int(self._open.execute(_COUNT, (self._fingerprint,)).fetchone()[0])

    def size(self) -> int:
        """Bytes that the file uses, vectors of all fingerprints and the index included."""
        with sqlite_errors(self._path):
            return int(self._open.execute(_SIZE).fetchone()[0])

    def prune(self, max_bytes: int) -> int:
        """Drop the oldest blocks, of any fingerprint, until `size()` is at most `max_bytes`; the bytes given back."""
        with sqlite_errors(self._path):
            self._index()
            before = self.size()
            while (excess := self.size() - max_bytes) > 0 and self._drop_oldest(excess):
                pass
            self._open.executescript("PRAGMA incremental_vacuum")  # `execute` would free one page of it
            self._open.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return before - self.size()

    def close(self) -> None:
        """Release the file. Closing twice is allowed."""
        if not self._connection.is_open:
            return
        try:
            with sqlite_errors(self._path):
                self._index()
        finally:
            self.release()

    def release(self) -> None:
        """Close without bringing the index up to date; the next to open the file does it."""
        self._connection.close()

    @property
    def _open(self) -> sqlite3.Connection:
        return self._connection.get()

    # --- finding ----------------------------------------------------------------------------------------------

    def _get(self, digests: Sequence[bytes], found: dict[bytes, FloatArray]) -> None:
        damaged: dict[int, list[bytes]] = {}
        for number, rows in self._places(digests).items():
            block = self._block(number)
            if block is None or not block.holds(rows):
                damaged[number] = list(rows)
            else:
                found.update(zip(rows, block.vectors[list(rows.values())], strict=True))
        if damaged:
            self._forget(damaged)

    def _places(self, digests: Sequence[bytes]) -> dict[int, dict[bytes, int]]:
        """Where the vectors lie: block -> digest -> row. The index speaks first: what is known is kept."""
        places: dict[int, dict[bytes, int]] = {}
        known: set[bytes] = set()
        for i, block, row in self._indexed(digests):
            places.setdefault(block, {})[digests[i]] = row
            known.add(digests[i])
        if self._newest and len(known) < len(digests):
            for digest in digests:
                if digest not in known and (place := self._newest.get(digest)):
                    places.setdefault(place[0], {})[digest] = place[1]
        return places

    def _indexed(self, digests: Sequence[bytes]) -> list[tuple[int, int, int]]:
        joined = _joined(digests)
        values = {"count": len(digests), "digests": joined, "fingerprint": self._fingerprint}
        answer = self._open.execute(_FIND, values).fetchone()[0]
        try:
            numbers = [int(word) for word in answer.split()] if answer else []
            return list(zip(numbers[0::3], numbers[1::3], numbers[2::3], strict=True))
        except ValueError as error:
            raise OutputMismatchError(f"the index in {str(self._path)!r} is damaged ({error})") from error

    def _block(self, number: int) -> _Block | None:
        """A block, None if it is gone or damaged."""
        if number in self._recent:
            self._recent.move_to_end(number)
            return self._recent[number]
        block = self._read(number)
        if block is not None:
            self._recent[number] = block
            self._recent_bytes += block.vectors.nbytes
            while self._recent_bytes > _RECENT_BYTES and len(self._recent) > 1:
                self._recent_bytes -= self._recent.popitem(last=False)[1].vectors.nbytes
        return block

    def _read(self, number: int) -> _Block | None:
        stored = self._open.execute(_READ_BLOCK, (number, self._fingerprint)).fetchone()
        if stored is None:
            return None
        count, checksum, digests, data = stored
        if not (isinstance(count, int) and isinstance(digests, bytes) and isinstance(data, bytes)):
            return None
        if len(data) != 4 * count * self._dimensions or zlib.crc32(digests, zlib.crc32(data)) != checksum:
            return None
        vectors = np.frombuffer(data, dtype="<f4").astype(np.float32, copy=False)
        return _Block(digests, vectors.reshape(count, self._dimensions))

    # --- changing ---------------------------------------------------------------------------------------------

    def _put(self, digests: Sequence[bytes], vectors: FloatArray) -> None:
        starts = range(0, len(digests), self._block_rows)
        added: list[tuple[int, Sequence[bytes]]] = []
        if len(starts) == 1:  # the usual case: one statement is its own transaction
            added.append((self._add_block(digests, vectors), digests))
        else:
            with transaction(self._open):
                for start in starts:
                    rows = slice(start, start + self._block_rows)
                    added.append((self._add_block(digests[rows], vectors[rows]), digests[rows]))
        for block, keys in added:
            for row, digest in enumerate(keys):
                self._newest.setdefault(digest, (block, row))

    def _add_block(self, digests: Sequence[bytes], vectors: FloatArray) -> int:
        joined, data = _joined(digests), vectors.data.cast("B")
        checksum = zlib.crc32(joined, zlib.crc32(data))
        row = (self._fingerprint, len(digests), self._dimensions, checksum, joined, data)
        block = self._open.execute(_ADD_BLOCK, row).lastrowid
        assert block is not None
        return block

    def _index(self) -> None:
        """Bring the index up to date."""
        if not self._open.execute(_UNINDEXED).fetchone()[0]:
            return
        with transaction(self._open):
            self._open.execute(_INDEX)
            self._open.execute(_MARK)
        self._newest.clear()

    def _forget(self, damaged: dict[int, list[bytes]]) -> None:
        """Drop damaged blocks and the rows that led there, so that these can be stored anew."""
        with transaction(self._open):
            self._open.executemany("DELETE FROM blocks WHERE id = ?", [(block,) for block in damaged])
            self._open.executemany(
                "DELETE FROM vectors WHERE fingerprint_id = ? AND digest = ?",
                [(self._fingerprint, digest) for digests in damaged.values() for digest in digests],
            )
        for digest in (digest for digests in damaged.values() for digest in digests):
            self._newest.pop(digest, None)

    def _drop_oldest(self, excess_bytes: int) -> bool:
        """Drop blocks from the oldest on that hold at least `excess_bytes`; False if there is none left."""
        oldest, newest = self._open.execute("SELECT min(id), max(id) FROM blocks").fetchone()
        if oldest is None:
            return False
        last = self._open.execute(_OLDEST, (excess_bytes,)).fetchone()[0]
        last = newest if last is None else last
        with transaction(self._open):
            self._open.execute("DELETE FROM vectors WHERE block <= ?", (last,))
            self._open.execute("DELETE FROM blocks WHERE id <= ?", (last,))
        return True


class MemoryStore:
    """A `VectorStore` in memory, for tests and for a cache that need not outlive the process. Grows without bound."""

    def __init__(self) -> None:
        self._vectors: dict[bytes, FloatArray] = {}

    def get(self, digests: Sequence[bytes]) -> dict[bytes, FloatArray]:
        """The stored vectors among those asked for, each `(dim,)` float32 and the caller's own."""
        return {digest: self._vectors[digest].copy() for digest in digests if digest in self._vectors}

    def put(self, digests: Sequence[bytes], vectors: FloatArray) -> None:
        """Store vectors `(n, dim)` under their digests; known digests are kept, rows not finite are left out."""
        if vectors.ndim != 2 or len(vectors) != len(digests):
            raise UsageError(f"{len(digests)} digests do not fit vectors of shape {vectors.shape}")
        for digest, vector, finite in zip(digests, vectors, is_finite_rows(vectors).tolist(), strict=True):
            if finite:
                self._vectors.setdefault(digest, vector.astype(np.float32))

    def count(self) -> int:
        """How many vectors are stored."""
        return len(self._vectors)

    def close(self) -> None:
        """Forget everything. Closing twice is allowed."""
        self._vectors.clear()


def _joined(digests: Sequence[bytes]) -> bytes:
    joined = b"".join(digests)
    if len(joined) != DIGEST_BYTES * len(digests):
        raise UsageError(
            f"a digest has {DIGEST_BYTES} bytes; these {len(digests)} have {len(joined)} together"
        )
    return joined
