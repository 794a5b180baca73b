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
from embatch.engine.outcomes import Patience, as_backend_error, blame, checked, halves, not_finite
from embatch.errors import BackendClosedError, BackendError, EmbatchError
from embatch.seen import BatchSeen

if TYPE_CHECKING:
    from embatch.engine.coalesce.units import Unit
    from embatch.errors import ItemError
    from embatch.types import Backend, BatchRecord, FloatArray

_ALONE = Budget(items=1)


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
    """Runs batches and finds who is to blame. Used by all streams."""

    def __init__(self) -> None:
        self._patience = Patience()

    def compute(self, backend: Backend, batch: Batch) -> Computed:
        """Vectors of a batch, checked. Never raises what a backend raises."""
        count = len(batch.units)
        try:
            vectors = backend.embed([unit.payload for unit in batch.units])
            vectors = checked(vectors, count, backend.spec.dimensions)
        except BackendClosedError as error:
            return Computed(error=error, fatal=True)
        except Exception as error:  # noqa: BLE001  # a backend's own exception must not lose its asks
            return self._failed(batch, as_backend_error(error))
        self._patience.succeeded()
        return _sorted_out(backend, batch, vectors)

    def _failed(self, batch: Batch, error: BackendError) -> Computed:
        try:
            self._patience.failed(error)
        except BackendError as broken:
            return Computed(error=broken, fatal=True)
        if len(batch.units) == 1:
            return Computed(failed=[(batch.units[0], blame(error))], error=error)
        retries = [Batch(half, batch.budget, batch.priority, fresh=False) for half in halves(batch.units)]
        return Computed(retries=retries, error=error)


def _sorted_out(backend: Backend, batch: Batch, vectors: FloatArray) -> Computed:
    """Rows that are no numbers apart: alone they are to blame, in company they are tried once more."""
    units = list(batch.units)
    numbers = np.isfinite(vectors)
    if numbers.all():
        return Computed(units=units, vectors=vectors)
    finite = numbers.all(axis=1)
    bad = [units[at] for at in np.flatnonzero(~finite).tolist()]
    good = [units[at] for at in np.flatnonzero(finite).tolist()]
    computed = Computed(units=good, vectors=vectors[finite])
    if len(units) > 1:
        computed.retries = [Batch([unit], _ALONE, batch.priority, fresh=False) for unit in bad]
    else:
        error = not_finite(backend.spec)
        computed.failed = [(unit, error) for unit in bad]
    return computed


def batch_seen(
    batch: Batch,
    record: BatchRecord,
    padded_tokens: int,
    began: float,
    stream: int,
    error: EmbatchError | None,
) -> BatchSeen:
    """A batch for observers, which began so many seconds after the epoch."""
    return BatchSeen(
        at=began,
        seconds=record.seconds,
        stream=stream,
        items=record.items,
        longest=record.longest,
        tokens=record.tokens,
        padded_tokens=padded_tokens,
        budget=record.budget,
        fresh=record.fresh,
        asks=len({id(waiting) for unit in batch.units for waiting, _ in unit.text.owners}),
        priority=batch.priority,
        error="" if error is None else type(error).__name__,
    )
