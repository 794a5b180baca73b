"""What processing chunks gives back, as frozen data: progress on the way, and the vectors at the end.

The last step of chunks → rows → engine → results. It computes nothing but sums.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from embatch.decisions.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embatch.errors import EmbatchError
    from embatch.types import FloatArray, ItemFailure


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkResult:
    """One chunk, finished."""

    row: int
    """Its position among the chunks, from 0."""
    key: str
    chunk: object
    """As it was handed over."""
    vector: FloatArray | None
    """`(dim,)` float32; None if it failed."""
    error: EmbatchError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchProgress(Progress):
    """One look at a run. `completed` counts failed chunks too: at the end it is `total`."""

    batches_processed: int = 0
    """Calls of the service, repeated ones included; batches, for a model on this machine."""
    results: Sequence[ChunkResult] = ()
    """The chunks that were finished since the progress before this one, in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a run has used."""

    tokens: int = 0
    """That the service counted, or that a model on this machine computed."""
    estimated_tokens: int = 0
    """Of these, those that nobody counted: estimated from the length of the texts."""
    dollars: float | None = None
    """None: no price is known."""
    usage: Mapping[str, int] = field(default_factory=dict)
    """The service's own counts by its own names, summed over its answers."""
    model: str = ""
    """As the service calls it; of a model on this machine, its canonical name."""
    repeated: int = 0
    """Chunks that took the vector of an equal text: not paid for."""
    cached: int = 0
    """Chunks whose vector was in the Embedder's cache: not paid for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessResult:
    """Vectors of all chunks. Row `i` belongs to chunk `i`."""

    embeddings: FloatArray
    """`(n, dim)` float32; a failed chunk's row is NaN. `(n, 0)` if no chunk has a vector."""
    keys: Sequence[str]
    failures: Sequence[ItemFailure]
    """The chunks without a vector, in order, by row and key, with the error."""
    batches_processed: int
    seconds: float
    spent: Spent

    @property
    def usage(self) -> Mapping[str, int]:
        """The service's own counts by its own names, with `total_tokens` whenever tokens were counted."""
        counted = self.spent.tokens - self.spent.estimated_tokens
        return {"total_tokens": counted, **self.spent.usage} if counted else dict(self.spent.usage)

    @property
    def model(self) -> str:
        """What made the vectors."""
        return self.spent.model

    @property
    def cost(self) -> float | None:
        """Dollars; None if no price is known."""
        return self.spent.dollars

    def vector(self, row: int) -> FloatArray | None:
        """The vector `(dim,)` of one chunk; None if it failed."""
        vector: FloatArray = self.embeddings[row]
        return None if not vector.size or np.isnan(vector[0]) else vector

    def __len__(self) -> int:
        return len(self.keys)


class Collected:
    """Results on their way to a `ProcessResult`."""

    def __init__(self) -> None:
        self._keys: list[str] = []
        self._failures: list[ItemFailure] = []
        self._vectors: list[FloatArray] = []
        self._dimensions = 0

    def add(self, keys: Sequence[str], vectors: FloatArray, failures: Sequence[ItemFailure]) -> None:
        """Take the next rows."""
        self._keys.extend(keys)
        self._failures.extend(failures)
        self._vectors.append(vectors)
        if len(failures) < len(keys):  # else nobody knows how many there are
            self._dimensions = max(self._dimensions, vectors.shape[1])

    def result(self, *, batches: int, seconds: float, spent: Spent) -> ProcessResult:
        """Everything taken so far."""
        embeddings = np.full((len(self._keys), self._dimensions), np.nan, np.float32)
        start = 0
        for vectors in self._vectors:
            width = min(vectors.shape[1], self._dimensions)
            embeddings[start : start + len(vectors), :width] = vectors[:, :width]
            start += len(vectors)
        return ProcessResult(
            embeddings=embeddings,
            keys=self._keys,
            failures=self._failures,
            batches_processed=batches,
            seconds=seconds,
            spent=spent,
        )
