"""What all sinks of files have in common: which rows are written, as which numbers, and how they end.

The last stop of the flow: blocks in input order come in, a finished file comes out at `commit`. The formats are in the
modules beside this one; each only appends rows and completes its file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from embatch.decisions.vectors import is_finite_rows, quantize
from embatch.errors import BadVectorError, OutputError
from embatch.storage.files import os_errors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    import numpy.typing as npt

    from embatch.storage.sinks.files import AtomicFile
    from embatch.types import Block, FloatArray, Item, ModelSpec, Output


class FileSink(ABC):
    """A `Sink` into one or more files that appear together at `commit`.

    Args:
        path: the output, as the user named it.
        files: what is written; given their names in this order.
        spec: what the vectors are.
        output: what a number is stored as.
    """

    def __init__(self, path: Path, files: Sequence[AtomicFile], *, spec: ModelSpec, output: Output) -> None:
        self.path = path
        self._files = files
        self._spec = spec
        self._output = output
        self._open = True

    def write(self, block: Block) -> None:
        """Append a block's rows that have a vector, in their order.

        Raises:
            DiskFullError: no space is left.
            OutputNotWritableError: the disk or folder refuses.
            BadVectorError: a row is not finite and is not among the block's failures.
        """
        self._check_open()
        items, vectors = finished_rows(block)
        if items:
            with os_errors(self.path):
                self._append(items, quantize(vectors, self._output))

    def commit(self) -> None:
        """Make the output appear, whole, under its name; an older file of that name is replaced."""
        self._check_open()
        with os_errors(self.path):
            self._complete()
        for file in self._files:
            file.sync()
        for file in self._files:
            file.publish()
        self._open = False

    def abort(self) -> None:
        """Drop what was written. Never raises; after `commit` it does nothing."""
        if self._open:
            self._open = False
            with suppress(Exception):  # a writer may try to write its end once more
                self._release()
            for file in self._files:
                file.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Abort unless committed."""
        self.abort()

    @abstractmethod
    def _append(self, items: Sequence[Item], numbers: npt.NDArray[Any]) -> None:
        """Write rows; `numbers` is `(len(items), width)` as `quantize` gives it."""

    @abstractmethod
    def _complete(self) -> None:
        """Write what is still held back, and the format's end."""

    @abstractmethod
    def _release(self) -> None:
        """Give back what the format's writer holds: the file is dropped, whatever this raises is ignored."""

    def _check_open(self) -> None:
        if not self._open:
            raise OutputError(f"the output {str(self.path)!r} was ended already", hint="Open a new sink.")


def finished_rows(block: Block) -> tuple[Sequence[Item], FloatArray]:
    """The items of a block that have a vector, and the vectors `(n, dim)`, in order."""
    items, vectors = block.items, block.vectors
    if block.failures:
        good = np.ones(len(items), dtype=np.bool_)
        good[[failure.row - block.first_row for failure in block.failures]] = False
        items = [item for item, keep in zip(items, good.tolist(), strict=True) if keep]
        vectors = vectors[good]
    finite = is_finite_rows(vectors)
    if not finite.all():  # it must not be lost in silence, nor be stored
        bad = items[int(np.argmin(finite))]
        raise BadVectorError(f"the vector of {bad.key!r} holds NaN or infinity and is not among the failures")
    return items, vectors
