"""Parquet tables as items, in batches of rows, reading only the two columns that count.

One of the readers of source → items, and the only one that imports pyarrow, when it is first used. What pyarrow
raises becomes an error of ours here. Nested columns are left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from embatch.errors import SourceFormatError
from embatch.storage.sources.columns import Columns, choose_columns
from embatch.storage.sources.rows import broken_text, to_row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from embatch.storage.sources.listing import SourceFile
    from embatch.types import BadItem, Item

MAX_BATCH_ROWS = 2048
BATCH_BYTES = 8 << 20
"""Rows that lie in memory as Python objects at a time, and about how many bytes of text they may hold."""

BUFFER_BYTES = 1 << 20
"""Read-ahead of one column: with it, a row group is streamed and not loaded whole."""


def read_parquet(
    file: SourceFile, asked: Columns, *, progress: Callable[[int], None]
) -> Iterator[Item | BadItem]:
    """An item for each row; `file:row` counts from 1.

    Args:
        file: the table.
        asked: the columns that the user named.
        progress: told after each batch how many of the file's bytes are done, by its share of the rows.

    Raises:
        MissingColumnError: the table has no such column.
        SourceFormatError: this is no Parquet file, a part of it is broken, or the text column holds no text.
        OSError: the file cannot be read.
    """
    try:
        # Opened here and not by pyarrow, which takes no names that are not UTF-8.
        with (
            Path(file.path).open("rb") as raw,
            pq.ParquetFile(raw, buffer_size=BUFFER_BYTES, pre_buffer=False) as table,
        ):
            columns = _columns(table.schema_arrow, asked, file.key)
            wanted = dict.fromkeys(name for name in columns if name is not None)
            done = 0
            for batch in table.iter_batches(_batch_rows(table.metadata, columns.text), columns=list(wanted)):
                yield from _rows(batch, columns, file.key, done)
                done += batch.num_rows
                progress(file.size_bytes * done // table.metadata.num_rows)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's; pyarrow's own OSErrors mean broken data and have no number
        reason = str(error).partition("\n")[0]
        raise SourceFormatError(f"{file.key!r} is not a sound Parquet file: {reason}") from error


def _batch_rows(metadata: Any, text: str | None) -> int:
    """Fewer rows at a time where texts are long, judged by the first row group."""
    if not metadata.num_row_groups:
        return MAX_BATCH_ROWS
    group = metadata.row_group(0)
    parts = (group.column(index) for index in range(group.num_columns))
    size_bytes = sum(part.total_uncompressed_size for part in parts if part.path_in_schema == text)
    return int(max(1, min(MAX_BATCH_ROWS, BATCH_BYTES * group.num_rows // max(size_bytes, 1))))


def _columns(schema: Any, asked: Columns, key: str) -> Columns:
    texts = [field.name for field in schema if _holds_text(field.type)]
    columns = choose_columns(asked, schema.names, where=repr(key), texts=texts)
    kind = schema.field(schema.get_field_index(columns.text)).type
    if not _holds_text(kind):
        raise SourceFormatError(
            f"The column {columns.text!r} of {key!r} holds {kind}, not text. "
            f"These hold text: {', '.join(map(repr, texts)) or 'none'}.",
            hint="Name the column that holds the text with --text-column.",
        )
    return columns


def _holds_text(kind: Any) -> bool:
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return any(test(inner) for test in tests)


def _rows(batch: Any, columns: Columns, key: str, done: int) -> Iterator[Item | BadItem]:
    names = [None] * batch.num_rows if columns.id is None else _values(batch.column(columns.id))
    texts = _values(batch.column(columns.text))
    for row, (name, text) in enumerate(zip(names, texts, strict=True), start=done + 1):
        place = f"{key}:{row}"
        yield broken_text(place, name) if isinstance(text, bytes) else to_row(place, text, name)


def _values(column: Any) -> list[object]:
    """A column's values as Python objects; text that is no UTF-8 as the bytes it is."""
    try:
        values: list[object] = column.to_pylist()
    except UnicodeDecodeError:
        return [_decoded(raw) for raw in column.cast(pa.large_binary()).to_pylist()]
    return values


def _decoded(raw: bytes | None) -> str | bytes | None:
    try:
        return raw if raw is None else raw.decode()
    except UnicodeDecodeError:
        return raw
