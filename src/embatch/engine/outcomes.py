"""What became of one batch: its vectors checked, its error in the words of the tree, its record.

A backend's answer is trusted in nothing: a wrong shape or a foreign exception is turned into an error of ours here, and
whoever asked decides what follows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embatch.errors import BackendError, EmbatchError, OutOfMemoryError
from embatch.types import BatchRecord

if TYPE_CHECKING:
    from embatch.engine.former import Batch
    from embatch.types import FloatArray


def checked(vectors: FloatArray, count: int, dimensions: int) -> FloatArray:
    """The vectors of `count` items, if they are that.

    Raises:
        BackendError: they have another shape, or are no float32.
    """
    expected = (count, dimensions)
    if vectors.shape != expected or vectors.dtype != np.float32:
        raise BackendError(
            f"the model answered {vectors.dtype} of shape {vectors.shape}, not float32 {expected}",
            hint="The model's files do not fit its configuration; fetch it again or use another backend.",
        )
    return vectors


def as_backend_error(error: Exception) -> BackendError:
    """What a call of the backend ended with, in the words of the tree.

    Raises:
        EmbatchError: something else than the backend has failed.
    """
    if isinstance(error, BackendError):
        return error
    if isinstance(error, EmbatchError):
        raise error
    ours: BackendError
    if isinstance(error, MemoryError):
        ours = OutOfMemoryError("the host has no memory left for this batch")
    else:
        ours = BackendError(f"{type(error).__name__}: {error}")
    ours.__cause__ = error
    return ours


def record_of(batch: Batch, seconds: float, error: BackendError | None = None) -> BatchRecord:
    """What a batch did, for tuners and reports; with the error that it ended with, if it did."""
    lengths = batch.lengths
    return BatchRecord(
        budget=batch.budget.tokens or 0,
        items=len(batch.units),
        longest=int(lengths.max()),
        tokens=int(lengths.sum()),
        seconds=seconds,
        out_of_memory=isinstance(error, OutOfMemoryError),
        fresh=batch.fresh,
    )
