"""What holds for chunks whatever the text and whatever counts its tokens."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from embatch.decisions.chunking import Piece, split_text
from embatch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Count = Callable[[Sequence[str]], Sequence[int]]

PIECE = re.compile(r"\w{1,4}|[^\w\s]")


def characters(texts: Sequence[str]) -> list[int]:
    """As a byte model counts."""
    return [len(text) for text in texts]


def words(texts: Sequence[str]) -> list[int]:
    """As people count, with two tokens that a model adds."""
    return [len(text.split()) + 2 for text in texts]


def pieces(texts: Sequence[str]) -> list[int]:
    """Much as WordPiece counts."""
    return [len(PIECE.findall(text)) + 2 for text in texts]


def cut_off(texts: Sequence[str]) -> list[int]:
    """As a tokeniser that truncates counts: nothing is more than 41."""
    return [min(41, n) for n in pieces(texts)]


def unjust(texts: Sequence[str]) -> list[int]:
    """Counts more for a text than for its parts."""
    return [len(text) + len(text) ** 2 // 20 for text in texts]


COUNTS: list[Count] = [characters, words, pieces, cut_off, unjust]

SOME = [
    "word",
    "Other",
    "e.g.",
    "3.14",
    ".",
    "!",
    "\n",
    "\n\n",
    "\n# ",
    "。",
    "é",
    "e\u0301",
    "\U0001f469\u200d\U0001f4bb",
]
TEXTS = st.lists(
    st.one_of(st.sampled_from(SOME), st.just(" "), st.text(max_size=12), st.just("x" * 60)), max_size=80
).map("".join)
LIMITS = st.integers(min_value=4, max_value=40).flatmap(
    lambda most: st.tuples(st.just(most), st.integers(min_value=0, max_value=most // 2))
)


@pytest.mark.parametrize("count", COUNTS, ids=lambda count: str(count.__name__))
@settings(max_examples=150, deadline=None)
@given(text=TEXTS, limits=LIMITS)
@example(text="a " * 500, limits=(40, 20))
@example(text="a" * 3000, limits=(4, 2))
def test_nothing_is_lost_and_nothing_is_too_long(count: Count, text: str, limits: tuple[int, int]) -> None:
    """Chunks are parts of the text in their order, each within the limit, and hold all that is visible in it."""
    most, overlap = limits
    chunks = split_text(text, max_tokens=most, overlap_tokens=overlap, count=count)
    assert chunks == split_text(text, max_tokens=most, overlap_tokens=overlap, count=count)
    if not text.strip() or (count([text])[0] <= most and len(text) <= 64 * most):
        assert chunks == [Piece(text, 0, len(text))]
        return
    done = 0
    for chunk in chunks:
        assert chunk.text == text[chunk.start : chunk.end] == chunk.text.strip() != ""
        assert count([chunk.text])[0] <= most or len(chunk.text) == 1
        assert len(chunk.text) <= 64 * most
        assert not text[done : chunk.start].strip()
        assert text[done : chunk.end].strip(), "a chunk must add something to those before it"
        done = chunk.end
    assert not text[done:].strip()


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.integers(min_value=1, max_value=18), min_size=1, max_size=40),
    paragraphs=st.sets(st.integers(min_value=0, max_value=39)),
    overlap=st.integers(min_value=0, max_value=10),
    space=st.sampled_from([" ", "\n"]),
)
def test_a_sentence_that_fits_is_never_cut(
    lengths: list[int], paragraphs: set[int], overlap: int, space: str
) -> None:
    """Every sentence within the limit, wrapped or not, is whole in some chunk; what is repeated is whole sentences."""
    sentences = [space.join([f"S{n}", *["and"] * (size - 1)]) + "." for n, size in enumerate(lengths)]
    text = "".join(s + ("\n\n" if n in paragraphs else " ") for n, s in enumerate(sentences))
    chunks = split_text(text, max_tokens=20, overlap_tokens=overlap, count=words)
    for sentence in sentences:
        assert any(sentence in chunk.text for chunk in chunks)
    for before, after in pairwise(chunks):
        repeated = text[after.start : before.end].strip()
        assert len(repeated.split()) <= overlap
        assert not repeated or (repeated.startswith("S") and repeated.endswith("."))


def test_a_word_that_fits_is_never_cut() -> None:
    """A sentence over the limit is cut between its words, and filled up."""
    text = "transcript without any marks " * 200
    chunks = split_text(text, max_tokens=30, overlap_tokens=6, count=words)
    assert {word for chunk in chunks for word in chunk.text.split()} == set(text.split())
    assert all(len(chunk.text.split()) >= 20 for chunk in chunks[:-1])
    assert all(before.end - after.start > 0 for before, after in pairwise(chunks))


def test_sections_become_chunks_and_keep_their_headings() -> None:
    """A cut before a heading is preferred to a fuller chunk, and nothing is repeated behind it."""
    section = "Some words about a thing. " * 4
    text = "\n\n".join(f"## Section {n}\n\n{section.strip()}" for n in range(5))
    chunks = split_text(text, max_tokens=45, overlap_tokens=10, count=words)
    assert [chunk.text.split("\n")[0] for chunk in chunks] == [f"## Section {n}" for n in range(5)]


def test_an_overlap_joins_neighbours() -> None:
    """With an overlap, a chunk begins with the last sentences of the one before it."""
    text = " ".join(f"Sentence number {n} stands here." for n in range(50))
    chunks = split_text(text, max_tokens=42, overlap_tokens=10, count=words)
    assert all(after.start < before.end for before, after in pairwise(chunks))
    assert all(chunk.text.startswith("Sentence") for chunk in chunks)


def test_letters_keep_their_accents() -> None:
    """Where a word is cut, no combining mark or joined emoji is torn off."""
    text = "e\u0301" * 300 + "\U0001f469\u200d\U0001f4bb" * 100
    chunks = split_text(text, max_tokens=16, overlap_tokens=0, count=characters)
    assert all(chunk.text[0] in "e\U0001f469" for chunk in chunks)


@pytest.mark.parametrize("unit", ["a", "word ", "line\n", ". ", "Short. ", "\n\n", "。", "# h\n\n"])
@pytest.mark.parametrize("count", [pieces, cut_off], ids=lambda count: str(count.__name__))
def test_the_work_is_linear_in_the_length(count: Count, unit: str) -> None:
    """However the text is made, tokens are counted about thrice a character, and few at a time."""
    text = unit * (400_000 // len(unit))
    seen = [0, 0]

    def counting(texts: Sequence[str]) -> Sequence[int]:
        assert all(texts), "empty texts are not counted"
        chars = sum(map(len, texts))
        assert chars < 400_000
        seen[0] += chars
        seen[1] += len(texts)
        return count(texts)

    split_text(text, max_tokens=41, overlap_tokens=5, count=counting)
    assert seen[0] <= 8 * len(text)
    assert seen[1] <= len(text)


@pytest.mark.parametrize(("most", "overlap"), [(2, 0), (0, 0), (-1, 0), (10, -1), (10, 6)])
def test_limits_that_make_no_sense_are_refused(most: int, overlap: int) -> None:
    """No room beside the model's own tokens, or an overlap of more than half, is a usage error."""
    with pytest.raises(UsageError):
        split_text("some text", max_tokens=most, overlap_tokens=overlap, count=words)
