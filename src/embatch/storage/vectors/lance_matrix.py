"""Exact search in memory: all vectors of a small table, as blocks of one matrix.

What the Lance reader uses below the size that needs a vector index: a product with 100,000 vectors of 384 numbers takes
a tenth of the time of Lance's own scan. Blocks are the table's fragments, whose files never change, so what a newer
state has in common with the one before is not read again.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embatch.decisions.globs import path_filter
from embatch.decisions.vectors import normalized
from embatch.storage.vectors.lance_rows import to_vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from embatch.chunks import Where
    from embatch.types import FloatArray

LIMIT_BYTES = 64 << 20
"""Larger tables get a vector index: reading this much takes about 0.1 s, which the first query waits for."""
_READERS = 4  # threads
_QUERIES = 64  # at a time: bounds the scores in memory
_TOGETHER = 4  # from so many on, one product of matrices is faster


@dataclass(frozen=True, slots=True)
class Labels:
    """One column of text, as numbers into its distinct values."""

    values: list[str]
    codes: npt.NDArray[np.int64]

    @classmethod
    def of(cls, column: Any) -> Labels:
        """The column of an Arrow table."""
        encoded = column.combine_chunks().dictionary_encode()
        return cls(
            encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        )

    def mask(self, passes: Callable[[str], bool]) -> npt.NDArray[np.bool_]:
        """`(n,)`: whether each row's value passes."""
        allowed = np.fromiter((passes(value) for value in self.values), np.bool_, len(self.values))
        found: npt.NDArray[np.bool_] = allowed[self.codes]
        return found


@dataclass(frozen=True, slots=True)
class Block:
    """The rows of one fragment."""

    vectors: FloatArray
    """`(n, dim)`, as they were stored."""
    scales: FloatArray
    """`(n,)`: one divided by the length of each; 0 for a vector of zeros."""
    row_ids: npt.NDArray[np.uint64]
    paths: Labels
    languages: Labels
    kinds: Labels


class Matrix:
    """All rows of one version of the table."""

    def __init__(self, blocks: dict[str, Block]) -> None:
        self.blocks = blocks
        """By what names the files of each fragment."""
        self._blocks = [block for block in blocks.values() if len(block.row_ids)]
        ids = [block.row_ids for block in self._blocks]
        self.row_ids: npt.NDArray[np.uint64] = np.concatenate(ids) if ids else np.empty(0, np.uint64)

    @classmethod
    def load(cls, dataset: Any, dimensions: int, former: Matrix | None = None) -> Matrix:
        """The vectors of this version; what `former` has of them is taken from there."""
        kept = {} if former is None else former.blocks
        # What a fragment says of itself names its files, that of its deleted rows included.
        fragments = {repr(fragment.metadata): fragment for fragment in dataset.get_fragments()}
        missing = [key for key in fragments if key not in kept]
        with ThreadPoolExecutor(_READERS) as pool:
            fresh = dict(
                zip(missing, pool.map(lambda key: _read(fragments[key], dimensions), missing), strict=True)
            )
        return cls({key: kept[key] if key in kept else fresh[key] for key in fragments})

    def search(self, vectors: FloatArray, k: int, where: Where) -> list[list[tuple[int, float]]]:
        """Position in the table and cosine of the `k` nearest rows to each of `(q, dim)`, best first."""
        allowed = self._allowed(where)
        found: list[list[tuple[int, float]]] = []
        for first in range(0, len(vectors), _QUERIES):
            queries = normalized(vectors[first : first + _QUERIES])
            parts = [_products(queries, block.vectors) * block.scales for block in self._blocks]
            scores = np.concatenate(parts, axis=1) if parts else np.empty((len(queries), 0), np.float32)
            found += [_best(row, k, allowed) for row in scores]
        return found

    def _allowed(self, where: Where) -> npt.NDArray[np.int64] | None:
        """Positions of the rows that may be found; None if all may."""
        if not (where.paths or where.languages or where.kinds):
            return None
        passes = path_filter(where.paths)
        masks = [
            block.paths.mask(passes)
            & block.languages.mask(lambda name: not where.languages or name in where.languages)
            & block.kinds.mask(lambda name: not where.kinds or name in where.kinds)
            for block in self._blocks
        ]
        return np.flatnonzero(np.concatenate(masks)) if masks else None


def _products(queries: FloatArray, vectors: FloatArray) -> FloatArray:
    """`(q, n)`: the product of each query with each vector."""
    if len(queries) >= _TOGETHER:
        return queries @ vectors.T
    # BLAS would have its threads wait for each other at every block, which takes long where others use the processor.
    return np.stack([np.einsum("nd,d->n", vectors, query) for query in queries])


def best(scores: FloatArray, k: int) -> Sequence[int]:
    """The positions of the `k` highest scores, best first, earlier ones first among equals."""
    if k < len(scores):
        lowest = np.partition(scores, len(scores) - k)[len(scores) - k]
        candidates = np.flatnonzero(scores >= lowest)
    else:
        candidates = np.arange(len(scores))
    order = np.argsort(-scores[candidates], kind="stable")[:k]
    return [int(at) for at in candidates[order]]


def _best(scores: FloatArray, k: int, allowed: npt.NDArray[np.int64] | None) -> list[tuple[int, float]]:
    if allowed is None:
        return [(at, float(scores[at])) for at in best(scores, k)]
    return [(int(allowed[at]), float(scores[allowed[at]])) for at in best(scores[allowed], k)]


def _read(fragment: Any, dimensions: int) -> Block:
    table = fragment.to_table(columns=["vector", "path", "language", "kind"], with_row_id=True)
    # Lance leaves them at odd addresses, from which numpy would copy them again for each product.
    vectors = np.require(to_vectors(table["vector"], dimensions), requirements=["ALIGNED"])
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    return Block(
        vectors=vectors,
        scales=np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0),
        row_ids=table["_rowid"].to_numpy(),
        paths=Labels.of(table["path"]),
        languages=Labels.of(table["language"]),
        kinds=Labels.of(table["kind"]),
    )
