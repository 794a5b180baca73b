"""JSON records as items: one a line (JSONL, NDJSON), or the elements of one array.

One of the readers of source → items. A record is an object with a text field, or a string, which is the text itself. A
record that has no text becomes a `BadItem` with its place, and the others go on. Nested fields are left out.
"""

from __future__ import annotations

import json
import re
from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple

from embatch.errors import EncodingError, RowError, SourceError, SourceFormatError
from embatch.storage.sources.columns import Columns, choose_columns
from embatch.storage.sources.rows import to_row
from embatch.storage.sources.streams import MAX_LINE_BYTES
from embatch.types import BadItem, Item

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from embatch.storage.sources.listing import SourceFile
    from embatch.storage.sources.streams import Input

LOOKED_AT = 100
"""So many records show which fields there are: one may lack a field that the others have."""

_SEPARATOR = re.compile(r"[ \t\n\r]*,?[ \t\n\r]*")
_ARRAY_OF_RECORDS = re.compile(r"[ \t\n\r]*\[[ \t\n\r]*[\"{]")
_parse = json.JSONDecoder().raw_decode


class _Record(NamedTuple):
    """A line or element, parsed unless there is an error."""

    number: int  # from 1, in the file
    value: object
    error: SourceError | EncodingError | None = None


def read_json_lines(opened: Input, file: SourceFile, asked: Columns) -> Iterator[Item | BadItem]:
    """An item for each line that is not blank.

    Raises:
        MissingColumnError: none of the first records has the column.
        SourceFormatError: a line is too long to be a row.
    """
    numbered = enumerate(opened.lines(), start=1)
    first = list(islice(numbered, LOOKED_AT))
    columns = _columns((_parsed(number, line, file.key) for number, line in first), asked, file.key)
    return _line_rows(chain(first, numbered), file.key, columns)


def read_json_array(opened: Input, file: SourceFile, asked: Columns) -> Iterator[Item | BadItem] | None:
    """An item for each element; `None` if this is no array of records and nobody said that it was.

    Raises:
        MissingColumnError: a column was asked for, and none of the first elements has it.
        SourceFormatError: a column was asked for, and the array is broken.
    """
    found = _elements(opened.text(), file.key)
    try:
        first = list(islice(found, LOOKED_AT))
        columns = _columns(iter(first), asked, file.key)
    except SourceError:
        if asked == Columns(usual=asked.usual):
            return None
        raise
    return (_row(record, file.key, columns) for record in chain(first, found))


def is_array_of_records(head: str) -> bool:
    """Whether a file that begins with `head` is an array of objects or strings, and no other kind of document."""
    return _ARRAY_OF_RECORDS.match(head) is not None


def _columns(records: Iterator[_Record], asked: Columns, key: str) -> Columns:
    fields: dict[str, None] = {}  # in the order of their first appearance
    for record in records:
        if isinstance(record.value, dict):
            fields.update(dict.fromkeys(record.value))
    if not fields:  # bare strings, or nothing that can be parsed: each row says so itself
        return asked
    return choose_columns(asked, list(fields), where=repr(key))


def _line_rows(
    numbered: Iterable[tuple[int, str | bytes]], key: str, columns: Columns
) -> Iterator[Item | BadItem]:
    """The hot loop: the usual record, an object with a text and a name, is dealt with here."""
    text_field, id_field = columns.text, columns.id
    for number, line in numbered:
        if not line or line.isspace():
            continue
        place = f"{key}:{number}"
        try:
            record, end = _parse(line)  # type: ignore[arg-type]  # bytes raise TypeError, and are not usual
            if end == len(line) or line[end:].isspace():
                text = record[text_field]
                name = place if id_field is None else record[id_field]
                if type(text) is str and (name is place or (type(name) is str and name and name.isascii())):
                    yield Item(name, text, place)
                    continue
                if type(text) is str and type(name) is int:
                    yield Item(str(name), text, place)
                    continue
        except (ValueError, TypeError, KeyError, RecursionError):
            pass  # whatever it is, the long way finds out
        yield _row(_parsed(number, line, key), key, columns)


def _parsed(number: int, line: str | bytes, key: str) -> _Record:
    if isinstance(line, bytes):
        message = f"{key}:{number} is not UTF-8."
        return _Record(number, None, EncodingError(message, hint="Convert the file to UTF-8."))
    try:
        return _Record(number, json.loads(line))
    except RecursionError:
        return _Record(number, None, RowError(f"{key}:{number} is nested too deeply."))
    except ValueError as error:  # a broken line, or a number with more digits than Python converts
        return _Record(number, None, RowError(f"{key}:{number} is not JSON: {error}."))


def _row(record: _Record, key: str, columns: Columns) -> Item | BadItem:
    place = f"{key}:{record.number}"
    if record.error is not None:
        return BadItem(place, record.error, place)
    value = record.value
    if isinstance(value, str):
        return Item(place, value, place)
    if not isinstance(value, dict):
        kind = type(value).__name__
        error = RowError(f"{place} holds a JSON {kind}, neither an object nor a string.")
        return BadItem(place, error, place)
    if columns.text not in value:
        return BadItem(place, RowError(f"{place} has no field {columns.text!r}."), place)
    return to_row(place, value[columns.text], value.get(columns.id))


def _elements(blocks: Iterator[str], key: str) -> Iterator[_Record]:
    """The elements of an array, parsed one by one from a sliding buffer.

    An element that does not parse may go on in the next block: it is tried again when the buffer has doubled, so that
    the work stays linear.
    """
    buffer, at, number, whole = "", 0, 0, False
    wanted = 1
    opened = False
    while True:
        while not whole and len(buffer) - at < wanted:
            block = next(blocks, None)
            whole = block is None
            buffer, at = buffer[at:] + (block or ""), 0
        if not opened:
            at, opened = buffer.index("[") + 1, True
        start = _separated(buffer, at)
        if buffer.startswith("]", start):
            return
        try:
            value, end = _parse(buffer, start)
        except (ValueError, RecursionError) as error:
            if whole or len(buffer) - at > MAX_LINE_BYTES:
                message = f"{key}:{number + 1} is not JSON, and what follows cannot be read: {error}."
                raise SourceFormatError(message) from error
            wanted = 2 * (len(buffer) - at) + 1
            continue
        if end == len(buffer) and not whole:  # the separator, or the rest of a number, is still to come
            wanted = len(buffer) - at + 1
            continue
        number, at, wanted = number + 1, end, 1
        yield _Record(number, value)


def _separated(buffer: str, at: int) -> int:
    match = _SEPARATOR.match(buffer, at)
    return match.end() if match is not None else at
