"""Which vectors the Lance store has, by content: what makes a moved file cost nothing.

Beside the writer. It keeps eight bytes of each digest in memory, so that asking for what is not there, as a first run
does all the time, reads nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from embatch.storage.vectors.lance_rows import DIGEST_BYTES, to_vectors

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from embatch.chunks import Chunk
    from embatch.types import FloatArray, ModelSpec

_AT_ONCE = 4000


class Known:
    """The digests of the table as it was when the writer opened or published it, and of what was added since."""

    def __init__(self, dataset: Any, spec: ModelSpec) -> None:
        self._spec = spec
        self._added: list[npt.NDArray[np.uint64]] = []
        self._base: Any = None
        self._base_prefixes: npt.NDArray[np.uint64] | None = None
        self.rebase(dataset)

    def rebase(self, dataset: Any) -> None:
        """Begin anew from this version, which must stay until the next call."""
        self._base = dataset.checkout_version(dataset.version)
        self._base_prefixes = None
        self._added.clear()

    def add(self, chunks: Sequence[Chunk]) -> None:
        """Remember that these were added."""
        self._added.append(_prefixes(b"".join(chunk.digest for chunk in chunks)))

    def find(self, dataset: Any, digests: Sequence[bytes]) -> dict[bytes, FloatArray]:
        """The vectors among those asked for that `dataset` has, or that the base had."""
        found: dict[bytes, FloatArray] = {}
        wanted = self._likely(digests)
        for source in (dataset, self._base):
            wanted = [digest for digest in wanted if digest not in found]
            for first in range(0, len(wanted), _AT_ONCE):
                found |= self._read(source, wanted[first : first + _AT_ONCE])
        return found

    def _likely(self, digests: Sequence[bytes]) -> list[bytes]:
        """Without those that are nowhere for certain."""
        distinct = list(dict.fromkeys(digests))
        if self._base_prefixes is None:
            column = self._base.to_table(columns=["digest"])["digest"]
            parts = [_prefixes(_bytes(part)) for part in column.chunks if len(part)]
            self._base_prefixes = np.concatenate(parts) if parts else np.empty(0, np.uint64)
        asked = _prefixes(b"".join(distinct))
        there = np.zeros(len(asked), np.bool_)
        for prefixes in (self._base_prefixes, *self._added):
            there |= np.isin(asked, prefixes)
        return [digest for digest, likely in zip(distinct, there, strict=True) if likely]

    def _read(self, dataset: Any, digests: Sequence[bytes]) -> dict[bytes, FloatArray]:
        literals = ", ".join(f"X'{digest.hex()}'" for digest in digests)
        condition = f"digest IN ({literals})"
        table = dataset.scanner(
            columns=["digest", "vector"], filter=condition, late_materialization=True
        ).to_table()
        vectors = to_vectors(table["vector"], self._spec.dimensions)
        return dict(zip(table["digest"].to_pylist(), vectors, strict=True))


def _bytes(part: Any) -> bytes:
    """A column of digests, one behind the other."""
    start, end = part.offset * DIGEST_BYTES, (part.offset + len(part)) * DIGEST_BYTES
    return bytes(memoryview(part.buffers()[1])[start:end])


def _prefixes(joined: bytes) -> npt.NDArray[np.uint64]:
    """The first eight bytes of each of the digests that stand one behind the other."""
    pairs = np.frombuffer(joined, np.uint64).reshape(-1, DIGEST_BYTES // 8)
    return np.ascontiguousarray(pairs[:, 0])
