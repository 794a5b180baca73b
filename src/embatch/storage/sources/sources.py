"""Everything that the user wants embedded, as one stream of items.

The first word of source → items → plan: paths, folders, patterns and standard input become items in a fixed order, in
bounded memory. One bad file or row never ends the stream; only what was asked for by name and cannot be had at all is
an error, and that before anything else starts. Cutting texts to a model's length is left to `decisions.chunking`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO

from embatch.errors import MissingColumnError, SourceError, SourceFormatError, UsageError
from embatch.storage.sources.columns import Columns
from embatch.storage.sources.kinds import TABLES, announced
from embatch.storage.sources.listing import STDIN, SourceFile, list_files
from embatch.storage.sources.reading import FileReader, Passed, StdinFormat
from embatch.storage.sources.skips import Skip, SkipLog
from embatch.types import BadItem, Item

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PROBED_TABLES = 32
"""So many tables that were named one by one are looked into before the run. The others speak up in their turn."""


class Sources:
    """The items of all inputs, in a fixed order. Made by `open_sources`.

    Iterate as often as you like; each time the files are read anew, but standard input can be read only once.
    """

    def __init__(
        self,
        files: Sequence[SourceFile],
        *,
        columns: Columns,
        stdin: BinaryIO | None,
        stdin_format: StdinFormat,
        listed: SkipLog,
    ) -> None:
        self._files = tuple(files)
        self._columns = columns
        self._stdin = stdin
        self._stdin_format: StdinFormat = stdin_format
        self._stdin_used = False
        self._listed = listed
        self._skips = listed
        self._reader = FileReader(columns)
        self._finished_bytes = 0
        self._has_stdin = any(file.path == STDIN for file in self._files)

    @property
    def files(self) -> Sequence[str]:
        """The keys of all inputs, in the order in which they are read."""
        return [file.key for file in self._files]

    @property
    def skipped(self) -> Sequence[Skip]:
        """What was passed over, the first thousand of them. Complete once the last iteration has ended."""
        return self._skips.detail

    @property
    def skipped_counts(self) -> Mapping[str, int]:
        """How many inputs were passed over, by reason."""
        return self._skips.counts

    @property
    def bytes_total(self) -> int | None:
        """Size of all files as listed, compressed where they are; `None` with standard input."""
        return None if self._has_stdin else sum(file.size_bytes for file in self._files)

    @property
    def bytes_done(self) -> int:
        """How far the present iteration has read, on the scale of `bytes_total`. Any thread may ask."""
        return self._finished_bytes + self._reader.position()

    def signature(self) -> str | None:
        """64 hex digits that change when the inputs do: files, their sizes and times, the columns.

        `None` with standard input, of which nothing can be known beforehand.
        """
        if self._has_stdin:
            return None
        digest = hashlib.sha256(json.dumps(self._columns).encode())
        for file in self._files:
            digest.update(json.dumps([file.key, file.size_bytes, file.mtime_ns]).encode())
        return digest.hexdigest()

    def __iter__(self) -> Iterator[Item | BadItem]:
        self._skips = self._listed.copy()
        self._finished_bytes = 0
        sole = len(self._files) == 1 and self._files[0].named
        for file in self._files:
            self._reader = FileReader(self._columns)
            try:
                yield from self._rows(file, sole=sole)
            except Passed as passed:
                self._skips.add(file.key, str(passed))
            self._reader = FileReader(self._columns)
            self._finished_bytes += file.size_bytes

    def probe(self) -> None:
        """Look into what was named, so that a missing column or a useless only file is known before the run.

        Raises:
            MissingColumnError: a table that was named has no such column.
            SourceError: the only input cannot be used.
        """
        named = [file for file in self._files if file.named and file.path != STDIN]
        sole = len(self._files) == 1
        tables = [file for file in named if announced(file.path).kind in TABLES]
        for file in named if sole else islice(tables, PROBED_TABLES):
            with closing(self._reader.read(file)) as rows:
                try:
                    next(rows, None)
                except MissingColumnError:
                    raise
                except SourceError:
                    if sole:
                        raise
                except Passed as passed:
                    if sole and str(passed) == "binary":
                        raise SourceFormatError(
                            f"{file.key!r} is binary: there is no text in it that embatch can read."
                        ) from None
        self._reader = FileReader(self._columns)  # as if nothing had been read

    def _rows(self, file: SourceFile, *, sole: bool) -> Iterator[Item | BadItem]:
        """A file's rows; what ends them early becomes a bad item, unless there was nothing else to read."""
        rows = self._stdin_rows(file) if file.path == STDIN else self._reader.read(file)
        began = False
        try:
            for row in rows:
                began = True
                yield row
                break
            yield from rows
        except SourceError as error:
            if sole and not began:
                raise
            yield BadItem(file.key, error, file.key)
            began = True
        if not began:
            raise Passed("no rows")

    def _stdin_rows(self, file: SourceFile) -> Iterator[Item | BadItem]:
        if self._stdin_used:
            raise UsageError("Standard input was read already, and cannot be read twice.")
        self._stdin_used = True
        stream = self._stdin if self._stdin is not None else sys.stdin.buffer
        return self._reader.read_stdin(stream, file, self._stdin_format)


def open_sources(
    paths: Sequence[str],
    *,
    text_column: str | None = None,
    id_column: str | None = None,
    usual_column: str | None = None,
    stdin: BinaryIO | None = None,
    stdin_format: StdinFormat = "auto",
) -> Sources:
    """Find the inputs, and fail now if they cannot be used.

    Folders are walked by name, without hidden entries and what `.gitignore` leaves out; patterns (`docs/**/*.md`)
    match what a shell would match. Tables (CSV, TSV, Parquet, JSONL, a JSON array of records) give an item a row, all
    other text an item a file. An item's key is the row's id, else `file:row`, else the path as typed.

    Args:
        paths: files, folders, patterns, and `-` for standard input.
        text_column: the tables' column, or field, that holds the text; else the first usual name, see `columns`.
        id_column: the one that names the row.
        usual_column: looked for before the usual names, where no `text_column` is given.
        stdin: read for `-` instead of the process's standard input.
        stdin_format: `jsonl` for records, `text` for one text a line, `auto` to tell by the first line.

    Raises:
        SourceNotFoundError: a path does not exist, or a pattern matches nothing.
        SourceUnreadableError: a path that was named cannot be read.
        SourceFormatError: the only input holds no text.
        MissingColumnError: a table that was named has no such column.
        UsageError: no paths, or standard input twice.
    """
    if not paths:
        raise UsageError(
            "No input was given.", hint="Name files, folders or patterns, or `-` for standard input."
        )
    if list(paths).count(STDIN) > 1:
        raise UsageError("Standard input (`-`) was named twice, and can be read only once.")
    skips = SkipLog()
    sources = Sources(
        list_files(paths, skips),
        columns=Columns(text_column, id_column, usual_column),
        stdin=stdin,
        stdin_format=stdin_format,
        listed=skips,
    )
    sources.probe()
    return sources
