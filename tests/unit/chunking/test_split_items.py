"""Splitting a stream of items."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from embatch.decisions.chunking import split_items, split_text
from embatch.errors import RowError
from embatch.types import BadItem, Item

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) + 2 for text in texts]


def may_exceed(text: str) -> bool:
    return len(text) > 10


ROWS = st.lists(st.one_of(st.none(), st.integers(min_value=0, max_value=60)), max_size=40)


@settings(deadline=None)
@given(rows=ROWS, window=st.integers(min_value=1, max_value=8))
def test_long_rows_become_several_and_all_keep_their_place(rows: list[int | None], window: int) -> None:
    """What fits keeps its key, what does not gets numbered ones, and bad rows pass, whatever the window."""
    items: list[Item | BadItem] = [
        BadItem(str(n), RowError("broken")) if size is None else Item(str(n), "word " * size, f"f:{n}")
        for n, size in enumerate(rows)
    ]
    expected: list[Item | BadItem] = []
    for item in items:
        parts = (
            split_text(item.text, max_tokens=10, overlap_tokens=2, count=words)
            if isinstance(item, Item)
            else []
        )
        numbered = [Item(f"{item.key}#{n}", part.text, item.source) for n, part in enumerate(parts, start=1)]
        expected += [item] if len(parts) < 2 else numbered
    found = split_items(
        items, max_tokens=10, overlap_tokens=2, count=words, may_exceed=may_exceed, window=window
    )
    assert list(found) == expected


def test_short_texts_are_not_tokenised() -> None:
    """Only what `may_exceed` lets through is counted, each text once, if it fits."""
    counted: list[str] = []

    def count(texts: Sequence[str]) -> list[int]:
        counted.extend(texts)
        return words(texts)

    items = [Item("a", "short"), Item("b", "somewhat longer text"), Item("c", "short")]
    split = split_items(items, max_tokens=10, overlap_tokens=0, count=count, may_exceed=may_exceed)
    assert list(split) == items
    assert [text for text in counted if text not in {"a", "a a"}] == ["somewhat longer text"]


def test_items_pass_at_once_while_none_is_long() -> None:
    """A slow source is not waited for: an item that cannot be too long comes out before the next is read."""
    read: list[int] = []

    def slow() -> Iterator[Item]:
        for n in range(100):
            read.append(n)
            yield Item(str(n), "short")

    split = split_items(slow(), max_tokens=10, overlap_tokens=0, count=words, may_exceed=may_exceed)
    assert next(split).key == "0"
    assert read == [0]


def test_a_window_is_bounded_in_characters_too() -> None:
    """Few long texts end a window as many short ones do, so that memory is bounded."""
    read: list[int] = []

    def large() -> Iterator[Item]:
        for n in range(100):
            read.append(n)
            yield Item(str(n), "x" * 2_000_000)

    split = split_items(large(), max_tokens=512, overlap_tokens=0, count=words, may_exceed=may_exceed)
    assert next(split).key == "0#1"
    assert len(read) <= 4


def test_text_that_is_no_unicode_is_left_to_the_engine() -> None:
    """A lone surrogate cannot be tokenised: the item passes unchanged, and its error is found where all are."""
    items = [Item("a", "bad \ud800 " * 50), Item("b", "fine " * 50)]
    split = list(split_items(items, max_tokens=10, overlap_tokens=0, count=words, may_exceed=may_exceed))
    assert split[0] == items[0]
    assert [item.key for item in split[1:3]] == ["b#1", "b#2"]
