"""Which chunks a search by words looks at, and in which words PostgreSQL is told."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embatch.storage.vectors.pgvector_words import FEW, as_tsvector, ranking

FREQUENCIES = st.dictionaries(
    st.text("abcdefghij", min_size=1, max_size=6), st.integers(1, 100_000), min_size=1, max_size=40
)


@given(FREQUENCIES, st.integers(0, 400_000))
def test_the_rarest_words_choose(frequencies: dict[str, int], room: int) -> None:
    """Chunks with the rarest words are looked at, as many as there is room for, and those of one word always."""
    found = ranking(frequencies, chunks=100_000, average=50.0, room=room)
    chosen = [word.strip("'") for word in found.parameters["query"].split(" | ")]
    rarest = sorted(frequencies.values())
    assert sorted(frequencies[word] for word in chosen) == rarest[: len(chosen)]
    assert len(chosen) == 1 or sum(frequencies[word] for word in chosen) <= room
    assert found.missed >= 0
    assert (found.missed == 0) == (len(chosen) == min(len(frequencies), 32))


@given(FREQUENCIES)
def test_with_more_room_less_is_missed(frequencies: dict[str, int]) -> None:
    """The bound on what is left out falls as there is more room, and is nothing when there is room for all."""
    rooms = (0, FEW, 10 * FEW, sum(frequencies.values()))
    missed = [ranking(frequencies, chunks=100_000, average=50.0, room=room).missed for room in rooms]
    assert missed == sorted(missed, reverse=True)
    assert missed[-1] == 0


def test_words_are_quoted_and_counted() -> None:
    """A word has as many positions as it occurs, up to a bound, and its signs are escaped."""
    assert as_tsvector(Counter({"it's": 2, "a\\b": 1})) == "'it''s':1,2 'a\\\\b':1"
    assert as_tsvector({"often": 500}).endswith(",64")


def test_average_of_an_empty_index() -> None:
    """No length is divided by zero."""
    assert ranking({"a": 1}, chunks=0, average=0.0, room=1).parameters["average"] == pytest.approx(1.0)
