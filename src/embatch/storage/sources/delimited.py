"""CSV and TSV tables as items, row by row.

One of the readers of source → items. The first row names the columns. A row of another width or with broken UTF-8
becomes a `BadItem` with its line, and the others go on. Tables without a header are left out: nothing would tell the
text from the rest.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from embatch.errors import RowError, SourceFormatError
from embatch.storage.sources.columns import Columns, choose_columns
from embatch.storage.sources.rows import broken_text, to_row
from embatch.storage.sources.streams import MAX_LINE_BYTES
from embatch.types import BadItem, Item

if TYPE_CHECKING:
    import _csv
    from collections.abc import Iterator

    from embatch.storage.sources.listing import SourceFile
    from embatch.storage.sources.streams import Input


def read_delimited(
    opened: Input, file: SourceFile, asked: Columns, *, delimiter: str
) -> Iterator[Item | BadItem]:
    """An item for each row below the header; `file:line` is where a row begins.

    Args:
        opened: the table.
        file: what it is called.
        asked: the columns that the user named.
        delimiter: `,` also finds `;`, which spreadsheets write where the comma is the decimal sign.

    Raises:
        MissingColumnError: the header has no such column.
        SourceFormatError: the header is no row.
    """
    # The limit is the process's, not the reader's; it guards against an unclosed quote that swallows the file.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))
    text = _text_lines(opened)
    first = next(text, "")
    if delimiter == "," and "," not in first and ";" in first:
        delimiter = ";"
    reader = csv.reader(_chained(first, text), delimiter=delimiter)
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise SourceFormatError(f"{file.key!r} has no readable header row: {error}.") from error
    if not header:
        return iter(())
    columns = choose_columns(asked, header, where=repr(file.key), texts=header)
    at_text = header.index(columns.text or "")
    at_name = header.index(columns.id) if columns.id is not None else None
    return _rows(reader, file.key, len(header), at_text, at_name)


def _rows(
    reader: _csv.Reader, key: str, width: int, at_text: int, at_name: int | None
) -> Iterator[Item | BadItem]:
    while True:
        place = f"{key}:{reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadItem(place, RowError(f"{place} is not a row: {error}."), place)
            continue
        if len(cells) != width:
            if cells:  # an empty line is no row
                yield _wrong_width(place, len(cells), width)
            continue
        text = cells[at_text]
        name = None if at_name is None else cells[at_name]
        if text.isascii() or _sound(text):
            yield to_row(place, text.replace("\r\n", "\n"), name)
        else:
            yield broken_text(place, name)


def _wrong_width(place: str, cells: int, width: int) -> BadItem:
    error = RowError(
        f"{place} has {cells} cells, the header {width}.", hint="Quote texts that hold delimiters."
    )
    return BadItem(place, error, place)


def _text_lines(opened: Input) -> Iterator[str]:
    """Lines with their end, as the parser wants them; bytes that are no UTF-8 as lone surrogates."""
    for line in opened.lines():
        yield (line if isinstance(line, str) else line.decode("utf-8", "surrogateescape")) + "\n"


def _chained(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _sound(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
