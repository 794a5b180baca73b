"""One listed file as items, by the reader that its kind asks for.

The step between `listing` and the run: it opens the file, tells text from binary, and turns whatever goes wrong into
errors of ours. What such an error means for the other files is decided in `sources`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, BinaryIO, Literal

from embatch.errors import SourceFormatError, SourceUnreadableError
from embatch.storage.sources.delimited import read_delimited
from embatch.storage.sources.documents import read_html, read_lines, read_text
from embatch.storage.sources.kinds import TABLES, Kind, announced, settled
from embatch.storage.sources.records import read_json_array, read_json_lines
from embatch.storage.sources.streams import HEAD_BYTES, Input, mapped_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from embatch.storage.sources.columns import Columns
    from embatch.storage.sources.listing import SourceFile
    from embatch.types import BadItem, Item

StdinFormat = Literal["auto", "jsonl", "text"]
"""What standard input holds: JSON records a line, one text a line, or whatever its first line looks like."""


TABLE_NUL_SHARE = 0.01
"""A table may have a NUL in some row, which then says so itself; binary data has more."""


class Passed(Exception):  # noqa: N818  # not an error: it says that there is nothing to read here
    """The file is passed over; the argument is the reason."""


class FileReader:
    """Reads one file at a time and knows how far it is. `position` may be asked from any thread."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._position: Callable[[], int] = _nowhere

    def position(self) -> int:
        """Bytes of the current file that are done, as they lie on the disk."""
        return self._position()

    def read(self, file: SourceFile) -> Generator[Item | BadItem]:
        """The file's items.

        Raises:
            Passed: there is nothing in it to read.
            SourceError: the file as a whole cannot be used, from here on at least.
        """
        if file.problem:
            raise SourceUnreadableError(file.problem)
        kind, compressed = announced(file.path)
        if kind is Kind.BINARY:
            raise Passed("binary")
        with mapped_errors(file.key):
            if kind is Kind.PARQUET:
                yield from self._parquet(file)
                return
            with Input.open(file.path, key=file.key, compressed=compressed) as opened:
                self._position = opened.position
                yield from self._stream(opened, file, kind)

    def _stream(self, opened: Input, file: SourceFile, kind: Kind) -> Generator[Item | BadItem]:
        if not opened.head:
            raise Passed("empty")
        kind = settled(kind, opened.head_text)
        if opened.nul_share > (TABLE_NUL_SHARE if kind in TABLES else 0.0):
            raise Passed("binary")
        if kind is Kind.JSON:
            rows = read_json_array(opened, file, self._columns)
            if rows is not None:
                yield from rows
                return
            compressed = announced(file.path).compressed
            with Input.open(file.path, key=file.key, compressed=compressed) as again:
                yield from read_text(again, file)  # an array of something else: a document
        elif kind is Kind.JSON_LINES:
            yield from read_json_lines(opened, file, self._columns)
        elif kind in TABLES:
            yield from read_delimited(opened, file, self._columns, delimiter=kind.value)
        elif kind is Kind.HTML:
            yield from read_html(opened, file)
        else:
            yield from read_text(opened, file)

    def _parquet(self, file: SourceFile) -> Generator[Item | BadItem]:
        from embatch.storage.sources.parquet import read_parquet

        done = 0

        def progress(done_bytes: int) -> None:
            nonlocal done
            done = done_bytes

        self._position = lambda: done
        if not file.size_bytes:
            raise Passed("empty")
        yield from read_parquet(file, self._columns, progress=progress)

    def read_stdin(
        self, stream: BinaryIO, file: SourceFile, stdin_format: StdinFormat
    ) -> Generator[Item | BadItem]:
        """The lines of standard input: records, or texts, blank lines passed over. It is left open.

        Raises:
            SourceError: it is binary, breaks off, or has no text field.
        """
        with mapped_errors(file.key):
            opened = Input(stream, key=file.key, by_line=True)
            if opened.nul_share > TABLE_NUL_SHARE:
                raise SourceFormatError("Standard input holds binary data, neither text nor JSON lines.")
            if stdin_format == "jsonl" or (stdin_format == "auto" and _begins_with_record(opened.head_text)):
                yield from read_json_lines(opened, file, self._columns)
            else:
                yield from read_lines(opened, file)


def _nowhere() -> int:
    return 0


def _begins_with_record(head: str) -> bool:
    """Whether the first line that is not blank is a JSON object, or the beginning of a very long one."""
    line, ended, _ = head.lstrip().partition("\n")
    if not ended and len(head) >= HEAD_BYTES:
        return line.startswith("{")
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
