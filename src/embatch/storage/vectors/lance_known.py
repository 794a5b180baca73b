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
_MOST_PARTS = 64


class Known:
    """The vectors of the table, and those that it had when the writer opened it or published last."""

    def __init__(self, dataset: Any, spec: ModelSpec) -> None:
        self._spec = spec
        self._base: Any = None
        # Of all that was there at any time since it was first asked: each part sorted.
        self._prefixes: list[npt.NDArray[np.uint64]] | None = None
        self.rebase(dataset)

    def rebase(self, dataset: Any) -> None:
        """Look into this version for what has been dropped; it must stay until the next call."""
        self._base = dataset.checkout_version(dataset.version)

    def add(self, chunks: Sequence[Chunk]) -> None:
        """Remember that these were added."""
        if self._prefixes is None:
            return  # read with all others when it is first asked for
        self._prefixes.append(np.sort(_prefixes(b"".join(chunk.digest for chunk in chunks))))
        if len(self._prefixes) > _MOST_PARTS:
            self._prefixes = [np.sort(np.concatenate(self._prefixes))]

    def find(self, dataset: Any, digests: Sequence[bytes]) -> dict[bytes, FloatArray]:
        """The vectors among those asked for that `dataset` has, or that the base had."""
        found: dict[bytes, FloatArray] = {}
        wanted = self._likely(dataset, digests)
        for source in (dataset, self._base):
            wanted = [digest for digest in wanted if digest not in found]
            for first in range(0, len(wanted), _AT_ONCE):
                found |= self._read(source, wanted[first : first + _AT_ONCE])
        return found

    def _likely(self, dataset: Any, digests: Sequence[bytes]) -> list[bytes]:
        """Without those that are nowhere for certain."""
        distinct = list(dict.fromkeys(digests))
        if self._prefixes is None:
            sources = {source.version: source for source in (self._base, dataset)}
            self._prefixes = [_all_prefixes(source) for source in sources.values()]
        asked = _prefixes(b"".join(distinct))
        there = np.zeros(len(asked), np.bool_)
        for prefixes in self._prefixes:
            if len(prefixes):
                places = np.minimum(np.searchsorted(prefixes, asked), len(prefixes) - 1)
                there |= prefixes[places] == asked
        return [digest for digest, likely in zip(distinct, there, strict=True) if likely]

    def _read(self, dataset: Any, digests: Sequence[bytes]) -> dict[bytes, FloatArray]:
        literals = ", ".join(f"X'{digest.hex()}'" for digest in digests)
        condition = f"digest IN ({literals})"
        table = dataset.scanner(
            columns=["digest", "vector"], filter=condition, late_materialization=True
        ).to_table()
        vectors = to_vectors(table["vector"], self._spec.dimensions)
        return dict(zip(table["digest"].to_pylist(), vectors, strict=True))


def _all_prefixes(dataset: Any) -> npt.NDArray[np.uint64]:
    column = dataset.to_table(columns=["digest"])["digest"]
    parts = [_prefixes(_bytes(part)) for part in column.chunks if len(part)]
    return np.sort(np.concatenate(parts)) if parts else np.empty(0, np.uint64)


def _bytes(part: Any) -> bytes:
    """A column of digests, one behind the other."""
    start, end = part.offset * DIGEST_BYTES, (part.offset + len(part)) * DIGEST_BYTES
    return bytes(memoryview(part.buffers()[1])[start:end])


def _prefixes(joined: bytes) -> npt.NDArray[np.uint64]:
    """The first eight bytes of each of the digests that stand one behind the other."""
    pairs = np.frombuffer(joined, np.uint64).reshape(-1, DIGEST_BYTES // 8)
    return np.ascontiguousarray(pairs[:, 0])
