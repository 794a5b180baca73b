"""Who cuts which document, and what holds for all of them."""

from __future__ import annotations

import builtins
import re
import sys
from typing import TYPE_CHECKING, Any

import pytest

from embatch.chunks import Document
from embatch.errors import UsageError
from embatch.search.chunks import Chunker

if TYPE_CHECKING:
    from collections.abc import Sequence

PIECE = re.compile(r"\w{1,4}|[^\w\s]")
PYTHON = (
    "import os\n\n\ndef first(a):\n    return a\n\n\nclass B:\n    def second(self):\n        return os.sep\n"
)


def pieces(texts: Sequence[str]) -> list[int]:
    """Much as WordPiece counts, with two tokens that a model adds."""
    return [len(PIECE.findall(text)) + 2 for text in texts]


def chunker(max_tokens: int = 40) -> Chunker:
    """With a small limit, so that little text is much."""
    return Chunker(max_tokens=max_tokens, count=pieces)


def document(language: str, text: str, **fields: Any) -> Document:
    """A document of a file `a`."""
    return Document(path="a", text=text, language=language, **fields)


@pytest.mark.search
def test_code_goes_to_its_grammar_and_prose_to_its_headings() -> None:
    """The language decides, and documents keep their order."""
    chunks = chunker(20).cut([document("python", PYTHON), document("markdown", "# A\n\nWords.")])
    assert chunks[-1].kind == "section"
    assert {"function", "method"} & {chunk.kind for chunk in chunks}
    assert "".join(chunk.text for chunk in chunks) == PYTHON + "# A\n\nWords."


def test_what_has_no_grammar_is_cut_by_lines() -> None:
    """Configuration and unknown languages are whole lines within the limit."""
    text = "".join(f"key{n} = {n}\n" for n in range(60))
    for language in ("toml", "a language of the future"):
        chunks = chunker().cut([document(language, text)])
        assert len(chunks) > 3
        assert {chunk.kind for chunk in chunks} == {"lines"}
        assert "".join(chunk.text for chunk in chunks) == text
        assert all(pieces([chunk.embedded])[0] <= 40 for chunk in chunks)


def test_without_the_extra_code_is_cut_by_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grammar that is not installed costs the syntax, not the file."""
    plain = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("tree_sitter"):
            raise ImportError(name)
        return plain(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.startswith("tree_sitter")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    chunks = chunker().cut([document("ruby", "def a\n  1\nend\n" * 30)])
    assert {chunk.kind for chunk in chunks} == {"lines"}


def test_cells_stand_under_the_headings_of_cells_before_them() -> None:
    """A code cell and a Markdown cell below a heading have it as context; another file begins anew."""
    cells = [
        document("markdown", "# Guide\n\n## Load\n", part="cell 1"),
        document("toml", "x = 1\n", part="cell 2"),
        document("markdown", "### Then\n\nwords\n", part="cell 3"),
        document("markdown", "## Plot\n", part="cell 4"),
        document("toml", "y = 1\n", part="cell 5"),
        Document(path="b", text="z = 1\n", language="toml", part="cell 1"),
    ]
    chunks = chunker(100).cut(cells)
    assert [(chunk.symbol, chunk.context, chunk.kind) for chunk in chunks] == [
        ("cell 1 Guide", "", "cell"),
        ("cell 2", "Guide > Load", "cell"),
        ("cell 3 Guide > Load > Then", "Guide > Load", "cell"),
        ("cell 4 Guide > Plot", "Guide", "cell"),
        ("cell 5", "Guide > Plot", "cell"),
        ("cell 1", "", "cell"),
    ]


@pytest.mark.search
def test_functions_in_cells_are_functions() -> None:
    """A cell's function is found as one, with the cell's number before its name."""
    chunks = chunker(24).cut([document("python", PYTHON, part="cell 7")])
    kinds = {chunk.kind for chunk in chunks}
    assert "function" in kinds
    assert not kinds & {"lines", "block"}
    assert all(chunk.symbol.startswith("cell 7") for chunk in chunks)


@pytest.mark.parametrize("max_tokens", [20, 40, 90])
def test_headings_above_code_stay_within_the_limit(max_tokens: int) -> None:
    """Context never makes a chunk too long: it is shortened or left out."""
    cells = [
        document("markdown", "# " + "Long heading words " * 9, part="cell 1"),
        document("toml", "".join(f"key{n} = {n}\n" for n in range(60)), part="cell 2"),
    ]
    chunks = chunker(max_tokens).cut(cells)
    assert all(pieces([chunk.embedded])[0] <= max_tokens for chunk in chunks)
    assert "".join(chunk.text for chunk in chunks) == "".join(cell.text for cell in cells)


def test_the_version_names_the_way_of_cutting() -> None:
    """It is the same for equal limits, and another for others."""
    assert chunker(40).version == chunker(40).version
    assert chunker(40).version != chunker(41).version


def test_a_limit_without_room_is_said_at_once() -> None:
    """Before any file is read."""
    with pytest.raises(UsageError, match="no room"):
        chunker(2)
