"""The Lance store as searchers see it: one published version of the table, and nothing that a writer does to it.

*query → store → hits.* Reading changes no file, so it works on a disk that is read-only. What was published later is
seen after `refresh`. A version that has been superseded for a while is cleaned away; a reader that still had it open
moves on to the newest one by itself.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from embatch.chunks import Hit, StoreStats, Where
from embatch.decisions.vectors import normalized
from embatch.errors import IndexBrokenError, IndexMismatchError, UsageError
from embatch.storage.vectors import lance_state
from embatch.storage.vectors.lance_errors import load_lance, store_errors
from embatch.storage.vectors.lance_matrix import Matrix, best
from embatch.storage.vectors.lance_rows import (
    CHUNK_COLUMNS,
    FOLDER,
    sql_text,
    sql_where,
    to_chunks,
    to_vectors,
)
from embatch.storage.vectors.matching import query_words
from embatch.storage.vectors.sampling import sampled, slices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from embatch.chunks import Chunk
    from embatch.storage.vectors.lance_state import Published, VectorIndex
    from embatch.types import FloatArray, ModelSpec

    Result = TypeVar("Result")

INDEX_CACHE_BYTES = 512 << 20
METADATA_CACHE_BYTES = 64 << 20
_FEW_ROWS = 20_000
"""So many rows that a filter leaves are compared one by one, where an index may miss some."""
_ATTEMPTS = 3


@dataclass(slots=True)
class Snapshot:
    """One published version, open."""

    published: Published
    dataset: Any
    lock: threading.Lock = field(default_factory=threading.Lock)
    matrix: Matrix | None = None
    former: Matrix | None = None
    """Of the snapshot before it, for what they have in common."""

    def vectors(self) -> Matrix:
        """All of them, read when they are first needed."""
        with self.lock:
            if self.matrix is None:
                self.matrix = Matrix.load(self.dataset, self.published.spec.dimensions, self.former)
                self.former = None
            return self.matrix


class LanceReader:
    """A published state of the store in a folder. Implements `ChunkReader`.

    Raises:
        IndexNotFoundError: there is none.
        IndexBrokenError: its files cannot be read.
    """

    def __init__(self, location: Path) -> None:
        self._location = location
        self._lock = threading.Lock()
        self._snapshot: Snapshot | None = self._open(None)

    @property
    def spec(self) -> ModelSpec:
        """The model that its vectors were made with."""
        return self._now().published.spec

    @property
    def about(self) -> Mapping[str, str]:
        """What its writers said of it."""
        return self._now().published.about

    def count(self) -> int:
        """Chunks in it."""
        return self._now().published.chunks

    def nearest(self, vectors: FloatArray, *, k: int, where: Where) -> list[list[Hit]]:
        """The `k` chunks with the highest cosine for each row of `(q, dim)`, best first.

        Raises:
            IndexMismatchError: the vectors are of another size.
            UsageError: `vectors` is no matrix, or a pattern of `where` is none.
        """
        queries = np.asarray(vectors, dtype=np.float32)
        if queries.ndim != 2:
            raise UsageError(f"nearest takes vectors as (q, dim), not of the shape {queries.shape}")

        def search(snapshot: Snapshot) -> list[list[Hit]]:
            dimensions = snapshot.published.spec.dimensions
            if queries.shape[1] != dimensions:
                raise IndexMismatchError(
                    f"the query has {queries.shape[1]} dimensions and the index {dimensions}: they are of two models"
                )
            if k < 1 or not snapshot.published.chunks:
                return [[] for _ in queries]
            index = snapshot.published.vector_index
            if index is None:
                return _exact(snapshot, queries, k, where)
            return _indexed(snapshot, index, queries, k, sql_where(where))

        return self._do(search)

    def matching(self, texts: Sequence[str], *, k: int, where: Where) -> list[list[Hit]]:
        """The `k` best chunks for each query by BM25 over text, symbol, path and imports.

        Raises:
            UsageError: a pattern of `where` is none.
        """

        def search(snapshot: Snapshot) -> list[list[Hit]]:
            if k < 1 or not snapshot.published.chunks:
                return [[] for _ in texts]
            condition = sql_where(where)
            return [_matching(snapshot.dataset, query_words(text), k, condition) for text in texts]

        return self._do(search)

    def at(self, path: str, line: int) -> tuple[Chunk, FloatArray] | None:
        """The chunk that holds a line of a file, with its vector `(dim,)`; the smallest one if there are several."""

        def look(snapshot: Snapshot) -> tuple[Chunk, FloatArray] | None:
            condition = f"path = {sql_text(path)} AND start_line <= {int(line)} AND end_line >= {int(line)}"
            table = snapshot.dataset.scanner(columns=[*CHUNK_COLUMNS, "vector"], filter=condition).to_table()
            found = list(to_chunks(table))
            if not found:
                return None
            row = min(range(len(found)), key=lambda at: (found[at].end - found[at].start, found[at].start))
            return found[row], to_vectors(table["vector"], snapshot.published.spec.dimensions)[row].copy()

        return self._do(look)

    def scan(self, most: int, *, seed: int = 0) -> Iterator[tuple[list[Chunk], FloatArray]]:
        """Every chunk with its vectors `(n, dim)`, some thousand at a time in the table's order.

        Args:
            most: so many chunks at most: a sample of more, always the same one of the same state.
            seed: names the sample.

        Raises:
            IndexBrokenError: what was published when it began was cleaned away meanwhile; begin anew.
        """
        snapshot = self._now()
        for positions in slices(sampled(snapshot.published.chunks, most, seed)):
            with store_errors(self._location):
                table = snapshot.dataset.take(positions.tolist(), columns=[*CHUNK_COLUMNS, "vector"])
                vectors = to_vectors(table["vector"], snapshot.published.spec.dimensions)
                chunks = list(to_chunks(table))
            yield chunks, vectors

    def stats(self) -> StoreStats:
        """How much it holds."""

        def tell(snapshot: Snapshot) -> StoreStats:
            table = snapshot.dataset.to_table(columns=["language", "kind"])
            index = snapshot.published.vector_index
            return StoreStats(
                chunks=snapshot.published.chunks,
                files=snapshot.published.files,
                bytes=_bytes_of(self._location),
                by_language=_counted(table["language"]),
                by_kind=_counted(table["kind"]),
                vector_index="none: exact search" if index is None else str(index),
                recall=None if index is None else index.recall,
            )

        return self._do(tell)

    def refresh(self) -> bool:
        """Look for something newer; whether there was.

        Raises:
            SearchIndexError: there is none any more, or it cannot be read.
        """
        now = self._now()
        if lance_state.load(self._location) == now.published:
            return False
        fresh = self._open(now)
        with self._lock:
            if self._snapshot is not None:
                self._snapshot = fresh
        return fresh.published != now.published

    def close(self) -> None:
        """Release it."""
        with self._lock:
            self._snapshot = None

    def _now(self) -> Snapshot:
        snapshot = self._snapshot
        if snapshot is None:
            raise UsageError("the index was closed", hint="Keep it open while it is used.")
        return snapshot

    def _do(self, work: Callable[[Snapshot], Result]) -> Result:
        """The work on what is open, and on what is newest if that has been cleaned away meanwhile."""
        for _ in range(_ATTEMPTS):
            snapshot = self._now()
            try:
                with store_errors(self._location):
                    return work(snapshot)
            except IndexBrokenError:
                if not self.refresh():
                    raise
        return work(self._now())

    def _open(self, former: Snapshot | None) -> Snapshot:
        lance = load_lance()
        for _ in range(_ATTEMPTS):
            published = lance_state.load(self._location)
            try:
                with store_errors(self._location):
                    dataset = lance.dataset(
                        str(self._location / FOLDER),
                        version=published.version,
                        index_cache_size_bytes=INDEX_CACHE_BYTES,
                        metadata_cache_size_bytes=METADATA_CACHE_BYTES,
                    )
            except IndexBrokenError:
                if lance_state.load(self._location).version == published.version:
                    raise
            else:
                snapshot = Snapshot(published, dataset)
                if former is not None and former.published.spec == published.spec:
                    snapshot.former = former.matrix or former.former
                return snapshot
        raise IndexBrokenError(f"the index {str(self._location)!r} changes faster than it can be opened")


def _exact(snapshot: Snapshot, queries: FloatArray, k: int, where: Where) -> list[list[Hit]]:
    matrix = snapshot.vectors()
    found = matrix.search(queries, k, where)
    positions = sorted({at for row in found for at, _ in row})
    if not positions:
        return [[] for _ in found]
    chunks = dict(
        zip(positions, to_chunks(snapshot.dataset.take(positions, columns=CHUNK_COLUMNS)), strict=True)
    )
    return [
        [Hit(chunk=chunks[at], score=score, id=str(matrix.row_ids[at])) for at, score in row] for row in found
    ]


def _indexed(
    snapshot: Snapshot, index: VectorIndex, queries: FloatArray, k: int, condition: str | None
) -> list[list[Hit]]:
    dataset, cosine = snapshot.dataset, not snapshot.published.spec.normalize
    if condition is not None and dataset.count_rows(filter=condition) <= _FEW_ROWS:
        return _filtered(dataset, queries, k, condition)
    found = []
    for query in queries:
        options = near(query, k, index, cosine=cosine)
        if condition is not None:  # the k nearest that pass may lie further off
            options |= {"minimum_nprobes": min(2 * index.probes, index.partitions)}
            options |= {"maximum_nprobes": index.partitions}
        table = dataset.scanner(
            columns=[*CHUNK_COLUMNS, "_distance"],
            nearest=options,
            filter=condition,
            prefilter=True,
            with_row_id=True,
            disable_scoring_autoprojection=True,
        ).to_table()
        found.append(_hits(table, [1.0 - distance for distance in table["_distance"].to_pylist()]))
    return found


def near(query: FloatArray, k: int, index: VectorIndex, *, cosine: bool) -> dict[str, Any]:
    """How Lance is asked for the `k` nearest rows."""
    return {
        "column": "vector",
        "q": normalized(query[None])[0],
        "k": k,
        "metric": "cosine" if cosine else "dot",
        "minimum_nprobes": index.probes,
        "maximum_nprobes": index.probes,
        "refine_factor": index.refine,
    }


def _filtered(dataset: Any, queries: FloatArray, k: int, condition: str) -> list[list[Hit]]:
    """Every row that passes, compared."""
    table = dataset.scanner(
        columns=[*CHUNK_COLUMNS, "vector"], filter=condition, with_row_id=True, late_materialization=True
    ).to_table()
    if not table.num_rows:
        return [[] for _ in queries]
    scores = normalized(queries) @ normalized(to_vectors(table["vector"], queries.shape[1])).T
    found = []
    for row in scores:
        rows = best(row, k)
        found.append(_hits(table.take(rows), [float(row[at]) for at in rows]))
    return found


def _matching(dataset: Any, words: Sequence[str], k: int, condition: str | None) -> list[Hit]:
    if not words:
        return []
    table = dataset.scanner(
        columns=[*CHUNK_COLUMNS, "_score"],
        full_text_query={"query": " ".join(words), "columns": ["words"]},
        filter=condition,
        prefilter=True,
        limit=k,
        with_row_id=True,
        disable_scoring_autoprojection=True,
    ).to_table()
    return _hits(table, table["_score"].to_pylist())


def _hits(table: Any, scores: Sequence[float]) -> list[Hit]:
    ids = table["_rowid"].to_pylist()
    hits = [
        Hit(chunk=chunk, score=score, id=str(row_id))
        for chunk, score, row_id in zip(to_chunks(table), scores, ids, strict=True)
    ]
    return sorted(hits, key=lambda hit: -hit.score)


def _counted(column: Any) -> dict[str, int]:
    pairs = [(entry["values"], entry["counts"]) for entry in column.value_counts().to_pylist()]
    return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))


def _bytes_of(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # cleaned away in this moment
            continue
    return total
