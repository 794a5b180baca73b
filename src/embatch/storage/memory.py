"""Vectors by content, in memory: for runs that are too small to be worth a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.types import FloatArray


class MemoryStore:
    """A `VectorStore` that ends with its process. Memory grows with what is put in."""

    def __init__(self) -> None:
        self._vectors: dict[bytes, FloatArray] = {}

    def get(self, digests: Sequence[bytes]) -> dict[bytes, FloatArray]:
        """The stored vectors among those asked for."""
        return {digest: self._vectors[digest] for digest in digests if digest in self._vectors}

    def put(self, digests: Sequence[bytes], vectors: FloatArray) -> None:
        """Store vectors `(n, dim)`; known digests are kept."""
        for digest, vector in zip(digests, vectors, strict=True):
            self._vectors.setdefault(digest, vector)

    def close(self) -> None:
        """Forget everything. Closing twice is allowed."""
        self._vectors.clear()
