"""One store for vectors of several specs."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from embatch.storage.cache import DIGEST_BYTES

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from embatch.types import FloatArray, VectorStore


class PerSpec:
    """A store as one spec sees it: equal texts of other specs, such as queries and documents, are other texts in it.

    Args:
        store: kept open by whoever made it.
        fingerprint: of the ModelSpec that the vectors belong to.
        lock: held while the store is used; all that share the store share it.
    """

    def __init__(self, store: VectorStore, fingerprint: str, lock: threading.Lock) -> None:
        self._store = store
        self._key = fingerprint.encode()
        self._lock = lock

    def get(self, digests: Sequence[bytes]) -> dict[bytes, FloatArray]:
        """The vectors that this spec has stored among those asked for, each `(dim,)` float32."""
        asked = {self._own(digest): digest for digest in digests}
        with self._lock:
            found = self._store.get(list(asked))
        return {asked[own]: vector for own, vector in found.items()}

    def put(self, digests: Sequence[bytes], vectors: FloatArray) -> None:
        """Store vectors `(n, dim)` under their digests."""
        with self._lock:
            self._store.put([self._own(digest) for digest in digests], vectors)

    def close(self) -> None:
        """Nothing: the store is not ours."""

    def _own(self, digest: bytes) -> bytes:
        return hashlib.blake2b(digest, digest_size=DIGEST_BYTES, key=self._key).digest()
