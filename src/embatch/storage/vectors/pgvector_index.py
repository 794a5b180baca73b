"""The indexes that make searches in PostgreSQL fast: made when a table is large enough, and the vectors' one measured.

Between the writer and what it publishes. An index over vectors (HNSW) finds most of the nearest, not all: how many is
measured on a sample against exact search, and it looks at more candidates until it finds 95% of them, or is not used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg

from embatch.storage.vectors import pgvector_sql as sql
from embatch.storage.vectors.pgvector_connect import vector_of
from embatch.storage.vectors.pgvector_sql import named

if TYPE_CHECKING:
    from psycopg import Connection

    from embatch.storage.vectors.pgvector_editions import Edition
    from embatch.types import FloatArray, ModelSpec

ROWS = 20_000
"""From here on vectors get an index: so many are compared one by one in about 10 ms."""

RECALL = 0.95
"""At 10, the least that an index must find."""

LARGEST_EF = 1000
"""pgvector's limit to candidates."""

_CANDIDATES = (40, 60, 80, 120, 180, 270, 400, 600, LARGEST_EF)
_SAMPLE = 40
_AT = 10
_TIE = 1e-6  # a distance that differs by less is as good
_GROWTH = 2.0  # measured again when there are so many times the rows
_PLAIN, _HALF = 2000, 4000  # dimensions that an index takes in full and in half precision
_MEMORY_MB = (64, 1024)  # for building: the least and the most that is asked of the server


def indexed(dimensions: int) -> tuple[str, str, str]:
    """How vectors of this size are indexed: the expression, its type, and the cast of a query; or empty ones."""
    if dimensions <= _PLAIN:
        return "vector", "vector", "%(vector)s"
    if dimensions <= _HALF:
        kind = f"halfvec({dimensions})"
        return f"(vector::{kind})", "halfvec", f"(%(vector)s::{kind})"
    return "", "", ""


def in_words(edition: Edition, dimensions: int) -> str:
    """The index over vectors, for people."""
    if not indexed(dimensions)[0]:
        return f"none: exact search (pgvector indexes up to {_HALF:,} dimensions)"
    if not edition.has_vector_index:
        return "none: exact search"
    if edition.ef_search is None:
        return f"none: exact search (HNSW would find {edition.recall:.1%})"
    halved = ", half precision" if dimensions > _PLAIN else ""
    return f"HNSW, {edition.ef_search} candidates{halved}"


def bring_up_to_date(connection: Connection, edition: Edition, spec: ModelSpec, *, rows: int) -> None:
    """Make the indexes that are missing, and measure the vectors' one if the table has grown.

    Each is a transaction of its own: one that a kill has stopped is not there at all. Readers go on meanwhile.

    Args:
        connection: the writer's.
        edition: what to index.
        spec: the model.
        rows: chunks in it, unpublished ones included.
    """
    number = edition.edition
    if rows and not edition.has_words_index:
        with connection.transaction():
            connection.execute(named(sql.INDEX_WORDS, number))
            connection.execute(named(sql.HAS_WORDS_INDEX, number))
    if rows < ROWS or not indexed(spec.dimensions)[0]:
        return
    if edition.has_vector_index and rows < _GROWTH * edition.measured_rows:
        return
    if not edition.has_vector_index:
        _build(connection, number, spec.dimensions, rows)
    ef_search, recall = _measured(connection, number, spec.dimensions)
    with connection.transaction():
        found = {"rows": rows, "ef_search": ef_search, "recall": recall}
        connection.execute(named(sql.MEASURED, number), found)


def _build(connection: Connection, number: int, dimensions: int, rows: int) -> None:
    expression, kind, _ = indexed(dimensions)
    statement = named(sql.INDEX_VECTORS, number, indexed=expression, kind=kind)
    wanted = rows * (4 * dimensions + 400) >> 20
    least, most = _MEMORY_MB
    memory = f"{min(most, max(least, wanted))}MB"
    for workers in ("2", "0"):
        try:
            with connection.transaction():
                connection.execute(named(sql.DROP_VECTOR_INDEX, number))
                connection.execute(sql.BUILD_SETTINGS, {"memory": memory, "workers": workers})
                connection.execute(statement)
        except (psycopg.errors.DiskFull, psycopg.errors.OutOfMemory):
            if workers == "0":
                raise
            memory = f"{least}MB"  # containers often have little memory to share between workers
        else:
            return


def _measured(connection: Connection, number: int, dimensions: int) -> tuple[int | None, float]:
    """The fewest candidates that find enough, None if none do, and the recall with them or at most."""
    with connection.transaction(), connection.cursor(binary=True) as cursor:
        sample = [
            vector_of(row[0]) for row in cursor.execute(named(sql.SAMPLE, number), {"rows": _SAMPLE + 1})
        ]
        queries = _between(np.stack(sample))
        cursor.execute(sql.BY_SCAN)
        exact = [_distances(cursor, number, sql.NEAREST_EXACT, query, {}) for query in queries]
    recall = 0.0
    for candidates in _CANDIDATES:
        with connection.transaction(), connection.cursor(binary=True) as cursor:
            cursor.execute(sql.BY_INDEX, {"ef_search": str(candidates), "scanned": "20000"})
            expression, _, cast = indexed(dimensions)
            statement = named(sql.NEAREST, number, indexed=expression, query=cast)
            near = [
                _distances(cursor, number, statement, query, {"candidates": 2 * _AT}) for query in queries
            ]
        recall = float(np.mean([_share(found, true) for found, true in zip(near, exact, strict=True)]))
        if recall >= RECALL:
            return candidates, recall
    return None, recall


def _between(sample: FloatArray) -> FloatArray:
    """Queries that are in no row: halfway between two that are."""
    queries: FloatArray = sample[1:] + sample[:-1]
    return queries


def _distances(
    cursor: Any, number: int, statement: str, query: FloatArray, more: dict[str, int]
) -> FloatArray:
    statement = named(statement, number, seen="true", where="")
    found = cursor.execute(statement, {"vector": query, "k": _AT, **more}).fetchall()
    return np.array([row[4] for row in found], dtype=np.float32)


def _share(found: FloatArray, true: FloatArray) -> float:
    return min(len(true), int(np.sum(found <= true[-1] + _TIE))) / len(true)
