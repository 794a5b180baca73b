"""Headings and blocks of each kind of prose, as chunks show them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from embatch.chunks import Document
from embatch.search.chunks.pages import visible_lines
from embatch.search.chunks.prose import cut_prose, headings_after

if TYPE_CHECKING:
    from collections.abc import Sequence

FILLER = "These are words that fill a section well enough to stand alone. " * 3


def words(texts: Sequence[str]) -> list[int]:
    """As people count."""
    return [len(text.split()) for text in texts]


def symbols(text: str, language: str) -> list[str]:
    """Where the chunks are; `FILLER` keeps sections from being joined."""
    document = Document(path="a", text=text.replace("FILLER", FILLER), language=language)
    return [chunk.symbol for chunk in cut_prose(document, max_tokens=60, count=words)]


def headings(text: str, language: str) -> list[tuple[int, str]]:
    """Level and title of the headings that hold at the end."""
    found = headings_after(Document(path="a", text=text, language=language), ())
    return [(heading.level, heading.title) for heading in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# One\nFILLER\n## Two ##\nFILLER\n# Three\nFILLER", ["One", "One > Two", "Three"]),
        ("One\n===\n\nFILLER\n\nTwo\n---\n\nFILLER", ["One", "One > Two"]),
        ("---\ntitle: x\n---\n# One\nFILLER", ["", "One"]),
        ("FILLER\n\n# One\nFILLER", ["", "One"]),
        ("# One\nFILLER\n\n```\n# no\n```\n~~~ sh\n# no\n~~~\nFILLER", ["One", "One"]),
        ("# One\nFILLER\n\n    # no\n\n#no\n\n- - -\nFILLER", ["One", "One"]),
        ("# One\r\nFILLER\r\n## Two\r\nFILLER", ["One", "One > Two"]),
        ("### Deep\nFILLER\n# One\nFILLER", ["Deep", "One"]),
    ],
)
def test_markdown(text: str, expected: list[str]) -> None:
    """Headings of both kinds are found, and what only looks like one in code is not."""
    assert symbols(text, "markdown") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# A\n\n| a | b |\n|---|---|\n| 1 | 2 |\n", [(1, "A")]),
        ("# A\n\ntwo lines\nof text\n---\n", [(1, "A")]),
        ("# A\n\n- item\n---\n", [(1, "A")]),
        ("# A\n\n````\n```\n# no\n````\n## B `c`\n", [(1, "A"), (2, "B `c`")]),
        ("#\n", [(1, "")]),
    ],
)
def test_what_is_no_markdown_heading(text: str, expected: list[tuple[int, str]]) -> None:
    """Rules, tables, lists and fences within fences are told from headings."""
    assert headings(text, "markdown") == expected


def test_restructured_text() -> None:
    """Levels follow the order in which adornments appear, with and without a line above."""
    text = (
        "======\nManual\n======\n\nFILLER\n\nFirst\n=====\n\nFILLER\n\nPart\n~~~~\n\n.. note::\n\n   FILLER\n\n"
        "Second\n======\n\nFILLER\n\n::\n\n    code\n    ====\n"
    )
    assert symbols(text, "rst") == ["Manual", "Manual > First", "Manual > First > Part", "Manual > Second"]


def test_tables_and_transitions_are_no_headings() -> None:
    """A simple table's border, a grid table and a transition stand alone."""
    text = "Top\n===\n\n====  ====\na     b\n====  ====\n1     2\n====  ====\n\n----\n\n+---+\n| a |\n+---+\n"
    assert headings(text, "rst") == [(1, "Top")]


def test_plain_text_knows_underlined_titles_only() -> None:
    """In plain text a line of `=` or `-` below a title makes it one; a `#` means nothing."""
    assert symbols("Title\n=====\n\nFILLER\n\nSub\n---\n\n# no\n\nFILLER", "text") == ["Title", "Title > Sub"]


PAGE = """<!doctype html><html><head><title>The page</title>
<style>h1 { color: red }
</style><script>
if (a < b) { document.write("<h1>no</h1>") }
</script></head>
<body><!-- <h1>no</h1>
--><h1 class="a>b">First &amp; best</h1><p>FILLER</p><div>More</div>
<h2>Second<br>line <a href="#x">¶</a></h2><pre># no heading
  indented
</pre>
FILLER 1 < 2
<svg><text>not shown</text></svg></body></html>
"""


def test_pages_keep_their_lines_and_headings() -> None:
    """The visible text has the file's line breaks, its headings give the path, and scripts are gone."""
    text = visible_lines(PAGE.replace("FILLER", FILLER))
    assert text.count("\n") == PAGE.count("\n")
    chunks = cut_prose(Document(path="a.html", text=text, language="html"), max_tokens=60, count=words)
    assert [chunk.symbol for chunk in chunks] == ["", "First & best", "First & best > Second line"]
    assert "".join(chunk.text for chunk in chunks) == text
    assert chunks[2].start_line == 8
    assert "# no heading\n  indented\n" in chunks[2].text
    assert "1 < 2" in chunks[2].text
    for hidden in ("color", "write", "not shown", "<h2"):
        assert hidden not in text


@pytest.mark.parametrize(
    "page",
    [
        "<",
        "<p",
        "<script>",
        "<!-- never closed\n",
        "<h1>open\n",
        "a < b > c",
        '<a href="x\n',
        "</p></p>",
        "<svg>\n" * 3,
    ],
)
def test_broken_pages_are_text_all_the_same(page: str) -> None:
    """Whatever is not closed costs no line, and no error."""
    assert visible_lines(page).count("\n") == page.count("\n")


@pytest.mark.parametrize(
    "page", ["<a '" * 20_000, "<svg>" * 20_000, '<a "' * 20_001, "<!--" * 20_000, "<" * 80_000]
)
def test_hostile_pages_take_linear_time(page: str) -> None:
    """Brackets and quotes that never end are read once, not once for each of them."""
    assert len(visible_lines(page)) <= len(page)


def test_pathological_markup_takes_linear_time() -> None:
    """Long runs of marks, spaces and fences are read once."""
    for text in (
        "#" * 15_000,
        "# a" + " #" * 30_000,
        " " * 60_000 + "x",
        "```" * 20_000,
        "-" * 60_000,
        "a\n" * 9_000,
    ):
        for language in ("markdown", "rst", "text", "html"):
            assert (
                "".join(
                    chunk.text
                    for chunk in cut_prose(
                        Document(path="a", text=text, language=language), max_tokens=200, count=words
                    )
                )
                == text
            )
