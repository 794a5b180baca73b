"""What holds for chunks of prose whatever the text, its language and whatever counts its tokens."""

from __future__ import annotations

import random
import re
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from embatch.chunks import Chunk, Document
from embatch.errors import UsageError
from embatch.search.chunks.prose import cut_prose

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Count = Callable[[Sequence[str]], Sequence[int]]

PIECE = re.compile(r"\w{1,4}|[^\w\s]")
LANGUAGES = ["markdown", "rst", "html", "text"]


def characters(texts: Sequence[str]) -> list[int]:
    """As a byte model counts."""
    return [len(text) for text in texts]


def pieces(texts: Sequence[str]) -> list[int]:
    """Much as WordPiece counts, with two tokens that a model adds."""
    return [len(PIECE.findall(text)) + 2 for text in texts]


def cut_off(texts: Sequence[str]) -> list[int]:
    """As a tokeniser that truncates counts: nothing is more than 61."""
    return [min(61, n) for n in pieces(texts)]


def unjust(texts: Sequence[str]) -> list[int]:
    """Counts more for a text than for its parts."""
    return [len(text) + len(text) ** 2 // 20 for text in texts]


COUNTS: list[Count] = [characters, pieces, cut_off, unjust]
SOME = [
    "word ",
    "Other. ",
    "e.g. ",
    "\n",
    "\n\n",
    "\n# Head\n",
    "\n\n## Lower\n\n",
    "\n\nTitle\n=====\n\n",
    "\n\nSub\n---\n",
    "\n=====\nOver\n=====\n",
    "\n```py\n",
    "\n```\n",
    "\n- item ",
    "\n| a | b |",
    "\n\n    indented ",
    "\n---\n",
    "---\n",
    "\u2029## Of a page\u2029",
    "\u2028",
    "\u2029",
    ".. note::\n\n   ",
    "。",
    "e\u0301",
    "\r\n",
    "\U0001f469\u200d\U0001f4bb",
    "# " + "long heading " * 12 + "\n",
]
TEXTS = st.lists(st.one_of(st.sampled_from(SOME), st.text(max_size=12), st.just("x" * 90)), max_size=60).map(
    "".join
)


def cut(text: str, language: str, *, max_tokens: int, count: Count = pieces) -> list[Chunk]:
    """The chunks of a text."""
    return cut_prose(
        Document(path="a", text=text, language=language, first_line=7), max_tokens=max_tokens, count=count
    )


@pytest.mark.parametrize("count", COUNTS, ids=lambda count: str(count.__name__))
@settings(max_examples=80, deadline=None)
@given(text=TEXTS, language=st.sampled_from(LANGUAGES), most=st.integers(min_value=5, max_value=60))
@example(text="a " * 900, language="text", most=40)
@example(text="a" * 3000, language="markdown", most=5)
@example(text="# A\n\n" + "## B\n\nc\n\n" * 90, language="markdown", most=30)
@example(text="\n \n# A\n \n\n", language="markdown", most=5)
def test_chunks_tile_the_text_within_the_limit(count: Count, text: str, language: str, most: int) -> None:
    """Joined, chunks are the text; each is within the limit as embedded and knows its place and lines."""
    chunks = cut(text, language, max_tokens=most, count=count)
    assert "".join(chunk.text for chunk in chunks) == text
    assert all(before.end == after.start for before, after in pairwise(chunks))
    for chunk in chunks:
        assert text[chunk.start : chunk.end] == chunk.text
        assert chunk.text
        assert chunk.start_line == 7 + text.count("\n", 0, chunk.start)
        assert chunk.end_line == 7 + text.count("\n", 0, chunk.end - 1)
        assert len(chunk.embedded) <= 1 or count([chunk.embedded])[0] <= most
        assert chunk.text.strip() or not text.strip()
        assert chunk.kind == "section"


WORDS = ["alpha", "beta", "gamma", "delta", "omega", "kappa", "sigma", "theta", "zeta", "iota", "and", "of"]


def long_text(seed: int, language: str) -> list[str]:
    """Paragraphs of a document, some of them headings, one of them without any border."""
    rng = random.Random(seed)

    def sentence() -> str:
        return " ".join(rng.choice(WORDS) + str(rng.randrange(50)) for _ in range(rng.randrange(3, 12))) + "."

    parts = []
    for number in range(150):
        if rng.random() < 0.15:
            title = f"Part {number}"
            level = rng.randrange(1, 4)
            parts.append(
                {"markdown": f"{'#' * level} {title}"}.get(language, f"{title}\n{'=-~'[level - 1] * 9}")
            )
        paragraph = [sentence().capitalize() for _ in range(rng.randrange(1, 9))]
        parts.append(
            " ".join(paragraph) if rng.random() < 0.97 else " ".join(paragraph * 3).replace(".", ",")
        )
    return parts


@pytest.mark.parametrize("language", ["markdown", "rst", "text"])
@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 1 << 30), at=st.floats(0.2, 0.8), new=st.sampled_from(["", "New words. ", "x " * 40])
)
def test_an_edit_moves_no_distant_border(language: str, seed: int, at: float, new: str) -> None:
    """A sentence more, or changed, leaves the chunks that are some chunks away as they were, on both sides."""
    parts = long_text(seed, language)
    edited = int(len(parts) * at)
    while parts[edited].startswith(("#", "Part")):
        edited += 1
    changed = [*parts]
    changed[edited] = new + changed[edited][len(changed[edited]) // 2 :] + " The end."
    most = 40
    before, after = (cut("\n\n".join(text), language, max_tokens=most) for text in (parts, changed))
    start = len("\n\n".join(parts[:edited]))
    tail = len("\n\n".join(parts[edited + 1 :]))
    far = 12 * most * 4  # characters; a token has about four here
    far_before = [c.digest for c in before if c.end < start - far]
    assert far_before == [c.digest for c in after if c.end < start - far]
    length, changed_length = before[-1].end, after[-1].end
    far_behind = [c.digest for c in before if c.start > length - tail + far]
    assert far_behind == [c.digest for c in after if c.start > changed_length - tail + far]
    assert len(far_before) + len(far_behind) > len(before) // 3


def test_a_section_that_fits_is_one_chunk_with_the_headings_above_it() -> None:
    """The heading is in the text itself; those above it are in the context, all of them in the symbol."""
    text = "# Guide\n\n" + "One two three four. " * 9 + "\n\n## Install\n\n" + "Five six. " * 9 + "\n"
    first, second = cut(text, "markdown", max_tokens=60)
    assert (first.symbol, first.context, first.text[:9]) == ("Guide", "", "# Guide\n\n")
    assert (second.symbol, second.context) == ("Guide > Install", "Guide")
    assert second.text.startswith("## Install")


def test_the_rest_of_a_long_section_names_its_own_heading() -> None:
    """Behind the first chunk of a section its heading is no longer in the text, and so in the context."""
    text = "# Guide\n\n## Install\n\n" + "Five six seven eight. " * 40
    chunks = cut(text, "markdown", max_tokens=50)
    assert len(chunks) > 3
    assert {chunk.symbol for chunk in chunks[1:]} == {"Guide > Install"}
    assert {chunk.context for chunk in chunks[2:]} == {"Guide > Install"}
    assert chunks[-1].embedded.startswith("Guide > Install\nFive")


def test_small_sections_share_a_chunk_under_one_heading_only() -> None:
    """Neighbours below the same heading are joined while they are small, and cousins are not."""
    text = "# A\n\n## B\n\nx\n\n## C\n\ny\n\n# D\n\nz\n"
    chunks = cut(text, "markdown", max_tokens=64)
    assert [chunk.text.split() for chunk in chunks] == [
        ["#", "A", "##", "B", "x", "##", "C", "y"],
        ["#", "D", "z"],
    ]
    assert [chunk.symbol for chunk in chunks] == ["A", "D"]


def test_a_long_path_of_headings_is_shortened_from_its_start() -> None:
    """Context takes at most a quarter of a chunk: the nearest headings stay."""
    text = f"# {'Outer words ' * 6}\n\n## {'Middle words ' * 3}\n\n### Inner\n\n" + "Some words here. " * 60
    chunks = cut(text, "markdown", max_tokens=40)
    assert {chunk.context for chunk in chunks[3:]} == {"Inner"}
    assert all(pieces([chunk.context])[0] - 2 <= 10 for chunk in chunks)
    assert chunks[-1].symbol.startswith("Outer words")


def test_fenced_code_is_kept_whole_where_it_fits() -> None:
    """Code between fences is not cut while it fits, and between lines, indentation included, where it does not."""
    code = "```python\ndef f():\n    return 1\n\n\n# no heading\nx = 1. Then more\n```\n"
    text = "Words before it. " * 12 + "\n\n" + code + "\n" + "Words behind it. " * 12
    assert any(code.strip() in chunk.text for chunk in cut(text, "markdown", max_tokens=50))
    long_code = "```\n" + "".join(f"    line {n} = value. Other\n" for n in range(80)) + "```\n"
    for chunk in cut(long_code, "markdown", max_tokens=50)[1:]:
        assert chunk.text.startswith(("    line", "```"))


def test_blank_documents_give_nothing_to_embed() -> None:
    """An empty text has no chunk; white space has one, so that no character is lost, without visible text."""
    assert cut("", "text", max_tokens=20) == []
    (chunk,) = cut(" \n\n ", "markdown", max_tokens=20)
    assert chunk.embedded == ""


def test_no_room_for_text_is_said() -> None:
    """A limit below what the model adds to each text is an error, not an endless search."""
    with pytest.raises(UsageError, match="no room"):
        cut("words", "text", max_tokens=2)


def test_a_page_of_a_file_says_so() -> None:
    """Parts of a file come first in the symbol, and give the kind."""
    page = Document(path="a.pdf", text="Intro\n=====\n\nWords.", language="text", part="page 12")
    (chunk,) = cut_prose(page, max_tokens=40, count=pieces)
    assert (chunk.symbol, chunk.kind) == ("page 12 Intro", "page")
