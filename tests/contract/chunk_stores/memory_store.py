"""A store of chunks in memory: the simplest thing that keeps the contract, as the measure for the others.

Exact and slow: it compares with everything, and counts words at every query. It can fail as scripted.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from embatch.chunks import Hit, StoreStats, Where
from embatch.decisions.globs import path_filter
from embatch.decisions.vectors import normalized
from embatch.errors import IndexBusyError, IndexMismatchError, IndexNotFoundError, UsageError
from embatch.storage.vectors.matching import document_words, query_words
from embatch.storage.vectors.sampling import sampled, slices

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from embatch.chunks import Chunk, FileState
    from embatch.errors import EmbatchError
    from embatch.types import FloatArray, ModelSpec

_K1, _B = 1.2, 0.75


@dataclass(frozen=True)
class Row:
    id: str
    chunk: Chunk
    vector: FloatArray
    words: Counter[str]


@dataclass(frozen=True)
class State:
    spec: ModelSpec
    rows: tuple[Row, ...] = ()
    files: Mapping[str, FileState] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)


class MemoryStore:
    """What lies in one place. `failing` has errors by the writer's verb; each is raised once, before anything."""

    def __init__(self) -> None:
        self.published: State | None = None
        self.left: State | None = None
        self.held = False
        self.numbers = 0
        self.failing: dict[str, EmbatchError] = {}

    def reader(self) -> MemoryReader:
        return MemoryReader(self)

    def writer(self, spec: ModelSpec, *, fresh: bool = False) -> MemoryWriter:
        return MemoryWriter(self, spec, fresh=fresh)


class MemoryReader:
    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        if store.published is None:
            raise IndexNotFoundError("there is no index in memory")
        self._state = store.published
        self._open = True

    @property
    def spec(self) -> ModelSpec:
        return self._state.spec

    @property
    def about(self) -> Mapping[str, str]:
        return self._state.about

    def count(self) -> int:
        return len(self._state.rows)

    def nearest(self, vectors: FloatArray, *, k: int, where: Where) -> list[list[Hit]]:
        self._check()
        if vectors.ndim != 2:
            raise UsageError("nearest takes a matrix")
        if vectors.shape[1] != self.spec.dimensions:
            raise IndexMismatchError("the query is of another model")
        rows = self._passing(where)
        found = []
        for query in normalized(vectors):
            scores = [float(normalized(row.vector[None])[0] @ query) for row in rows]
            order = sorted(range(len(rows)), key=lambda at, scores=scores: -scores[at])[: max(k, 0)]  # type: ignore[misc]  # a default
            found.append([Hit(chunk=rows[at].chunk, score=scores[at], id=rows[at].id) for at in order])
        return found

    def matching(self, texts: Sequence[str], *, k: int, where: Where) -> list[list[Hit]]:
        self._check()
        found = []
        for text in texts:
            scored = [(self._bm25(row, query_words(text)), row) for row in self._passing(where)]
            hits = [Hit(chunk=row.chunk, score=score, id=row.id) for score, row in scored if score > 0]
            found.append(sorted(hits, key=lambda hit: -hit.score)[: max(k, 0)])
        return found

    def at(self, path: str, line: int) -> tuple[Chunk, FloatArray] | None:
        self._check()
        there = [
            row
            for row in self._state.rows
            if row.chunk.path == path and row.chunk.start_line <= line <= row.chunk.end_line
        ]
        if not there:
            return None
        row = min(there, key=lambda row: (row.chunk.end - row.chunk.start, row.chunk.start))
        return row.chunk, row.vector

    def scan(self, most: int, *, seed: int = 0) -> Iterator[tuple[list[Chunk], FloatArray]]:
        self._check()
        for positions in slices(sampled(self.count(), most, seed)):
            rows = [self._state.rows[at] for at in positions]
            yield [row.chunk for row in rows], np.stack([row.vector for row in rows])

    def stats(self) -> StoreStats:
        self._check()
        return StoreStats(
            chunks=self.count(),
            files=len({row.chunk.path for row in self._state.rows}),
            bytes=0,
            by_language=Counter(row.chunk.language for row in self._state.rows),
            by_kind=Counter(row.chunk.kind for row in self._state.rows),
            vector_index="none: exact search",
            recall=None,
        )

    def refresh(self) -> bool:
        self._check()
        newest = self._store.published
        if newest is None or newest is self._state:
            return False
        self._state = newest
        return True

    def close(self) -> None:
        self._open = False

    def _check(self) -> None:
        if not self._open:
            raise UsageError("the index was closed")

    def _passing(self, where: Where) -> list[Row]:
        passes = path_filter(where.paths)
        return [
            row
            for row in self._state.rows
            if passes(row.chunk.path)
            and (not where.languages or row.chunk.language in where.languages)
            and (not where.kinds or row.chunk.kind in where.kinds)
        ]

    def _bm25(self, row: Row, words: Sequence[str]) -> float:
        rows = self._state.rows
        mean = sum(other.words.total() for other in rows) / len(rows)
        score = 0.0
        for word in words:
            holding = sum(word in other.words for other in rows)
            rarity = math.log(1 + (len(rows) - holding + 0.5) / (holding + 0.5))
            count = row.words[word]
            score += rarity * count * (_K1 + 1) / (count + _K1 * (1 - _B + _B * row.words.total() / mean))
        return score


class MemoryWriter:
    def __init__(self, store: MemoryStore, spec: ModelSpec, *, fresh: bool) -> None:
        if store.held:
            raise IndexBusyError("another writer has it")
        now = None if fresh else store.left
        if now is not None and now.spec != spec:
            raise IndexMismatchError(f"it was made with {now.spec.model}, not with {spec.model}")
        store.held = True
        store.left = now or State(spec)
        self._store = store
        self._open = True
        self._dropped: list[Row] = []

    @property
    def spec(self) -> ModelSpec:
        return self._state.spec

    @property
    def about(self) -> Mapping[str, str]:
        return self._state.about

    @property
    def _state(self) -> State:
        assert self._store.left is not None
        return self._store.left

    def describe(self, about: Mapping[str, str]) -> None:
        self._fail("describe")
        self._store.left = replace(self._state, about=dict(about))

    def files(self) -> dict[str, FileState]:
        return dict(self._state.files)

    def known(self, digests: Sequence[bytes]) -> dict[bytes, FloatArray]:
        self._fail("known")
        held = {row.chunk.digest: row.vector for row in (*self._dropped, *self._state.rows)}
        return {digest: held[digest] for digest in digests if digest in held}

    def replace(self, files: Sequence[FileState], chunks: Sequence[Chunk], vectors: FloatArray) -> None:
        self._fail("replace")
        if len(vectors) != len(chunks) or (len(chunks) and vectors.shape[1] != self.spec.dimensions):
            raise UsageError("there must be one vector a chunk, of the model's size")
        if {chunk.path for chunk in chunks} - {file.path for file in files}:
            raise UsageError("a chunk's file has no state")
        if not np.isfinite(vectors).all():
            raise UsageError("a vector is not finite")
        self._drop([file.path for file in files])
        rows = [
            Row(self._number(), chunk, np.array(vector, np.float32), Counter(document_words(chunk).split()))
            for chunk, vector in zip(chunks, vectors, strict=True)
        ]
        self._store.left = replace(self._state, rows=(*self._state.rows, *rows))
        self._note(files)

    def note(self, files: Sequence[FileState]) -> None:
        self._fail("note")
        self._drop([file.path for file in files if not file.chunks])
        self._note(files)

    def remove(self, paths: Sequence[str]) -> None:
        self._fail("remove")
        self._drop(paths)

    def publish(self) -> None:
        self._fail("publish")
        self._store.published = self._state
        self._dropped.clear()

    def close(self) -> None:
        if self._open:
            self._open = self._store.held = False

    def _fail(self, verb: str) -> None:
        if error := self._store.failing.pop(verb, None):
            raise error

    def _number(self) -> str:
        self._store.numbers += 1
        return str(self._store.numbers)

    def _note(self, files: Sequence[FileState]) -> None:
        noted = {**self._state.files, **{file.path: file for file in files}}
        self._store.left = replace(self._state, files=noted)

    def _drop(self, paths: Sequence[str]) -> None:
        gone = set(paths)
        self._dropped += [row for row in self._state.rows if row.chunk.path in gone]
        rows = tuple(self._kept(gone))
        files = {path: file for path, file in self._state.files.items() if path not in gone}
        self._store.left = replace(self._state, rows=rows, files=files)

    def _kept(self, gone: set[str]) -> Iterator[Row]:
        return (row for row in self._state.rows if row.chunk.path not in gone)
