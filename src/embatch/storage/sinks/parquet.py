"""Vectors as a Parquet file: columns `key`, `vector`, `source`, and `text` if asked for; the ModelSpec in its metadata.

The default sink, and the reader that goes with it. Rows are gathered to groups of bounded size, so that memory does not
grow with the file. It keeps no index; what searches vectors reads this file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embatch.errors import OutputMismatchError
from embatch.storage.files import os_errors
from embatch.storage.sinks.base import FileSink
from embatch.storage.sinks.files import AtomicFile
from embatch.storage.sinks.text import storable
from embatch.types import ModelSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from embatch.types import Item, Output

SPEC_KEY = "embatch.spec"
OUTPUT_KEY = "embatch.output"
_GROUP_BYTES = 4 << 20
"""Of vectors, and as much of strings: 2,730 rows of 384. Writing takes some five times as much, of which Arrow's
allocator gives little back."""
_GROUP_ROWS = 65_536
_VECTOR_COLUMN = "vector.list.element"
_ELEMENTS: dict[Output, pa.DataType] = {
    "float32": pa.float32(),
    "float16": pa.float16(),
    "int8": pa.int8(),
    "binary": pa.uint8(),
}


class ParquetSink(FileSink):
    """One row a vector, in input order. No column holds nulls.

    Vectors are stored as they are: measured on unit vectors, zstd saves 7% (16% with split bytes) and costs half as
    much time again. Strings are compressed, and a repeated source is stored once a group.
    """

    def __init__(
        self,
        path: Path,
        *,
        spec: ModelSpec,
        output: Output,
        with_text: bool,
        metadata: Mapping[str, str],
    ) -> None:
        width = -(-spec.dimensions // 8) if output == "binary" else spec.dimensions
        self._schema = _schema(spec, output, width, with_text=with_text, metadata=metadata)
        kind = _ELEMENTS[output].to_pandas_dtype()
        rows = min(_GROUP_ROWS, max(1, _GROUP_BYTES // (width * np.dtype(kind).itemsize)))
        self._group: npt.NDArray[Any] = np.empty((rows, width), dtype=kind)
        self._items: list[Item] = []  # of the first rows of the group
        self._characters = 0
        self._with_text = with_text
        file = AtomicFile(path)
        super().__init__(path, [file], spec=spec, output=output)
        small = output in {"int8", "binary"}
        self._writer = pq.ParquetWriter(
            file.file,
            self._schema,
            compression={"key": "zstd", _VECTOR_COLUMN: "none", "source": "zstd", "text": "zstd"},
            # Parquet has no 8-bit numbers; of 32 bits a dictionary of at most 256 entries leaves 8.
            use_dictionary=["source", _VECTOR_COLUMN] if small else ["source"],
            write_statistics=["key", "source"],
        )

    def _append(self, items: Sequence[Item], numbers: npt.NDArray[Any]) -> None:
        while len(items):
            taken = self._fitting(items[: len(self._group) - len(self._items)])
            start = len(self._items)
            self._group[start : start + taken] = numbers[:taken]
            self._items += items[:taken]
            items, numbers = items[taken:], numbers[taken:]
            if len(self._items) == len(self._group) or self._characters >= _GROUP_BYTES:
                self._write_group()

    def _fitting(self, items: Sequence[Item]) -> int:
        """How many of the items to take before the group holds as many characters as it may: at least one."""
        for taken, item in enumerate(items, start=1):
            self._characters += len(item.key) + len(item.source) + (len(item.text) if self._with_text else 0)
            if self._characters >= _GROUP_BYTES:
                return taken
        return len(items)

    def _write_group(self) -> None:
        items, self._items, self._characters = self._items, [], 0
        vectors = pa.FixedSizeListArray.from_arrays(
            pa.array(self._group[: len(items)].reshape(-1)), type=self._schema.field("vector").type
        )
        columns = [
            _strings([item.key for item in items], pa.string()),
            vectors,
            _strings([item.source for item in items], pa.string()),
        ]
        if self._with_text:
            columns.append(_strings([item.text for item in items], pa.large_string()))
        self._writer.write_batch(pa.record_batch(columns, schema=self._schema), row_group_size=len(items))

    def _complete(self) -> None:
        if self._items:
            self._write_group()
        self._writer.close()

    def _release(self) -> None:
        try:
            self._writer.close()
        finally:
            self._writer.is_open = False  # or it would try again, and complain, when it is collected


def read_vectors(path: Path) -> tuple[list[str], npt.NDArray[Any], ModelSpec]:
    """The keys, the vectors `(n, width)` as they are stored, and what they are, of a file that `ParquetSink` wrote.

    Raises:
        OutputMismatchError: it is not such a file.
        OutputNotWritableError: it cannot be opened.
    """
    try:
        with os_errors(path), path.open("rb") as file:
            table = pq.read_table(file, columns=["key", "vector"])
        spec = ModelSpec.from_json((table.schema.metadata or {})[SPEC_KEY.encode()].decode())
    except (pa.ArrowInvalid, KeyError, ValueError, TypeError) as error:
        raise OutputMismatchError(f"the file {str(path)!r} holds no vectors of embatch ({error})") from error
    vectors = table["vector"].combine_chunks()
    width = table.schema.field("vector").type.list_size
    numbers: npt.NDArray[Any] = vectors.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return table["key"].to_pylist(), numbers, spec


def _schema(
    spec: ModelSpec, output: Output, width: int, *, with_text: bool, metadata: Mapping[str, str]
) -> pa.Schema:
    vector = pa.list_(pa.field("element", _ELEMENTS[output], nullable=False), width)
    columns = {"key": pa.string(), "vector": vector, "source": pa.string()}
    if with_text:
        columns["text"] = pa.large_string()  # of any length together
    return pa.schema(
        [pa.field(name, kind, nullable=False) for name, kind in columns.items()],
        metadata={**metadata, SPEC_KEY: spec.to_json(), OUTPUT_KEY: output},
    )


def _strings(texts: list[str], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(texts, kind)
    except UnicodeEncodeError:
        return pa.array([storable(text) for text in texts], kind)
