"""Every format of a sink, with a way to read it back, and blocks to write."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest

from embatch.decisions.vectors import normalized
from embatch.errors import BadVectorError
from embatch.storage.sinks import read_vectors
from embatch.types import Block, Item, ItemFailure, ModelSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    import numpy.typing as npt

DIMENSIONS = 12


class Rows(NamedTuple):
    """What a file holds."""

    keys: list[str]
    vectors: npt.NDArray[Any]
    sources: list[str]
    texts: list[str] | None


@dataclass(frozen=True)
class Format:
    """One format: a file to write and a way to read it that shares no code with the sink."""

    name: str
    read: Callable[[Path], Rows]
    holds_text: bool = True


def read_parquet(path: Path) -> Rows:
    keys, vectors, _ = read_vectors(path)
    table = pq.read_table(path)
    texts = table["text"].to_pylist() if "text" in table.column_names else None
    return Rows(keys, vectors, table["source"].to_pylist(), texts)


def read_lines(path: Path) -> Rows:
    data = path.read_bytes()
    data = gzip.decompress(data) if path.suffix == ".gz" else data
    records = [json.loads(line) for line in data.split(b"\n")[:-1]]
    texts = [record["text"] for record in records if "text" in record]
    vectors = np.array([record["vector"] for record in records], dtype=np.float32)
    return Rows([record["key"] for record in records], vectors, [r["source"] for r in records], texts or None)


def read_npy(path: Path) -> Rows:
    lines = path.with_suffix(".keys.jsonl").read_bytes().split(b"\n")[:-1]
    records = [json.loads(line) for line in lines]
    return Rows([r["key"] for r in records], np.load(path), [r["source"] for r in records], None)


FORMATS = [
    Format("vectors.parquet", read_parquet),
    Format("vectors.jsonl", read_lines),
    Format("vectors.ndjson", read_lines),
    Format("vectors.jsonl.gz", read_lines),
    Format("vectors.npy", read_npy, holds_text=False),
]


@pytest.fixture(params=FORMATS, ids=lambda form: form.name)
def form(request: pytest.FixtureRequest) -> Format:
    """Each format."""
    chosen: Format = request.param
    return chosen


@pytest.fixture
def spec() -> ModelSpec:
    """What the vectors of these tests are."""
    return ModelSpec(
        model="test/model",
        revision="1",
        dimensions=DIMENSIONS,
        max_tokens=64,
        prompt="näh: ",
        precision="bf16",
    )


@pytest.fixture
def block() -> Callable[..., Block]:
    """`block(3, first=10, failed={11})` makes rows 10 to 12 with unit vectors of their own, row 11 failed."""

    def make(count: int, *, first: int = 0, failed: Collection[int] = ()) -> Block:
        rows = range(first, first + count)
        items = [Item(f"key-{row}", f"text {row}", f"folder/{row // 3}.txt") for row in rows]
        vectors = [np.random.default_rng(row).standard_normal(DIMENSIONS) for row in rows]
        unit = normalized(np.array(vectors, dtype=np.float32).reshape(count, DIMENSIONS))
        unit[[row - first for row in failed]] = np.nan
        failures = [
            ItemFailure(row=row, key=f"key-{row}", error=BadVectorError("NaN"), source="") for row in failed
        ]
        return Block(first, items, unit, failures)

    return make
