"""What is particular about the Parquet file: its schema, its metadata, its groups, and how it is read back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embatch.errors import OutputMismatchError, OutputNotWritableError
from embatch.storage.sinks import open_sink, read_vectors
from embatch.types import Block, Item, ModelSpec

if TYPE_CHECKING:
    from pathlib import Path

    from embatch.types import Output


def write(
    path: Path, spec: ModelSpec, count: int, *, text: str = "text", with_text: bool = False, step: int = 700
) -> None:
    rng = np.random.default_rng(1)
    with open_sink(path, spec=spec, with_text=with_text) as sink:
        for first in range(0, count, step):
            rows = range(first, min(count, first + step))
            items = [Item(f"k{row}", text, "s.txt") for row in rows]
            sink.write(Block(first, items, rng.random((len(items), spec.dimensions), dtype=np.float32)))
        sink.commit()


@pytest.mark.parametrize(
    ("output", "element", "width"),
    [
        ("float32", pa.float32(), 6),
        ("float16", pa.float16(), 6),
        ("int8", pa.int8(), 6),
        ("binary", pa.uint8(), 1),
    ],
)
def test_columns_and_types(
    tmp_path: Path, spec: ModelSpec, output: Output, element: pa.DataType, width: int
) -> None:
    """`key`, `vector` as a list of fixed size, `source`, and `text` last; none of them with nulls."""
    with open_sink(tmp_path / "x.parquet", spec=spec, output=output, with_text=True) as sink:
        sink.commit()
    schema = pq.read_schema(tmp_path / "x.parquet")
    assert schema.names == ["key", "vector", "source", "text"]
    assert schema.field("vector").type.list_size == width
    assert schema.field("vector").type.value_type == element
    assert not any(field.nullable for field in schema)


def test_the_spec_travels_with_the_file(tmp_path: Path) -> None:
    """Every field that changes a vector reads back, with the output and whatever else was given."""
    spec = ModelSpec(
        model="a/b", revision="r", dimensions=3, max_tokens=9, pooling="cls", prompt="Ω: ", overlong="pool"
    )
    with open_sink(tmp_path / "x.parquet", spec=spec, output="float16", metadata={"made by": "üs"}) as sink:
        sink.commit()
    metadata = pq.read_schema(tmp_path / "x.parquet").metadata
    assert ModelSpec.from_json(metadata[b"embatch.spec"].decode()) == spec
    assert metadata[b"embatch.output"] == b"float16"
    assert metadata[b"made by"] == "üs".encode()
    assert read_vectors(tmp_path / "x.parquet")[2] == spec


def test_groups_are_bounded(tmp_path: Path) -> None:
    """A group ends at 4 MiB of vectors, wherever the blocks' borders are, and at 65,536 rows."""
    wide = ModelSpec(model="m", revision="1", dimensions=4096, max_tokens=64)
    write(tmp_path / "wide.parquet", wide, 2500)
    groups = pq.ParquetFile(tmp_path / "wide.parquet").metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [256] * 9 + [196]
    narrow = ModelSpec(model="m", revision="1", dimensions=2, max_tokens=64)
    write(tmp_path / "narrow.parquet", narrow, 70_000, step=5000)
    groups = pq.ParquetFile(tmp_path / "narrow.parquet").metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [65_536, 4464]
    keys, vectors, _ = read_vectors(tmp_path / "narrow.parquet")
    assert keys == [f"k{row}" for row in range(70_000)]
    rng = np.random.default_rng(1)
    written = [rng.random((5000, 2), dtype=np.float32) for _ in range(14)]
    np.testing.assert_array_equal(vectors, np.concatenate(written))


def test_long_texts_end_a_group_early(tmp_path: Path, spec: ModelSpec) -> None:
    """A group holds little more than 4 MiB of text, however many rows a block has."""
    write(tmp_path / "x.parquet", spec, 50, text="x" * 3_000_000, with_text=True)
    groups = pq.ParquetFile(tmp_path / "x.parquet").metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [2] * 25
    assert pq.read_table(tmp_path / "x.parquet", columns=["text"])["text"][49].as_py() == "x" * 3_000_000


def test_vectors_are_stored_plain_and_small_ones_in_few_bits(tmp_path: Path) -> None:
    """float32 takes 4 bytes a component and int8 about one, although Parquet has no such number."""
    spec = ModelSpec(model="m", revision="1", dimensions=256, max_tokens=64)
    vectors = np.random.default_rng(1).standard_normal((4000, 256)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    items = [Item(f"k{row}", "", "folder/file.txt") for row in range(4000)]
    sizes = {}
    for output in ("float32", "float16", "int8", "binary"):
        with open_sink(tmp_path / "x.parquet", spec=spec, output=output) as sink:
            sink.write(Block(0, items, vectors))
            sink.commit()
        sizes[output] = (tmp_path / "x.parquet").stat().st_size / 4000
    assert 1024 < sizes["float32"] < 1040
    assert 512 < sizes["float16"] < 530
    assert sizes["int8"] < 280
    assert sizes["binary"] < 50


def test_what_is_no_file_of_ours_is_refused(tmp_path: Path) -> None:
    """A missing file, a text, and a Parquet file of something else each have a named error."""
    with pytest.raises(OutputNotWritableError):
        read_vectors(tmp_path / "missing.parquet")
    (tmp_path / "text.parquet").write_text("PAR1 no it is not")
    pq.write_table(pa.table({"key": ["a"], "vector": [1.0]}), tmp_path / "other.parquet")
    pq.write_table(pa.table({"name": ["a"]}), tmp_path / "columns.parquet")
    for name in ("text.parquet", "other.parquet", "columns.parquet"):
        with pytest.raises(OutputMismatchError, match=name):
            read_vectors(tmp_path / name)
