"""What a map reads of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from embatch.chunks import Chunk
from embatch.errors import IndexBrokenError, SearchIndexError
from embatch.frontends.map.reading import read_corpus
from embatch.types import ModelSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embatch.types import FloatArray

SPEC = ModelSpec(model="test/model", revision="1", dimensions=8, max_tokens=64)


class Store:
    """A reader of as many chunks as asked for, which breaks in the midst of the scans that it is told to."""

    def __init__(self, count: int, *, broken: int = 0, newer: bool = True) -> None:
        self.chunks = count
        self.broken = broken
        self.newer = newer
        self.rows = np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32)

    @property
    def spec(self) -> ModelSpec:
        return SPEC

    def count(self) -> int:
        return self.chunks

    def refresh(self) -> bool:
        return self.newer

    def close(self) -> None:
        pass

    def scan(self, most: int, *, seed: int = 0) -> Iterator[tuple[list[Chunk], FloatArray]]:
        for first in range(0, min(most, self.chunks), 10):
            if first and self.broken:
                self.broken -= 1
                raise IndexBrokenError("cleaned away")
            last = min(first + 10, most, self.chunks)
            yield [chunk(at) for at in range(first, last)], self.rows[first:last]


def chunk(at: int) -> Chunk:
    return Chunk(
        path=f"src/{at}.py",
        text="x" * 5000,
        start=0,
        end=5000,
        start_line=at,
        end_line=at + 1,
        kind="function",
        language="python",
        symbol=f"f{at}",
    )


def test_a_spot_and_its_vector_stay_together() -> None:
    """Row `i` of what was reduced belongs to spot `i`, and all that was asked for is there."""
    told: list[tuple[str, int, int]] = []
    corpus = read_corpus(Store(45), most=100, seed=0, tell=lambda *what: told.append(what))
    assert [spot.start_line for spot in corpus.spots] == list(range(45))
    assert corpus.reduced.shape == (45, 8)
    assert corpus.chunks == 45
    assert told[-1] == ("reading", 45, 45)


def test_excerpts_are_shorter_where_there_are_more_of_them() -> None:
    """The page's size is bounded, however long the chunks are."""
    corpus = read_corpus(Store(30), most=100, seed=0, tell=lambda *_: None)
    assert {len(spot.excerpt) for spot in corpus.spots} == {320}


def test_an_index_that_is_replaced_meanwhile_is_read_anew() -> None:
    """What was cleaned away under the reader is read again, as it is now, and nothing is there twice."""
    corpus = read_corpus(Store(45, broken=1), most=100, seed=0, tell=lambda *_: None)
    assert len(corpus.spots) == 45


def test_an_index_that_stays_broken_is_an_error() -> None:
    """Where there is nothing newer, the error is the store's."""
    with pytest.raises(IndexBrokenError):
        read_corpus(Store(45, broken=9, newer=False), most=100, seed=0, tell=lambda *_: None)


def test_an_empty_index_is_an_error_with_a_way_out() -> None:
    """There is no map of nothing, and the hint says what to do."""
    with pytest.raises(SearchIndexError, match="empty") as caught:
        read_corpus(Store(0), most=100, seed=0, tell=lambda *_: None)
    assert "embatch index" in caught.value.hint


def test_vectors_that_are_no_numbers_do_no_harm() -> None:
    """A vector of zeros or of NaN gets a place like any other."""
    store = Store(45)
    store.rows[3] = 0
    store.rows[4] = np.nan
    corpus = read_corpus(store, most=100, seed=0, tell=lambda *_: None)
    assert np.isfinite(corpus.reduced).all()
