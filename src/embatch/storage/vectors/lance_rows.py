"""The table of chunks: its columns, and chunks as its rows and back.

What reader and writer of the Lance store agree on. A row is a chunk, its vector, and the words that full-text search
looks at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
import pyarrow as pa

from embatch.chunks import Chunk, ChunkKind
from embatch.storage.vectors.matching import document_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from embatch.chunks import Where
    from embatch.types import FloatArray, ModelSpec

FOLDER = "chunks.lance"
"""The table's folder in the store's; LanceDB, connected to the store's folder, calls it `chunks`."""
SPEC_KEY = b"embatch.spec"
CHUNK_COLUMNS = [
    "path",
    "text",
    "start",
    "end",
    "start_line",
    "end_line",
    "kind",
    "language",
    "symbol",
    "context",
    "imports",
]
DIGEST_BYTES = 16
_KINDS: dict[str, ChunkKind] = {
    kind: kind for arg in get_args(ChunkKind) for kind in (get_args(arg) or (arg,))
}


def schema(spec: ModelSpec) -> Any:
    """The columns for vectors of this model, which is noted in the metadata."""
    numbers = {"start", "end", "start_line", "end_line"}
    fields = [pa.field(name, pa.int64() if name in numbers else pa.string()) for name in CHUNK_COLUMNS]
    fields.append(pa.field("words", pa.string()))
    fields.append(pa.field("digest", pa.binary(DIGEST_BYTES)))
    fields.append(pa.field("vector", pa.list_(pa.float32(), spec.dimensions)))
    return pa.schema(fields, metadata={SPEC_KEY: spec.to_json().encode()})


def to_table(chunks: Sequence[Chunk], vectors: FloatArray, spec: ModelSpec) -> Any:
    """The rows of these chunks; row `i` of `(n, dim)` belongs to `chunks[i]`."""
    columns: list[Any] = [pa.array([getattr(chunk, name) for chunk in chunks]) for name in CHUNK_COLUMNS]
    columns.append(pa.array([document_words(chunk) for chunk in chunks]))
    columns.append(pa.array([chunk.digest for chunk in chunks], pa.binary(DIGEST_BYTES)))
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    columns.append(pa.FixedSizeListArray.from_arrays(flat, spec.dimensions))
    return pa.table(columns, schema=schema(spec))


def to_chunks(table: Any) -> Iterator[Chunk]:
    """The chunks of rows that were read with `CHUNK_COLUMNS`, in their order."""
    columns = [table[name].to_pylist() for name in CHUNK_COLUMNS]
    for values in zip(*columns, strict=True):
        row = dict(zip(CHUNK_COLUMNS, values, strict=True))
        yield Chunk(**{**row, "kind": _KINDS[row["kind"]]})


def to_vectors(column: Any, dimensions: int) -> FloatArray:
    """A column of vectors as `(n, dim)` float32."""
    chunked = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    flat = chunked.flatten().to_numpy(zero_copy_only=False)
    return cast("FloatArray", flat.reshape(-1, dimensions))


def sql_text(value: str) -> str:
    """A string as a literal of SQL."""
    return "'" + value.replace("'", "''") + "'"


def sql_in(column: str, values: Sequence[str]) -> str:
    """That a column has one of these values."""
    return f"{column} IN ({', '.join(map(sql_text, values))})"


def sql_where(where: Where) -> str | None:
    """The filter as SQL that Lance understands; None if it lets everything through."""
    from embatch.decisions.globs import path_rules

    rules = path_rules(where.paths)
    terms = []
    if rules.only:
        terms.append("(" + " OR ".join(f"regexp_like(path, {sql_text(rule)})" for rule in rules.only) + ")")
    terms += [f"NOT regexp_like(path, {sql_text(rule)})" for rule in rules.never]
    if where.languages:
        terms.append(sql_in("language", where.languages))
    if where.kinds:
        terms.append(sql_in("kind", where.kinds))
    return " AND ".join(terms) or None
