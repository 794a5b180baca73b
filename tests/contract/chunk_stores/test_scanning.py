"""Reading every chunk of a store, or a sample, with its vector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.contract.chunk_stores.making import chunk, put, vector

if TYPE_CHECKING:
    from tests.contract.chunk_stores.conftest import Place

    from embatch.frontends.map.reading import Scannable

CHUNKS = [chunk(f"src/{at % 7}.py", f"def number_{at}(): ...", at=at) for at in range(60)]


@pytest.fixture
def filled(place: Place) -> Scannable:
    """A store with `CHUNKS`, and without one that was dropped."""
    writer = place.writer()
    put(writer, *CHUNKS, chunk("gone.py", "gone"))
    writer.publish()
    writer.remove(["gone.py"])
    writer.publish()
    writer.close()
    reader: Scannable = place.reader()  # type: ignore[assignment]  # every reader can scan; the protocol does not ask
    return reader


def scanned(reader: Scannable, most: int, seed: int = 0) -> list[str]:
    texts = []
    for chunks, vectors in reader.scan(most, seed=seed):
        assert vectors.dtype == np.float32
        for row, found in zip(vectors, chunks, strict=True):
            np.testing.assert_allclose(row, vector(found.text), rtol=1e-6)
            texts.append(found.text)
    return texts


def test_a_scan_shows_every_chunk_once_with_its_own_vector(filled: Scannable) -> None:
    """Everything that is published is shown, and what was dropped is not."""
    assert sorted(scanned(filled, 1000)) == sorted(c.text for c in CHUNKS)
    filled.close()


def test_a_sample_is_as_large_as_asked_for_and_always_the_same(filled: Scannable) -> None:
    """A scan of fewer chunks than there are shows exactly so many, the same ones again for the same seed."""
    some = scanned(filled, 20, seed=1)
    assert len(set(some)) == 20
    assert scanned(filled, 20, seed=1) == some
    assert scanned(filled, 20, seed=2) != some
    filled.close()


def test_a_scan_goes_on_while_something_is_published(place: Place) -> None:
    """What is published in the midst of a scan is not in it, and does not end it."""
    many = [chunk("many.py", f"number {at}", at=at) for at in range(2100)]
    writer = place.writer()
    put(writer, *many)
    writer.publish()
    reader: Scannable = place.reader()  # type: ignore[assignment]  # as above
    scan = reader.scan(10_000)
    found = len(next(scan)[0])
    put(writer, chunk("new.py", "new"))
    writer.publish()
    writer.close()
    assert found + sum(len(chunks) for chunks, _ in scan) == len(many)
    reader.close()


def test_an_empty_store_has_nothing_to_scan(place: Place) -> None:
    """A store without chunks shows none."""
    writer = place.writer()
    writer.publish()
    writer.close()
    reader: Scannable = place.reader()  # type: ignore[assignment]  # as above
    assert list(reader.scan(10)) == []
    reader.close()
