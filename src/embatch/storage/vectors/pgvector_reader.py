"""An index in PostgreSQL as searchers see it. Implements `ChunkReader`.

Each call is one transaction over one snapshot of the database, so that no publication is seen in part and no writer is
waited for. It keeps to the publication that it saw while that is there, and moves on to the newest when it is not.
"""

from __future__ import annotations

import math
import threading
import weakref
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from embatch.chunks import Chunk, Hit, StoreStats, Where
from embatch.decisions.globs import path_filter
from embatch.errors import (
    IndexBrokenError,
    IndexMismatchError,
    IndexNotFoundError,
    IndexUnreachableError,
    UsageError,
)
from embatch.storage.vectors import pgvector_sql as sql
from embatch.storage.vectors.matching import query_words
from embatch.storage.vectors.pgvector_connect import Location, Pool, vector_of
from embatch.storage.vectors.pgvector_editions import editions_of
from embatch.storage.vectors.pgvector_index import LARGEST_EF, ROWS, in_words, indexed
from embatch.storage.vectors.pgvector_sql import named
from embatch.storage.vectors.pgvector_words import FEW, MANY, ranking
from embatch.storage.vectors.sampling import sampled, slices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy.typing as npt
    from psycopg import Connection

    from embatch.storage.vectors.pgvector_editions import Edition
    from embatch.types import FloatArray, ModelSpec

T = TypeVar("T")

_SCANNED = 4 * ROWS  # rows that a search by index looks at before it leaves a narrow filter to an exact one


@dataclass(frozen=True, slots=True)
class _Filter:
    """Which rows may be found, as SQL."""

    where: str
    parameters: Mapping[str, Any]
    chunks: int
    """So many at most."""


@dataclass(frozen=True, slots=True)
class _Files:
    """The files of one publication."""

    publication: tuple[int, int]
    paths: Sequence[tuple[int, str, int]]
    """Number, path, chunks."""


class PostgresReader:
    """An index as it was last published. Thread-safe.

    Args:
        url: see `pgvector`.

    Raises:
        IndexNotFoundError: there is none, or nothing of it was published yet.
        SearchIndexError: the server cannot be reached or refuses.
    """

    def __init__(self, url: str) -> None:
        self._location = Location.parse(url)
        self._pool = Pool(self._location)
        weakref.finalize(self, self._pool.close)  # for those who forget
        self._lock = threading.Lock()
        self._state: Edition | None = None
        self._files: _Files | None = None
        try:
            self._read(lambda _, __: None)
        except BaseException:
            self._pool.close()
            raise
        self._told = _publication(self._pinned)

    @property
    def spec(self) -> ModelSpec:
        """The model that its vectors were made with."""
        return self._pinned.model

    @property
    def about(self) -> Mapping[str, str]:
        """What its writers said of it."""
        return self._pinned.about

    def count(self) -> int:
        """Chunks in it."""
        return self._read(lambda _, state: state.chunks)

    def nearest(self, vectors: FloatArray, *, k: int, where: Where) -> list[list[Hit]]:
        """The `k` chunks with the highest cosine for each row of `(q, dim)`, best first.

        Raises:
            IndexMismatchError: the vectors are of another size, or the index was made anew with another model.
            UsageError: `vectors` is no matrix, or a pattern of `where` is none.
        """
        if np.ndim(vectors) != 2:
            raise UsageError(f"nearest takes vectors as (q, dim), not of the shape {np.shape(vectors)}")
        rows = np.ascontiguousarray(vectors, dtype=np.float32)

        def search(connection: Connection, state: Edition) -> list[list[Hit]]:
            dimensions = state.model.dimensions
            if rows.shape[1] != dimensions:
                raise IndexMismatchError(
                    f"the query has {rows.shape[1]} dimensions and the index {dimensions}: they are of two models"
                )
            chosen = self._filter(connection, state, where)
            if chosen is None or k < 1:
                return [[] for _ in rows]
            return [_nearest(connection, state, row, k, chosen) for row in rows]

        return self._read(search)

    def matching(self, texts: Sequence[str], *, k: int, where: Where) -> list[list[Hit]]:
        """The `k` best chunks for each query by BM25 over text, symbol, path and imports."""

        def search(connection: Connection, state: Edition) -> list[list[Hit]]:
            chosen = self._filter(connection, state, where)
            if chosen is None or k < 1:
                return [[] for _ in texts]
            return [_matching(connection, state, query_words(text), k, chosen) for text in texts]

        return self._read(search)

    def at(self, path: str, line: int) -> tuple[Chunk, FloatArray] | None:
        """The chunk that holds a line of a file, with its vector `(dim,)`; the smallest one if there are several."""

        def search(connection: Connection, state: Edition) -> tuple[Chunk, FloatArray] | None:
            connection.execute(sql.PLAIN)
            found = _all(connection, state, sql.AT, {**_seen(state), "path": path, "line": line})
            if not found:
                return None
            *row, vector = found[0]
            (hit,) = _shown(connection, state, [(*row, 0.0)])
            return hit.chunk, vector_of(vector)

        return self._read(search) if "\0" not in path else None

    def scan(self, most: int, *, seed: int = 0) -> Iterator[tuple[list[Chunk], FloatArray]]:
        """Every chunk with its vectors `(n, dim)`, some thousand at a time in the order of their numbers.

        Args:
            most: so many chunks at most: a sample of more, always the same one of the same state.
            seed: names the sample.

        Raises:
            IndexBrokenError: what was published when it began was removed meanwhile; begin anew.
        """

        def begin(connection: Connection, state: Edition) -> tuple[tuple[int, int], npt.NDArray[np.int64]]:
            statement = named(sql.SCAN_IDS, state.edition, seen=sql.SEEN)
            found = _all(connection, state, statement, _seen(state))
            return _publication(state), np.array([row[0] for row in found], np.int64)

        begun, ids = self._read(begin)
        for positions in slices(sampled(len(ids), most, seed)):
            yield self._read(partial(_scanned, begun=begun, ids=ids[positions].tolist()))

    def stats(self) -> StoreStats:
        """How much it holds. The counts by language and kind are those of the newest publication."""

        def look(connection: Connection, state: Edition) -> StoreStats:
            by_language: dict[str, int] = {}
            by_kind: dict[str, int] = {}
            for language, kind, chunks in _all(connection, state, sql.COUNTS):
                by_language[language] = by_language.get(language, 0) + chunks
                by_kind[kind] = by_kind.get(kind, 0) + chunks
            return StoreStats(
                chunks=state.chunks,
                files=state.files,
                bytes=_all(connection, state, sql.BYTES)[0][0],
                by_language=by_language,
                by_kind=by_kind,
                vector_index=in_words(state, state.model.dimensions),
                recall=state.recall if state.has_vector_index else None,
            )

        return self._read(look)

    def refresh(self) -> bool:
        """Go on to what was published since, be it made with another model; whether there was something."""
        self._read(lambda _, __: None, newest=True)
        before, self._told = self._told, _publication(self._pinned)
        return self._told != before

    def close(self) -> None:
        """Close its sessions."""
        self._pool.close()

    @property
    def _pinned(self) -> Edition:
        assert self._state is not None, "set when it is opened"
        return self._state

    def _read(self, work: Callable[[Connection, Edition], T], *, newest: bool = False) -> T:
        """What `work` makes of one snapshot. A session that broke, or tables that went away, get a second chance."""
        try:
            return self._read_once(work, newest=newest)
        except (IndexUnreachableError, IndexBrokenError):
            return self._read_once(work, newest=newest)

    def _read_once(self, work: Callable[[Connection, Edition], T], *, newest: bool) -> T:
        with self._pool.snapshot() as connection:
            found = editions_of(connection, self._location)
            live = next((edition for edition in found if edition.status == "live"), None)
            if live is None:
                raise IndexNotFoundError(f"There is no published index at {self._location.shown}.")
            with self._lock:
                state = self._state = self._choose(found, live, newest=newest)
            return work(connection, state)

    def _choose(self, found: Sequence[Edition], live: Edition, *, newest: bool) -> Edition:
        """The publication to read: the one seen before if the store still has all of it."""
        before = self._state
        if before is None:
            return live
        now = next((edition for edition in found if edition.edition == before.edition), None)
        if not newest and now is not None and now.generation <= before.generation + 1:
            return before if now.generation > before.generation else now  # the same one: indexes may be new
        if not newest and live.spec != before.spec:
            raise IndexMismatchError(
                f"{self._location.shown} was made anew with another model, {live.model.model!r}.",
                hint="Open it again, and search with vectors of that model.",
            )
        return live

    def _filter(self, connection: Connection, state: Edition, where: Where) -> _Filter | None:
        """None if nothing can pass."""
        conditions: list[str] = []
        parameters: dict[str, Any] = {}
        chunks = state.chunks
        if where.paths:
            passes = path_filter(where.paths)
            files = [file for file in self._paths(connection, state) if passes(file[1])]
            if not files:
                return None
            conditions.append("AND file = ANY(%(files)s)")
            parameters["files"] = [number for number, _, _ in files]
            chunks = min(chunks, sum(count for _, _, count in files))
        if where.languages or where.kinds:
            chunks = min(chunks, self._counted(connection, state, where))
        if where.languages:
            conditions.append("AND language = ANY(%(languages)s)")
            parameters["languages"] = list(where.languages)
        if where.kinds:
            conditions.append("AND kind = ANY(%(kinds)s)")
            parameters["kinds"] = list(where.kinds)
        return _Filter(" ".join(conditions), parameters, chunks)

    def _paths(self, connection: Connection, state: Edition) -> Sequence[tuple[int, str, int]]:
        files = self._files
        if files is None or files.publication != _publication(state):
            files = _Files(_publication(state), _all(connection, state, sql.PATHS))
            self._files = files
        return files.paths

    @staticmethod
    def _counted(connection: Connection, state: Edition, where: Where) -> int:
        return sum(
            chunks
            for language, kind, chunks in _all(connection, state, sql.COUNTS)
            if (not where.languages or language in where.languages)
            and (not where.kinds or kind in where.kinds)
        )


def _nearest(
    connection: Connection, state: Edition, vector: FloatArray, k: int, chosen: _Filter
) -> list[Hit]:
    """By index where there is one and many may be found; exactly where there is none, or where it finds too few."""
    parameters = {**_seen(state), **chosen.parameters, "vector": vector, "k": k}
    if state.has_vector_index and state.ef_search is not None and chosen.chunks > ROWS:
        candidates = min(LARGEST_EF, max(state.ef_search, 2 * k))
        connection.execute(sql.BY_INDEX, {"ef_search": str(candidates), "scanned": str(_SCANNED)})
        expression, _, cast = indexed(state.model.dimensions)
        statement = named(
            sql.NEAREST, state.edition, indexed=expression, query=cast, seen=sql.SEEN, where=chosen.where
        )
        found = _all(connection, state, statement, {**parameters, "candidates": 2 * k})
        if len(found) == k and vector.any():
            return _shown(connection, state, [(*row[:4], 1.0 - row[4]) for row in found])
    connection.execute(sql.BY_SCAN)
    statement = named(sql.NEAREST_EXACT, state.edition, seen=sql.SEEN, where=chosen.where)
    found = _all(connection, state, statement, parameters)
    return _shown(connection, state, [(*row[:4], 1.0 - row[4]) for row in found])


def _matching(
    connection: Connection, state: Edition, words: Sequence[str], k: int, chosen: _Filter
) -> list[Hit]:
    """First among the chunks with the rarest words, then among more, until none that was left out can be better.

    Words that are in very many chunks end the search before that: what is left out then has none but these.
    """
    frequencies = dict(_all(connection, state, sql.FREQUENCIES, {"words": list(words)})) if words else {}
    if not frequencies:
        return []
    connection.execute(sql.PLAIN)
    average = state.words / max(1, state.chunks)
    found: list[Any] = []
    query = ""
    for room in (FEW, MANY, sum(frequencies.values())):
        bm25 = ranking(frequencies, chunks=state.chunks, average=average, room=room)
        if bm25.parameters["query"] != query:
            query = bm25.parameters["query"]
            statement = named(
                sql.MATCHING, state.edition, score=bm25.score, seen=sql.SEEN, where=chosen.where
            )
            parameters = {**_seen(state), **chosen.parameters, **bm25.parameters, "k": k}
            found = _all(connection, state, statement, parameters)
        if bm25.missed == 0 or (len(found) == k and (room == MANY or found[-1][4] >= bm25.missed)):
            break
    return _shown(connection, state, found)


def _shown(connection: Connection, state: Edition, found: Sequence[Any]) -> list[Hit]:
    """Hits, in order, of rows of (id, file, language, kind, score)."""
    if not found:
        return []
    connection.execute(sql.PLAIN)
    numbers = {"ids": [row[0] for row in found], "files": [row[1] for row in found]}
    texts = {row[0]: row[1:] for row in _all(connection, state, sql.SHOWN, numbers)}
    hits: list[Hit] = []
    for id_, _, language, kind, score in found:
        path, start, end, start_line, end_line, *parts = texts[id_]
        symbol, context, imports, text = (part.decode("utf-8", "surrogatepass") for part in parts)
        chunk = Chunk(
            path=path,
            text=text,
            start=start,
            end=end,
            start_line=start_line,
            end_line=end_line,
            kind=kind,
            language=language,
            symbol=symbol,
            context=context,
            imports=imports,
        )
        hits.append(Hit(chunk=chunk, score=0.0 if math.isnan(score) else float(score), id=str(id_)))
    return hits


def _scanned(
    connection: Connection, state: Edition, *, begun: tuple[int, int], ids: Sequence[int]
) -> tuple[list[Chunk], FloatArray]:
    if _publication(state) != begun:
        raise IndexBrokenError("the index was published anew, more than once, while it was read")
    connection.execute(sql.PLAIN)
    rows = _all(connection, state, sql.SCAN, {"ids": list(ids)})
    hits = _shown(connection, state, [(*row[:4], 0.0) for row in rows])
    return [hit.chunk for hit in hits], np.stack([vector_of(row[4]) for row in rows])


def _seen(state: Edition) -> dict[str, int]:
    return {"mark": state.mark, "generation": state.generation}


def _publication(state: Edition) -> tuple[int, int]:
    return state.edition, state.generation


def _all(
    connection: Connection, state: Edition, statement: str, parameters: Mapping[str, Any] | None = None
) -> list[Any]:
    with connection.cursor(binary=True) as cursor:
        found: list[Any] = cursor.execute(named(statement, state.edition), parameters).fetchall()
    return found
