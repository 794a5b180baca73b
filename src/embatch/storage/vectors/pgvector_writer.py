"""An index in PostgreSQL as its one writer sees it. Implements `ChunkWriter`.

Rows are written where they stay, with ids above the mark up to which readers look; publishing moves the mark. A killed
writer leaves whole transactions, which the next one finds. Which tables there are is `pgvector_sql`'s matter.
"""

from __future__ import annotations

import hashlib
import json
import threading
import weakref
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg

from embatch.chunks import FileState
from embatch.errors import IndexBusyError, UsageError
from embatch.storage.vectors import pgvector_sql as sql
from embatch.storage.vectors.pgvector_connect import Location, errors, vector_of
from embatch.storage.vectors.pgvector_editions import drop_old, edition_to_write, rows
from embatch.storage.vectors.pgvector_index import bring_up_to_date
from embatch.storage.vectors.pgvector_sql import named
from embatch.storage.vectors.pgvector_words import as_tsvector, words_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from psycopg import Connection

    from embatch.chunks import Chunk
    from embatch.types import FloatArray, ModelSpec

_LOCK_WAIT = "1s"  # the server notices within half of it that a killed writer is gone
_KNOWN_AT_ONCE = 4096
_ANALYZE_SHARE = 0.1  # the planner's numbers are refreshed when so much of the table is new


class PostgresWriter:
    """The one writer of an index, for as long as its session lasts. Thread-safe.

    Args:
        url: see `pgvector`.
        spec: the model whose vectors it holds.
        fresh: begin anew, beside what readers see.

    Raises:
        IndexBusyError: another writer has it open.
        IndexMismatchError: it was made with another model.
        SearchIndexError: the server cannot be reached or refuses.
    """

    def __init__(self, url: str, *, spec: ModelSpec, fresh: bool) -> None:
        self.spec = spec
        self._location = Location.parse(url)
        self._lock = threading.RLock()
        self._connection = self._location.connect(writes=True)
        weakref.finalize(self, self._connection.close)  # for those who forget
        try:
            with errors(self._location):
                self._lock_index()
                self._state = edition_to_write(self._connection, self._location, spec, fresh=fresh)
                self._next_id = 1 + self._one(sql.HIGHEST_ID)
                self._ids = {row[1]: row[0] for row in self._all(sql.FILES)}
        except BaseException:
            self._connection.close()
            raise
        self.about: Mapping[str, str] = self._state.about_next

    def describe(self, about: Mapping[str, str]) -> None:
        """Keep these words with the index; readers see them from the next `publish` on."""
        if dict(about) == self.about:
            return
        with self._transaction() as connection:
            connection.execute(self._named(sql.DESCRIBE), {"about": json.dumps(dict(about))})
        self.about = dict(about)

    def files(self) -> dict[str, FileState]:
        """Everything that is in it, by path, unpublished changes included."""
        with self._transaction():
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
                for _, path, removed, size, mtime, inode, digest, chunks, skipped, failed in self._all(
                    sql.FILES
                )
                if not removed
            }

    def known(self, digests: Sequence[bytes]) -> dict[bytes, FloatArray]:
        """The vectors `(dim,)` that it holds among those asked for, by `Chunk.digest`."""
        found: dict[bytes, FloatArray] = {}
        with self._transaction():
            for first in range(0, len(digests), _KNOWN_AT_ONCE):
                some = list(digests[first : first + _KNOWN_AT_ONCE])
                found.update(
                    (digest, vector_of(vector)) for digest, vector in self._all(sql.KNOWN, digests=some)
                )
        return found

    def replace(self, files: Sequence[FileState], chunks: Sequence[Chunk], vectors: FloatArray) -> None:
        """Drop all chunks of these files and add `chunks`, and note the states, all in one transaction.

        Raises:
            UsageError: the vectors are not one a chunk, or not of the model's size, or not finite; or a chunk is of
                none of the files.
            DiskFullError: the server has no space left.
        """
        self._check(files, chunks, vectors)
        held = Counter(chunk.path for chunk in chunks)
        with self._transaction() as connection:
            ids = self._save(connection, files)
            self._outdate(connection, list(ids.values()))
            first = self._next_id
            if chunks:
                self._copy(connection, first, [ids[chunk.path] for chunk in chunks], chunks, vectors)
            with connection.cursor() as cursor:
                numbers = [(held[path], id_, held[path]) for path, id_ in ids.items()]
                cursor.executemany(self._named(sql.HELD), numbers)
        self._ids.update(ids)
        self._next_id = first + len(chunks)

    def note(self, files: Sequence[FileState]) -> None:
        """Note states of files whose chunks are as they were; those of files that have none any more are dropped."""
        with self._transaction() as connection:
            ids = self._save(connection, files)
            numbers = {"files": list(ids.values())}
            emptied = [row[0] for row in connection.execute(self._named(sql.EMPTIED), numbers)]
            if emptied:
                self._outdate(connection, emptied)
        self._ids.update(ids)

    def remove(self, paths: Sequence[str]) -> None:
        """Drop these files and their chunks."""
        ids = [self._ids[path] for path in paths if path in self._ids]
        if not ids:
            return
        with self._transaction() as connection:
            connection.execute(self._named(sql.CHANGED))
            connection.execute(self._named(sql.REMOVE_FILES), {"files": ids})
            self._outdate(connection, ids)

    def publish(self) -> None:
        """Let readers see everything. What takes long, the indexes, is made before; the rest is one transaction."""
        with self._open():
            (state,) = self._states()
            if not state.changed:
                return
            pending = self._one(sql.PENDING, mark=state.mark)
            bring_up_to_date(self._connection, state, self.spec, rows=state.chunks + pending)
            with self._transaction() as connection:
                forgotten = self._settle(connection, state.mark, state.generation)
                connection.execute(named(sql.RETIRE_OTHERS, state.edition))
                (self._state,) = rows(connection, self._location, self._named(sql.PUBLISH))
            for path in forgotten:
                self._ids.pop(path, None)
            if pending > _ANALYZE_SHARE * self._state.chunks:
                self._connection.execute(self._named(sql.ANALYZE))
            if state.generation > 0:  # readers had a whole publication's time to move on
                drop_old(self._connection, self._location)

    def close(self) -> None:
        """Release it, and let another writer in."""
        with self._lock:
            self._connection.close()

    def _check(self, files: Sequence[FileState], chunks: Sequence[Chunk], vectors: FloatArray) -> None:
        strangers = {chunk.path for chunk in chunks} - {state.path for state in files}
        if strangers:
            raise UsageError(f"chunks of {min(strangers)!r} were given without its state")
        if chunks and vectors.shape != (len(chunks), self.spec.dimensions):
            expected = (len(chunks), self.spec.dimensions)
            raise UsageError(f"vectors of the shape {expected} are needed, not {vectors.shape}")
        if not np.isfinite(vectors).all():
            raise UsageError("a vector holds NaN or infinity: chunks without a vector are left out")

    def _lock_index(self) -> None:
        name = hashlib.blake2b(f"embatch {self._location.schema}".encode(), digest_size=8).digest()
        key = int.from_bytes(name, "big", signed=True)
        self._connection.execute(sql.LOCK_WAIT, {"wait": _LOCK_WAIT})
        try:
            self._connection.execute(sql.LOCK, {"key": key})
        except psycopg.errors.LockNotAvailable as error:
            raise IndexBusyError(f"Another process is changing {self._location.shown}.") from error
        self._connection.execute(sql.LOCK_WAIT, {"wait": "0"})

    def _save(self, connection: Connection, files: Sequence[FileState]) -> dict[str, int]:
        """The files' ids, after their states were noted."""
        connection.execute(self._named(sql.CHANGED))
        highest = max(self._ids.values(), default=0)
        ids: dict[str, int] = {}
        for state in files:
            ids[state.path] = self._ids.get(state.path, highest + len(ids) + 1)
        noted = [
            (ids[f.path], f.path, f.size_bytes, f.mtime_ns, f.inode, f.digest, f.chunks, f.skipped, f.failed)
            for f in files
        ]
        with connection.cursor() as cursor:
            cursor.executemany(self._named(sql.SAVE_FILE), noted)
        return ids

    def _outdate(self, connection: Connection, files: list[int]) -> None:
        """Published chunks of these files end with the next generation; others had never begun."""
        numbers = {"files": files, "mark": self._state.mark, "generation": self._state.generation}
        connection.execute(self._named(sql.OUTDATE), numbers)
        dropped = [row[0] for row in connection.execute(self._named(sql.DROP_PENDING[0]), numbers)]
        for statement in sql.DROP_PENDING[1:] if dropped else ():
            connection.execute(self._named(statement), {"ids": dropped})

    def _copy(
        self,
        connection: Connection,
        first: int,
        files: list[int],
        chunks: Sequence[Chunk],
        vectors: FloatArray,
    ) -> None:
        ids = range(first, first + len(chunks))
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        counted = [words_of(chunk) for chunk in chunks]
        with connection.cursor() as cursor:
            with cursor.copy(self._named(sql.COPY_CHUNKS)) as copy:
                copy.set_types(sql.COPY_CHUNKS_TYPES)
                for id_, file, chunk, vector in zip(ids, files, chunks, vectors, strict=True):
                    copy.write_row((id_, file, chunk.language, chunk.kind, chunk.digest, vector))
            with cursor.copy(self._named(sql.COPY_WORDS)) as copy:
                for id_, file, chunk, words in zip(ids, files, chunks, counted, strict=True):
                    row = (id_, file, chunk.language, chunk.kind, words.total(), as_tsvector(words))
                    copy.write_row(row)
            with cursor.copy(self._named(sql.COPY_TEXTS)) as copy:
                copy.set_types(sql.COPY_TEXTS_TYPES)
                for id_, c in zip(ids, chunks, strict=True):
                    texts = map(_encoded, (c.symbol, c.context, c.imports, c.text))
                    copy.write_row((id_, c.start, c.end, c.start_line, c.end_line, *texts))

    def _settle(self, connection: Connection, mark: int, generation: int) -> list[str]:
        """Remove what no reader sees any more, and count what is new; the paths of files that went with it."""
        for statement in sql.FORGET_GONE:
            connection.execute(self._named(statement), {"generation": generation})
        forgotten = [row[0] for row in connection.execute(self._named(sql.FORGET_FILES))]
        connection.execute(self._named(sql.COUNT_KINDS), {"mark": mark, "generation": generation})
        connection.execute(self._named(sql.COUNT_WORDS, mark=mark, generation=generation))
        return forgotten

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._open(), self._connection.transaction():
            yield self._connection

    @contextmanager
    def _open(self) -> Iterator[None]:
        with self._lock, errors(self._location):
            if self._connection.closed and not self._connection.broken:
                raise UsageError("the index was closed", hint="Keep it open while it is used.")
            yield

    def _named(self, statement: str, **parts: int) -> str:
        return named(statement, self._state.edition, **parts)

    def _states(self) -> list[Any]:
        return rows(self._connection, self._location, self._named(sql.EDITION))

    def _all(self, statement: str, **parameters: object) -> list[Any]:
        with self._connection.cursor(binary=True) as cursor:
            found: list[Any] = cursor.execute(self._named(statement), parameters or None).fetchall()
        return found

    def _one(self, statement: str, **parameters: object) -> int:
        return int(self._all(statement, **parameters)[0][0])


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
