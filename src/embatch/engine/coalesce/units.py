"""What batches are made of, and whose it is.

A unit is a text, or a piece of one that is averaged. Equal texts that are made ready together are one unit with several
owners. Everything here happens under the coalescer's lock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from embatch.decisions.vectors import weighted_mean
from embatch.engine.window import finish_vectors

if TYPE_CHECKING:
    from embatch.engine.coalesce.asks import Waiting
    from embatch.errors import ItemError
    from embatch.types import FloatArray, ModelSpec


@dataclass(slots=True, eq=False)
class Text:
    """One distinct text, and the rows that wait for it."""

    spec: ModelSpec
    digest: bytes
    owners: list[tuple[Waiting, int]]
    """Asks and their rows."""
    pieces: list[Unit] = field(default_factory=list)
    """What it was cut into, if it is averaged over windows of the model."""
    left: int = 1
    """Units that have no vector yet."""
    taken: bool = False
    """Whether it, or a piece of it, was in a batch."""
    error: ItemError | None = None

    @property
    def live(self) -> bool:
        """Whether anybody waits for it."""
        return any(not waiting.ended for waiting, _ in self.owners)

    def take(self, now: float) -> int:
        """It goes into a batch: how many rows wait no longer in the queue."""
        if self.taken:
            return 0
        self.taken = True
        rows = 0
        for waiting, _ in self.owners:
            if not waiting.ended:
                rows += 1
                waiting.untaken -= 1
            if waiting.first_taken is None:
                waiting.first_taken = now
        return rows

    def finish(self, vector: FloatArray) -> list[Waiting]:
        """It has its vector `(dim,)`: the asks that are whole now."""
        whole = []
        for waiting, row in self.owners:
            if not waiting.ended:
                waiting.vectors[row] = vector
                waiting.pending -= 1
                if not waiting.pending:
                    whole.append(waiting)
        return whole

    def fail(self, error: ItemError) -> list[Waiting]:
        """It has no vector: the asks that are whole now."""
        if self.error is not None:
            return []  # another piece of it failed before
        self.error = error
        whole = []
        for waiting, row in self.owners:
            if not waiting.ended:
                waiting.fail(row, error)
                if not waiting.pending:
                    whole.append(waiting)
        return whole

    def mean(self) -> FloatArray:
        """The mean of its pieces, weighted by their tokens, `(1, dim)` finished."""
        weights = np.array([piece.length for piece in self.pieces], np.float32)
        vectors = np.stack([piece.vector for piece in self.pieces if piece.vector is not None])
        mean = weighted_mean(vectors, weights, normalize=self.spec.normalize)
        return finish_vectors(mean[None, :], self.spec)


@dataclass(slots=True, eq=False)
class Unit:
    """What the backend computes in one row of a batch."""

    text: Text
    payload: object
    length: int
    """Tokens."""
    vector: FloatArray | None = None
    """Of a piece, until all of its text are there."""
