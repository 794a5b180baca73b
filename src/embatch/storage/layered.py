"""Two stores as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.types import FloatArray, VectorStore


class Layered:
    """Vectors are looked for in both stores and kept in both."""

    def __init__(self, first: VectorStore, second: VectorStore) -> None:
        self._first = first
        self._second = second

    def get(self, digests: Sequence[bytes]) -> dict[bytes, FloatArray]:
        """What either has."""
        found = self._first.get(digests)
        missing = [digest for digest in digests if digest not in found]
        return {**found, **self._second.get(missing)} if missing else found

    def put(self, digests: Sequence[bytes], vectors: FloatArray) -> None:
        """Keep in both."""
        self._first.put(digests, vectors)
        self._second.put(digests, vectors)

    def close(self) -> None:
        """Close both."""
        self._first.close()
        self._second.close()
