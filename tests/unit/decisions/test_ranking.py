"""What a person is shown, from what a store finds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embatch.chunks import Chunk, Hit
from embatch.decisions.ranking import is_test, ranked


def hit(name: str, *, path: str = "", score: float = 0.5, **changes: Any) -> Hit:
    """A hit of that name, in a file of its own unless told otherwise."""
    fields = {"kind": "function", "symbol": name, **changes}
    chunk = Chunk(
        path=path or f"{name}.py",
        text=name,
        start=0,
        end=1,
        start_line=1,
        end_line=1,
        language="python",
        **fields,
    )
    return Hit(chunk=chunk, score=score, id=name)


def names(hits: list[Hit]) -> list[str]:
    """Their identifiers."""
    return [one.id for one in hits]


def test_what_both_rankings_find_comes_first() -> None:
    """A chunk that is good in words and in meaning is better than the best of either."""
    near = [hit("a"), hit("b"), hit("c")]
    matching = [hit("d"), hit("b"), hit("e")]
    assert names(ranked("words", near, matching))[0] == "b"


def test_one_ranking_is_kept_as_it_is() -> None:
    """Where only meaning or only words count, order and scores are the store's."""
    hits = [hit("a", score=0.9), hit("test_b", path="tests/test_b.py", score=0.8)]
    assert ranked("words", hits, []) == hits
    assert ranked("words", [], hits) == hits


def test_tests_stand_behind_what_they_test() -> None:
    """A test and the code that it tests are found by the same words; the code is meant."""
    near = [hit("t", path="tests/test_tool.py"), hit("tool", path="src/tool.py")]
    matching = [hit("t", path="tests/test_tool.py"), hit("tool", path="src/tool.py")]
    assert names(ranked("how is the tool used", near, matching)) == ["tool", "t"]
    assert names(ranked("is the tool tested", near, matching)) == ["t", "tool"]
    assert names(ranked("how is the tool used", near, matching, chosen=True)) == ["t", "tool"]


def test_a_file_in_which_more_fits_comes_first() -> None:
    """Of two places that fit alike, the one in whose file another place fits too is the better guess."""
    near = [hit("a"), hit("b", path="b.py"), hit("c", path="b.py")]
    matching = [hit("b", path="b.py"), hit("a"), hit("c", path="b.py")]
    found = ranked("words", near, matching)
    assert names(found)[0] == "b"


def test_imports_stand_behind_functions() -> None:
    """A run of imports without a name mentions what a function does."""
    near = [hit("imports", kind="block", symbol=""), hit("function")]
    matching = [hit("imports", kind="block", symbol=""), hit("function")]
    assert names(ranked("words", near, matching)) == ["function", "imports"]


def test_pieces_of_one_function_are_one_place() -> None:
    """A long function is several chunks, and is shown where its best one is; sections of prose stay apart."""
    first, second = hit("f1", path="a.py", symbol="long"), hit("f2", path="a.py", symbol="long")
    other = hit("g", path="b.py", symbol="long")
    assert names(ranked("words", [first, second, other], [])) == ["f1", "g"]
    prose = [hit(name, path="a.md", kind="section", symbol="Guide") for name in ("s1", "s2")]
    assert names(ranked("words", prose, [])) == ["s1", "s2"]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("tests/unit/a.py", True),
        ("pkg/test/a.py", True),
        ("test_a.py", True),
        ("a/b_test.go", True),
        ("a/b.spec.ts", True),
        ("a/__tests__/b.js", True),
        ("src/latest.py", False),
        ("contest/a.py", False),
        ("src/testimony.py", False),
        ("src/attest/a.py", False),
    ],
)
def test_tests_are_known_by_their_path(path: str, *, told: bool) -> None:
    """Folders and file names of most languages' habits, and no words that merely hold `test`."""
    assert is_test(path) is told


@given(st.lists(st.sampled_from("abcdefgh"), unique=True), st.lists(st.sampled_from("abcdefgh"), unique=True))
def test_nothing_is_lost_and_nothing_comes_twice(near: list[str], matching: list[str]) -> None:
    """Whatever either ranking has is in the answer, once, with scores that fall."""
    found = ranked("words", [hit(name) for name in near], [hit(name) for name in matching])
    assert sorted(names(found)) == sorted({*near, *matching})
    if near and matching:
        scores = [one.score for one in found]
        assert scores == sorted(scores, reverse=True)
