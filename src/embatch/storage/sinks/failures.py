"""The file of rows that have no vector, `<output>.errors.jsonl`: what was lost, why, and what to do.

Written beside the sink, block by block, and only if there are failures. After a run without any, one that an earlier
run left is removed.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Self

from embatch.storage.files import os_errors
from embatch.storage.sinks.files import AtomicFile, clear_leftovers
from embatch.storage.sinks.text import json_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import TracebackType

    from embatch.types import ItemFailure


class ErrorFile:
    """Lines of `{"row", "key", "source", "error", "message", "hint"}`, in the order in which they are written.

    Attributes:
        path: the file that `commit` makes, if there are failures.
    """

    def __init__(self, output: Path) -> None:
        self.path = output.with_name(f"{output.name}.errors.jsonl")
        self._file: AtomicFile | None = None

    def write(self, failures: Iterable[ItemFailure]) -> None:
        """Append failures."""
        for failure in failures:
            if self._file is None:
                self._file = AtomicFile(self.path)
            with os_errors(self.path):
                self._file.file.write(_line(failure))

    def commit(self) -> Path | None:
        """Make the file appear, or remove an earlier one if there are no failures; its path if it is there."""
        if self._file is None:
            with os_errors(self.path):
                self.path.unlink(missing_ok=True)
                clear_leftovers(self.path)
            return None
        file, self._file = self._file, None
        try:
            file.sync()
            file.publish()
        finally:
            file.discard()
        return self.path

    def abort(self) -> None:
        """Drop what was written. Never raises; after `commit` it does nothing."""
        if self._file is not None:
            with suppress(Exception):
                self._file.discard()
            self._file = None

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


def write_errors(path: Path, failures: Iterable[ItemFailure]) -> Path | None:
    """Write the error file of the output at `path` at once; where it is, None if there are no failures."""
    with ErrorFile(path) as file:
        file.write(failures)
        return file.commit()


def _line(failure: ItemFailure) -> bytes:
    fields = {
        "row": failure.row,
        "key": failure.key,
        "source": failure.source,
        "error": type(failure.error).__name__,
        "message": str(failure.error),
        "hint": failure.error.hint,
    }
    return json_bytes(fields) + b"\n"
