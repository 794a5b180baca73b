"""The index over vectors: made when the table is large enough, measured, and left where it would not be right."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from embatch.chunks import Where
from embatch.storage.vectors.pgvector import open_reader, open_writer
from embatch.storage.vectors.pgvector_connect import Location
from embatch.storage.vectors.pgvector_editions import editions_of
from embatch.storage.vectors.pgvector_index import RECALL, ROWS, bring_up_to_date

if TYPE_CHECKING:
    from tests.integration.pgvector.made import Cut, States, Vectors

    from embatch.chunks import Hit
    from embatch.types import ModelSpec

DIM = 8


def names(hits: list[Hit]) -> set[str]:
    return {hit.chunk.text for hit in hits}


def test_a_large_table_gets_an_index(
    url: str, spec: ModelSpec, vectors: Vectors, cut: Cut, state: States
) -> None:
    """It is measured, finds nearly all, and gives way to exact search where a filter leaves few."""
    rows = vectors(ROWS, dim=DIM)
    writer = open_writer(url, spec=spec)
    texts = [str(number) for number in range(ROWS)]
    writer.replace([state("rare/a", 100)], cut("rare/a", texts[:100], language="go"), rows[:100])
    writer.replace([state("b", ROWS - 100)], cut("b", texts[100:]), rows[100:])
    writer.publish()
    reader = open_reader(url)
    stats = reader.stats()
    assert stats.vector_index.startswith("HNSW")
    assert stats.recall is not None
    assert stats.recall >= RECALL
    queries = vectors(20, dim=DIM, seed=3)
    order = np.argsort(-(queries @ rows.T), axis=1)
    found = reader.nearest(queries, k=10, where=Where())
    shares = [
        len(names(hits) & {texts[at] for at in best[:10]}) / 10
        for hits, best in zip(found, order, strict=True)
    ]
    assert np.mean(shares) >= 0.9
    assert all(len(hits) == 300 for hits in reader.nearest(queries[:2], k=300, where=Where()))
    (few,) = reader.nearest(queries[:1], k=5, where=Where(paths=("rare/*",)))
    assert names(few) == {texts[at] for at in order[0] if at < 100} & {
        texts[at] for at in order[0][order[0] < 100][:5]
    }
    (same,) = reader.nearest(queries[:1], k=5, where=Where(languages=("go",)))
    assert names(same) == names(few)
    assert len(reader.nearest(np.zeros((1, DIM), np.float32), k=5, where=Where())[0]) == 5
    writer.remove(["b"])
    writer.publish()
    assert reader.refresh()
    assert names(reader.nearest(queries[:1], k=5, where=Where())[0]) == names(few), (
        "those that have gone are not found"
    )
    reader.close()
    writer.close()


@pytest.mark.parametrize(
    ("dimensions", "words"), [(2000, "HNSW, 40 candidates"), (2001, "half precision"), (4001, "up to 4,000")]
)
def test_the_size_of_vectors_decides_how_they_are_indexed(
    dimensions: int, words: str, url: str, spec: ModelSpec, vectors: Vectors, cut: Cut, state: States
) -> None:
    """Up to 2,000 dimensions as they are, up to 4,000 in half precision, beyond that not at all; all are searched."""
    large = replace(spec, dimensions=dimensions)
    rows = vectors(60, dim=dimensions)
    writer = open_writer(url, spec=large)
    writer.replace([state("a", 60)], cut("a", [str(number) for number in range(60)]), rows)
    writer.publish()
    location = Location.parse(url)
    connection = location.connect(writes=True)
    (edition,) = editions_of(connection, location)
    bring_up_to_date(connection, edition, large, rows=ROWS)
    connection.close()
    reader = open_reader(url)
    assert words in reader.stats().vector_index
    assert (reader.stats().recall is None) == (dimensions > 4000)
    (hits,) = reader.nearest(rows[7:8], k=3, where=Where())
    assert hits[0].chunk.text == "7"
    assert hits[0].score == pytest.approx(1.0, abs=1e-5)
    reader.close()
    writer.close()
