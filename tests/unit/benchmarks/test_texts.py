"""The sets of texts: the same on every run, of the lengths that they promise."""

from __future__ import annotations

import pytest
from benchmarks import texts


@pytest.mark.parametrize("name", texts.SETS)
def test_same_texts_every_time(name: str) -> None:
    """A set of a given size is the same whenever it is made."""
    make = texts.SETS[name]
    assert texts.digest(make(50)) == texts.digest(make(50))


@pytest.mark.parametrize("name", texts.SETS)
@pytest.mark.parametrize("count", [10, 500, 3000])
def test_as_many_as_asked(name: str, count: int) -> None:
    """A set has the size asked for, and no text of it is blank, also when it is larger than its sources."""
    found = texts.SETS[name](count)
    assert len(found) == count
    assert all(text.strip() for text in found)


@pytest.mark.parametrize("name", ["short", "mixed", "long"])
def test_no_repeats_unless_promised(name: str) -> None:
    """Only the set of repeats has repeats: embatch computes equal texts once, its peers do not."""
    found = texts.SETS[name](3000)
    assert len(set(found)) == len(found)


def test_forty_percent_repeats() -> None:
    """Two rows in five of the repeats are a text that another row has."""
    assert len(set(texts.repeats(500))) == 300


def test_lengths() -> None:
    """Task lines are short, and every long document is well beyond 256 tokens of some four characters."""
    assert max(map(len, texts.short(500))) < 100
    assert min(map(len, texts.long(200))) > 1500


def test_digest_tells_order_and_borders() -> None:
    """A digest changes with the order of texts and with where one ends."""
    assert len({texts.digest(one) for one in (["a", "b"], ["b", "a"], ["ab"], ["a", "b", ""])}) == 4


def test_there_are_as_many_short_texts_as_anybody_wants() -> None:
    """More than the templates give are numbered, still all different, and begin with the same ones."""
    many = texts.short(150_000)
    assert len(set(many)) == 150_000
    assert many[:100] == texts.short(100)
