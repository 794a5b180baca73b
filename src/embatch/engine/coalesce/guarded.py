"""A store that several threads use, one at a time."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.types import FloatArray, VectorStore


class Guarded:
    """A `VectorStore` behind a lock.

    Args:
        store: used by nobody else; closed with this one.
    """

    def __init__(self, store: VectorStore) -> None:
        self._store = store
        self._lock = threading.Lock()

    def get(self, digests: Sequence[bytes]) -> dict[bytes, FloatArray]:
        """The stored vectors among those asked for, each `(dim,)` float32."""
        with self._lock:
            return self._store.get(digests)

    def put(self, digests: Sequence[bytes], vectors: FloatArray) -> None:
        """Store vectors `(n, dim)` under their digests."""
        with self._lock:
            self._store.put(digests, vectors)

    def close(self) -> None:
        """Release the store."""
        with self._lock:
            self._store.close()
