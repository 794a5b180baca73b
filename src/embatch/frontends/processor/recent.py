"""A store of bounded size for one run: equal texts are found again while they are near, and memory does not grow."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.types import FloatArray


class RecentStore:
    """The vectors that were used last.

    Args:
        most: how many are kept: at least as many as a portion has rows, whose vectors must be there at its end.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._vectors: OrderedDict[bytes, FloatArray] = OrderedDict()

    def get(self, digests: Sequence[bytes]) -> dict[bytes, FloatArray]:
        """The vectors among those asked for that are still there, each `(dim,)`."""
        found = {digest: self._vectors[digest] for digest in digests if digest in self._vectors}
        for digest in found:
            self._vectors.move_to_end(digest)
        return found

    def put(self, digests: Sequence[bytes], vectors: FloatArray) -> None:
        """Keep vectors `(n, dim)`; the oldest make room."""
        for digest, vector in zip(digests, vectors, strict=True):
            self._vectors[digest] = vector.copy()
            self._vectors.move_to_end(digest)
        while len(self._vectors) > self._most:
            self._vectors.popitem(last=False)

    def close(self) -> None:
        """Forget everything."""
        self._vectors.clear()
