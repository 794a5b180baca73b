"""Files without a grammar are cut by lines."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from embatch.chunks import Chunk, Document
from embatch.errors import UsageError
from embatch.search.chunks.lines import cut_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Count = Callable[[Sequence[str]], Sequence[int]]

PIECE = re.compile(r"\w{1,4}|[^\w\s]")
TEXTS = st.lists(
    st.one_of(
        st.sampled_from(
            ["key = 1\n", "\n", "\n\n", "  nested: [a, b]\n", "\t", "\r\n", "\0", "x" * 90, "漢字"]
        ),
        st.text(max_size=9),
    ),
    max_size=60,
).map("".join)


def pieces(texts: Sequence[str]) -> list[int]:
    """Much as WordPiece counts."""
    return [len(PIECE.findall(text)) + 2 for text in texts]


def characters(texts: Sequence[str]) -> list[int]:
    """As a byte model counts."""
    return [len(text) for text in texts]


def words(texts: Sequence[str]) -> list[int]:
    """As people count: a word is one token, however long."""
    return [len(text.split()) + 2 for text in texts]


def cut(text: str, max_tokens: int = 64, count: Count = pieces, first_line: int = 1) -> list[Chunk]:
    document = Document(path="a.toml", text=text, language="toml", first_line=first_line)
    return cut_lines(document, max_tokens=max_tokens, count=count)


@pytest.mark.parametrize("count", [pieces, characters, words], ids=lambda count: str(count.__name__))
@settings(max_examples=100, deadline=None)
@given(text=TEXTS, max_tokens=st.integers(4, 40))
@example(text="a " * 500, max_tokens=9)
@example(text="a" * 3000, max_tokens=4)
@example(text=" " * 3000 + "a", max_tokens=4)
def test_nothing_is_lost_and_nothing_is_too_long(count: Count, text: str, max_tokens: int) -> None:
    """Chunks tile the text, know their lines, and are within the limit."""
    chunks = cut(text, max_tokens, count, first_line=3)
    assert "".join(chunk.text for chunk in chunks) == text
    for chunk in chunks:
        assert text[chunk.start : chunk.end] == chunk.text
        assert (chunk.kind, chunk.language, chunk.context) == ("lines", "toml", "")
        assert chunk.start_line == 3 + text.count("\n", 0, chunk.start)
        assert chunk.end_line == 3 + text.count("\n", 0, chunk.end - 1)
    embedded = [words for chunk in chunks if (words := chunk.embedded)]
    assert all(n <= max_tokens or len(t) == 1 for n, t in zip(count(embedded), embedded, strict=True))


def test_lines_stay_whole_and_blocks_together() -> None:
    """Where an empty line is near, the cut is there; lines within the limit are not cut."""
    block = "[section{0}]\nkey = {0}\nother = [1, 2, {0}]\n\n"
    chunks = cut("".join(block.format(i) for i in range(50)))
    assert all(chunk.text.startswith("[section") for chunk in chunks)
    assert len(chunks) < 35


def test_groups_are_well_filled() -> None:
    """Lines of ordinary length fill more than half of a chunk on average."""
    rng = random.Random(3)
    words = ["server", "name", "path", "timeout", "of", "the", "folder", "in", "which", "logs", "are", "kept"]
    text = "".join(" ".join(rng.choices(words, k=rng.randint(1, 9))) + "\n" for _ in range(2000))
    sizes = pieces([chunk.embedded for chunk in cut(text)])
    assert sum(sizes) / len(sizes) > 32


def test_a_long_line_is_cut_at_words() -> None:
    """Only a line over the limit is cut, between words if it has some."""
    chunks = cut("short\n" + "some words " * 200 + "\nend\n")
    assert all(re.match(r"short|some|words|end", chunk.text) for chunk in chunks)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), at=st.integers(0, 600), gone=st.integers(0, 3))
def test_borders_far_from_an_edit_stay(seed: int, at: int, gone: int) -> None:
    """Whichever lines are changed, chunks some ten chunks away are as they were."""
    rng = random.Random(seed)
    lines = [
        f"{'  ' * rng.randrange(3)}key_{rng.randrange(10**9)} = {rng.randrange(10**9)}\n" for _ in range(600)
    ]
    old = "".join(lines)
    now = "".join([*lines[:at], "added = 1\n", *lines[at + gone :]])
    edge, near = len("".join(lines[:at])), 2500
    found = {chunk.digest for chunk in cut(now)}
    lost = [chunk.start for chunk in cut(old) if chunk.digest not in found]
    assert all(abs(start - edge) < near for start in lost)


def test_an_empty_document_has_no_chunks() -> None:
    """Nothing in, nothing out; white space alone is one chunk."""
    assert cut("") == []
    assert [chunk.text for chunk in cut("\n \n")] == ["\n \n"]


def test_no_room_is_an_error() -> None:
    """A limit that what the model adds fills alone is refused."""
    with pytest.raises(UsageError, match="no room"):
        cut("x", max_tokens=2)
