"""What became of one batch: its vectors checked, its error in the words of the tree, its record.

A backend's answer is trusted in nothing: a wrong shape or a foreign exception is turned into an error of ours here, and
whoever asked decides what follows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from embatch.errors import BackendError, BadVectorError, ItemBackendError, OutOfMemoryError
from embatch.types import BatchRecord, CostRule

if TYPE_CHECKING:
    from collections.abc import Sequence, Sized

    from embatch.decisions.planning import Budget
    from embatch.types import FloatArray, IntArray, ModelSpec

T = TypeVar("T")

GIVE_UP = 40
"""Calls that fail in a row, none succeeding: the engine is broken, not the texts."""


class SomeBatch(Protocol):
    """What a record is made of: a batch of a run, or one of many asks."""

    @property
    def units(self) -> Sized:
        """What is computed."""
        ...

    @property
    def lengths(self) -> IntArray:
        """`(n,)` tokens of each unit."""
        ...

    @property
    def budget(self) -> Budget:
        """What it was formed under."""
        ...

    @property
    def fresh(self) -> bool:
        """False for a retry or a levelled rest."""
        ...


class Patience:
    """How often a backend may fail in a row. Shared by its streams: the count may be off by a few."""

    def __init__(self) -> None:
        self._failures_in_a_row = 0

    def succeeded(self) -> None:
        """A call came back with vectors: the engine works."""
        self._failures_in_a_row = 0

    def failed(self, error: BackendError) -> None:
        """A call has failed. What did not fit into memory is tried smaller, however often.

        Raises:
            BackendError: nothing works any more; trying every text alone would only take longer.
        """
        self._failures_in_a_row += 1
        if self._failures_in_a_row > GIVE_UP and not isinstance(error, OutOfMemoryError):
            raise BackendError(
                f"the engine failed {self._failures_in_a_row} times in a row, last with: {error}"
            ) from error


def blame(error: BackendError) -> ItemBackendError:
    """The error of the one text that a call failed on."""
    return ItemBackendError(f"the model failed on this text: {error}", hint=error.hint)


def not_finite(spec: ModelSpec) -> BadVectorError:
    """The error of a text whose vector is none, alone in its batch too."""
    return BadVectorError(f"{spec.model} answered NaN or infinity for this text")


def halves(units: Sequence[T]) -> tuple[Sequence[T], Sequence[T]]:
    """A batch that has failed, in two that are tried again."""
    middle = len(units) // 2
    return units[:middle], units[middle:]


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
    """What a call of the backend ended with, in the words of the tree."""
    if isinstance(error, BackendError):
        return error
    ours: BackendError
    if isinstance(error, MemoryError):
        ours = OutOfMemoryError("the host has no memory left for this batch")
    else:
        ours = BackendError(f"{type(error).__name__}: {error}")
    ours.__cause__ = error
    return ours


def record_of(batch: SomeBatch, seconds: float, error: Exception | None = None) -> BatchRecord:
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


def padded_tokens(record: BatchRecord, rule: CostRule) -> int:
    """What the backend computed for a batch, padding included."""
    return record.longest * record.items if rule is CostRule.PADDED else record.tokens
