"""The vector index of the Lance store: when it is made, what it finds, and that nothing else changes by it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.contract.chunk_stores.conftest import SPEC
from tests.contract.chunk_stores.making import EVERYTHING, chunk, found, state

from embatch.chunks import Where
from embatch.storage.vectors import open_reader

if TYPE_CHECKING:
    from pathlib import Path

    from embatch.chunks import ChunkReader
    from embatch.storage.vectors.lance_writer import LanceWriter
    from embatch.types import FloatArray, ModelSpec

pytestmark = pytest.mark.search

ROWS = 6000
EXACT_BYTES = 4000 * 16 * 4


def points(count: int, *, dimensions: int = 16, seed: int = 0) -> FloatArray:
    rows = np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32)
    unit: FloatArray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def opened(folder: Path, *, spec: ModelSpec = SPEC) -> LanceWriter:
    """A writer that indexes tables of more than 4,000 vectors of 16 numbers."""
    from embatch.storage.vectors.lance_writer import LanceWriter

    return LanceWriter(folder, spec=spec, exact_bytes=EXACT_BYTES)


def fill(writer: LanceWriter, path: str, rows: FloatArray) -> None:
    language = "python" if path.endswith(".py") else "go"
    chunks = [chunk(path, f"{path} {at}", at=at, language=language) for at in range(len(rows))]
    writer.replace([state(path, len(rows))], chunks, rows)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with an index: `ROWS` chunks in `many.py`, 30 in `few.go`."""
    folder = tmp_path_factory.mktemp("large") / "index"
    writer = opened(folder)
    fill(writer, "many.py", points(ROWS))
    fill(writer, "few.go", points(30, seed=1))
    writer.publish()
    writer.close()
    return folder


def ids(reader: ChunkReader, query: FloatArray, *, k: int = 10, where: Where = EVERYTHING) -> list[str]:
    return [hit.chunk.text for hit in reader.nearest(query[None], k=k, where=where)[0]]


def test_a_large_table_gets_an_index_that_finds_what_exact_search_finds(large: Path) -> None:
    """The index is told of, its recall was measured, and queries that it has not seen reach 0.95 too."""
    reader = open_reader(large)
    stats = reader.stats()
    assert "IVF" in stats.vector_index
    assert stats.recall is not None
    assert stats.recall >= 0.95
    rows = points(ROWS)
    queries = points(50, seed=2)
    wanted = np.argsort(-(queries @ rows.T), axis=1)[:, :10]
    hits = reader.nearest(queries, k=10, where=Where(languages=("python",)))
    same = sum(
        len({f"many.py {at}" for at in row} & {hit.chunk.text for hit in group})
        for row, group in zip(wanted, hits, strict=True)
    )
    assert same / 500 >= 0.95


def test_scores_of_indexed_search_are_cosines(large: Path) -> None:
    """A hit's score is exact, whatever the index keeps of the vectors."""
    rows, query = points(ROWS), points(1, seed=3)
    for hit in open_reader(large).nearest(query * 3, k=20, where=EVERYTHING)[0]:
        if hit.chunk.path == "many.py":
            at = int(hit.chunk.text.split()[1])
            assert hit.score == pytest.approx(float(rows[at] @ query[0]), abs=1e-5)


def test_filters_are_never_emptied_by_the_index(large: Path) -> None:
    """Chunks that pass a filter are found, however far from the query and however few they are."""
    reader = open_reader(large)
    few, far = points(30, seed=1), points(1, seed=4)[0]
    wanted = [f"few.go {at}" for at in np.argsort(-(few @ far))]
    assert ids(reader, far, k=50, where=Where(paths=("*.go",))) == wanted
    assert ids(reader, far, k=5, where=Where(languages=("go",))) == wanted[:5]
    assert ids(reader, far, where=Where(languages=("rust",))) == []
    assert len(ids(reader, far, k=40, where=Where(paths=("!*.go",)))) == 40


def test_ids_are_those_of_full_text_search(large: Path) -> None:
    """Both searches name a chunk alike with an index too."""
    reader = open_reader(large)
    hit = reader.nearest(points(30, seed=1)[7][None], k=1, where=EVERYTHING)[0][0]
    same = reader.matching(["few go 7"], k=1, where=Where(languages=("go",)))[0][0]
    assert (same.id, same.chunk) == (hit.id, hit.chunk)


def test_the_index_follows_the_table(tmp_path: Path) -> None:
    """It comes when the table is large enough, grows with it, is renewed when that doubles, goes when it shrinks."""
    folder = tmp_path / "index"
    writer = opened(folder)
    fill(writer, "a.py", points(3000))
    writer.publish()
    assert open_reader(folder).stats().recall is None
    fill(writer, "b.py", points(2000, seed=1))
    writer.publish()
    first = open_reader(folder).stats()
    assert first.recall is not None
    fill(writer, "c.py", points(700, seed=2))
    fill(writer, "d.py", points(10, seed=3))
    writer.publish()
    reader = open_reader(folder)
    assert reader.stats().vector_index == first.vector_index
    for path, rows in (("c.py", points(700, seed=2)), ("d.py", points(10, seed=3))):
        assert ids(reader, rows[3], k=1) == [f"{path} 3"]
    fill(writer, "e.py", points(7000, seed=4))
    writer.publish()
    assert open_reader(folder).stats().vector_index != first.vector_index
    assert ids(open_reader(folder), points(7000, seed=4)[5], k=1) == ["e.py 5"]
    writer.remove(["a.py", "b.py", "c.py", "e.py"])
    writer.publish()
    reader = open_reader(folder)
    assert reader.stats().recall is None
    assert ids(reader, points(10, seed=3)[1], k=1) == ["d.py 1"]
    assert len(found(reader, "py", k=99)) == 10
    writer.close()


@pytest.mark.parametrize(
    "spec",
    [
        replace(SPEC, normalize=False),
        replace(SPEC, dimensions=20),
        replace(SPEC, dimensions=12, normalize=False),
    ],
    ids=["not normalised", "20 numbers", "12, not normalised"],
)
def test_indexes_fit_every_model(tmp_path: Path, spec: ModelSpec) -> None:
    """Vectors of any length and of odd sizes are indexed, and hits have their cosine."""
    writer = opened(tmp_path / "index", spec=spec)
    rows = points(6000, dimensions=spec.dimensions)
    if not spec.normalize:
        rows *= np.random.default_rng(5).uniform(0.1, 9, size=(6000, 1)).astype(np.float32)
    fill(writer, "a.py", rows)
    writer.publish()
    writer.close()
    reader = open_reader(tmp_path / "index")
    assert (reader.stats().recall or 0) >= 0.95
    hit = reader.nearest(rows[17][None] * 2, k=1, where=EVERYTHING)[0][0]
    assert hit.chunk.text == "a.py 17"
    assert hit.score == pytest.approx(1.0, abs=1e-4)
