"""One batch through the backend: vectors, or what is to be done instead.

A batch that fails is halved until the one text that is to blame stands alone; vectors that are no numbers are computed
once more alone. What `engine.former` and `engine.pipeline` do for a run, for batches of many asks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from embatch.decisions.planning import Budget
from embatch.engine.coalesce.room import Batch
from embatch.errors import (
    BackendClosedError,
    BackendError,
    BadVectorError,
    EmbatchError,
    ItemBackendError,
    OutOfMemoryError,
)
from embatch.seen import BatchSeen

if TYPE_CHECKING:
    from embatch.engine.coalesce.units import Unit
    from embatch.errors import ItemError
    from embatch.types import Backend, FloatArray

_ALONE = Budget(items=1)
GIVE_UP = 40
"""Calls that fail in a row, none succeeding: the engine is broken, not the texts."""


@dataclass(slots=True)
class Computed:
    """What became of a batch."""

    units: list[Unit] = field(default_factory=list)
    """That have a vector."""
    vectors: FloatArray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    """`(len(units), dim)`, as the backend made them."""
    failed: list[tuple[Unit, ItemError]] = field(default_factory=list)
    retries: list[Batch] = field(default_factory=list)
    error: EmbatchError | None = None
    """Why the batch as a whole gave no vectors."""
    fatal: bool = False
    """Whether nothing works any more."""


class Halver:
    """Runs batches and finds who is to blame. Used by all streams; its one count may be off by a few."""

    def __init__(self) -> None:
        self._failures_in_a_row = 0

    def compute(self, backend: Backend, batch: Batch) -> Computed:
        """Vectors of a batch, checked. Never raises what a backend raises."""
        try:
            vectors = _checked(
                backend, backend.embed([unit.payload for unit in batch.units]), len(batch.units)
            )
        except BackendClosedError as error:
            return Computed(error=error, fatal=True)
        except MemoryError:
            return self._failed(batch, OutOfMemoryError("the host has no memory left for this batch"))
        except BackendError as error:
            return self._failed(batch, error)
        except Exception as error:  # noqa: BLE001  # a backend's own exception must not lose its asks
            wrapped = BackendError(f"{type(error).__name__}: {error}")
            wrapped.__cause__ = error
            return self._failed(batch, wrapped)
        self._failures_in_a_row = 0
        return _sorted_out(backend, batch, vectors)

    def _failed(self, batch: Batch, error: BackendError) -> Computed:
        self._failures_in_a_row += 1
        if self._failures_in_a_row > GIVE_UP and not isinstance(error, OutOfMemoryError):
            broken = BackendError(
                f"the engine failed {self._failures_in_a_row} times in a row, last with: {error}"
            )
            broken.__cause__ = error
            return Computed(error=broken, fatal=True)
        units = list(batch.units)
        if len(units) == 1:
            blame = ItemBackendError(f"the model failed on this text: {error}", hint=error.hint)
            return Computed(failed=[(units[0], blame)], error=error)
        middle = len(units) // 2
        halves = [
            Batch(half, batch.budget, batch.priority, fresh=False)
            for half in (units[:middle], units[middle:])
        ]
        return Computed(retries=halves, error=error)


def _sorted_out(backend: Backend, batch: Batch, vectors: FloatArray) -> Computed:
    """Rows that are no numbers apart: alone they are to blame, in company they are tried once more."""
    units = list(batch.units)
    finite = np.isfinite(vectors).all(axis=1)
    if finite.all():
        return Computed(units=units, vectors=vectors)
    bad = [units[at] for at in np.flatnonzero(~finite).tolist()]
    good = [units[at] for at in np.flatnonzero(finite).tolist()]
    computed = Computed(units=good, vectors=vectors[finite])
    if len(units) > 1:
        computed.retries = [Batch([unit], _ALONE, batch.priority, fresh=False) for unit in bad]
    else:
        error = BadVectorError(f"{backend.spec.model} answered NaN or infinity for this text")
        computed.failed = [(unit, error) for unit in bad]
    return computed


def _checked(backend: Backend, vectors: FloatArray, count: int) -> FloatArray:
    expected = (count, backend.spec.dimensions)
    if vectors.shape != expected or vectors.dtype != np.float32:
        raise BackendError(
            f"the model answered {vectors.dtype} of shape {vectors.shape}, not float32 {expected}",
            hint="The model's files do not fit its configuration; fetch it again or use another backend.",
        )
    return vectors


def batch_seen(  # what is known of one batch
    batch: Batch, computed: Computed, at: float, seconds: float, stream: int, padded_tokens: int
) -> BatchSeen:
    """A batch for observers."""
    lengths = batch.lengths
    return BatchSeen(
        at=at,
        seconds=seconds,
        stream=stream,
        items=len(lengths),
        longest=int(lengths.max()),
        tokens=int(lengths.sum()),
        padded_tokens=padded_tokens,
        budget=batch.budget.tokens or 0,
        fresh=batch.fresh,
        asks=len({id(waiting) for unit in batch.units for waiting, _ in unit.text.owners}),
        priority=batch.priority,
        error="" if computed.error is None else type(computed.error).__name__,
    )
