"""The index of vectors of the Lance store: whether there is one, and what it is worth.

What the writer does before readers may see a new state, beside `lance_upkeep`. A small table has none: it is searched
exactly, in memory. A large one gets `IVF_RQ` (inverted lists of vectors in one bit a number, candidates compared
exactly): of all types of Lance it was built in the least time, and queries took the least at equal recall, on 100,000
and 1,000,000 hashed vectors of 384 numbers. Learned ones need fewer probes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from embatch.decisions.vectors import normalized
from embatch.storage.vectors.lance_reader import near
from embatch.storage.vectors.lance_rows import to_vectors
from embatch.storage.vectors.lance_state import VectorIndex
from embatch.storage.vectors.lance_upkeep import grow, indexes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embatch.types import FloatArray, ModelSpec

NAME = "vectors"
GOAL = 0.97
"""Recall at 10 that an index must have on the sample. What is promised is 0.95."""

_LIST_ROWS = 1000
_SAMPLE = 200
_AT = 10
_PROBES = 16
_REFINE = 4
_EQUAL = 1e-5  # cosines that differ by less are one rank
_BATCH_ROWS = 8192


def keep_vector_index(
    dataset: Any, spec: ModelSpec, current: VectorIndex | None, *, exact_bytes: int
) -> VectorIndex | None:
    """Make, grow, renew or drop the index, as the size of the table asks for; what it is now.

    It is renewed when the table has doubled or halved since. `exact_bytes` of vectors need none.
    """
    rows = dataset.count_rows()
    there = NAME in indexes(dataset)
    kept = there and current is not None
    if rows * spec.dimensions * 4 <= (exact_bytes // 2 if kept else exact_bytes):
        if there:
            dataset.drop_index(NAME)
        return None
    if not there or current is None or not current.rows // 2 <= rows <= current.rows * 2:
        return _build(dataset, spec, rows)
    grow(dataset, NAME)
    return current


def _build(dataset: Any, spec: ModelSpec, rows: int) -> VectorIndex:
    index = VectorIndex(
        kind="IVF_FLAT" if spec.dimensions % 8 else "IVF_RQ",
        partitions=max(rows // _LIST_ROWS, 1),
        probes=_PROBES,
        refine=_REFINE,
        rows=rows,
        recall=0.0,
    )
    dataset.create_index(
        "vector",
        index.kind,
        name=NAME,
        metric="dot" if spec.normalize else "cosine",
        num_partitions=index.partitions,
        replace=True,
    )
    return _tuned(dataset, spec, index)


def _tuned(dataset: Any, spec: ModelSpec, index: VectorIndex) -> VectorIndex:
    """The index with as many probes as the sample needs to reach the goal."""
    queries = _queries(dataset, spec, rows=index.rows)
    tenth = _tenth(dataset, queries)
    tried = index
    for tried in _settings(index):
        found = _recall(dataset, spec, tried, queries, tenth)
        tried = replace(tried, recall=round(found, 4))  # noqa: PLW2901  # the last one tried is the answer
        if found >= GOAL:
            break
    return tried


def _settings(index: VectorIndex) -> Iterator[VectorIndex]:
    """Ever more probes; more candidates only when all lists are looked at, as they cost more and rarely find more."""
    probes = min(index.probes, index.partitions)
    while probes < index.partitions:
        yield replace(index, probes=probes)
        probes = min(probes * 3 // 2, index.partitions)
    for refine in (_REFINE, 4 * _REFINE, 16 * _REFINE):
        yield replace(index, probes=probes, refine=refine)


def _queries(dataset: Any, spec: ModelSpec, *, rows: int) -> FloatArray:
    """Points between vectors of the table, nearer to one: a query resembles a chunk, and is none."""
    chosen = np.sort(np.random.default_rng(0).choice(rows, min(2 * _SAMPLE, rows), replace=False))
    table = dataset.take([int(at) for at in chosen], columns=["vector"])
    vectors = normalized(to_vectors(table["vector"], spec.dimensions))
    vectors = np.random.default_rng(1).permutation(vectors)
    half = len(vectors) // 2
    return normalized(vectors[:half] + np.float32(0.5) * vectors[half : 2 * half])


def _tenth(dataset: Any, queries: FloatArray) -> FloatArray:
    """`(q,)`: the cosine of the tenth of the vectors nearest to each query, by comparing all."""
    best = np.full((len(queries), _AT), -2.0, np.float32)
    for batch in dataset.scanner(columns=["vector"], batch_size=_BATCH_ROWS).to_batches():
        vectors = normalized(to_vectors(batch["vector"], queries.shape[1]))
        scores = np.concatenate([best, queries @ vectors.T], axis=1)
        best = np.partition(scores, scores.shape[1] - _AT, axis=1)[:, -_AT:]
    lowest: FloatArray = best.min(axis=1)
    return lowest


def _recall(
    dataset: Any, spec: ModelSpec, index: VectorIndex, queries: FloatArray, tenth: FloatArray
) -> float:
    """Share of the ten nearest that the index finds, 0 to 1."""
    hits = 0
    for query, lowest in zip(queries, tenth, strict=True):
        table = dataset.scanner(
            columns=["_distance"],
            nearest=near(query, _AT, index, cosine=not spec.normalize),
            disable_scoring_autoprojection=True,
        ).to_table()
        hits += sum(1.0 - distance >= lowest - _EQUAL for distance in table["_distance"].to_pylist())
    return hits / (_AT * len(queries)) if len(queries) else 1.0
