"""Patterns over paths."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embatch.decisions.globs import path_filter, path_rules, to_regex
from embatch.errors import UsageError

PATHS = st.lists(st.text("ab.*[]!-é'\\ \n", min_size=1, max_size=4), min_size=1, max_size=4).map("/".join)


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*.py", ["a.py", ".py"], ["a/b.py", "a.pyc", "xapy"]),
        ("?.py", ["a.py", "é.py"], [".py", "ab.py", "/.py"]),
        ("**", ["a", "a/b/c", "a\nb"], []),
        ("**/*.py", ["a.py", "a/b.py", "a/b/c.py"], ["a.pyx", "a/py"]),
        ("src/**", ["src/a", "src/a/b"], ["src", "asrc/a", "src2/a"]),
        ("src/", ["src/a", "src/a/b"], ["src"]),
        ("./src/a", ["src/a"], ["./src/a"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["ab", "a/xb", "b"]),
        ("a**z", ["az", "a/b/z", "abz"], ["a/b"]),
        ("[a-c]x", ["ax", "cx"], ["dx", "x"]),
        ("[!a-c]x", ["dx", "éx"], ["ax", "/x"]),
        ("[]]", ["]"], ["["]),
        ("[!]]", ["a"], ["]"]),
        ("[a-]", ["a", "-"], ["b"]),
        ("[a", ["[a"], ["a"]),
        ("[^a]", ["^", "a"], ["b"]),
        ("a&&b[&&]~[~-]", ["a&&b&~~", "a&&b&~-"], ["a&&b"]),
        ("(a|b)+{1}$^.\\", ["(a|b)+{1}$^.\\"], ["a", "(a|b)+{1}$^x\\"]),
        ("a.py", ["a.py"], ["a.py\n", "aXpy"]),
    ],
)
def test_what_patterns_match(pattern: str, yes: list[str], no: list[str]) -> None:
    """Stars stay within a part, two go over parts, classes are one character, all else is literal."""
    passes = path_filter([pattern])
    assert [path for path in yes if not passes(path)] == []
    assert [path for path in no if passes(path)] == []


def test_several_patterns() -> None:
    """One of those without `!` must match, if there are any, and none of those with it."""
    passes = path_filter(["src/**", "docs/**", "!**/test_*", "!docs/old/"])
    wanted = ["src/a.py", "docs/a.md"]
    paths = [*wanted, "src/test_a.py", "docs/old/a.md", "other/a.py"]
    assert [path for path in paths if passes(path)] == wanted
    assert [path for path in paths if path_filter(["!src/**"])(path)] == [
        "docs/a.md",
        "docs/old/a.md",
        "other/a.py",
    ]
    assert all(map(path_filter([]), paths))


@given(path=PATHS)
def test_a_path_without_special_characters_matches_itself(path: str) -> None:
    """Escaped in brackets, every character means itself, and every path is within `**`."""
    literal = "".join(f"[{char}]" if char in "*?[" else char for char in path)
    if not literal.startswith(("./", "!")) and not literal.endswith("/"):
        assert path_filter([literal])(path)
    assert path_filter(["**"])(path)
    assert not path_filter(["!**"])(path)


@given(pattern=st.text("ab/*?[]!-\\.(é", min_size=1, max_size=12), path=PATHS)
def test_every_pattern_is_a_regular_expression_or_refused(pattern: str, path: str) -> None:
    """Whatever is typed gives an expression that compiles, or a named error."""
    try:
        rule = to_regex(pattern)
    except UsageError:
        return
    assert path_filter([f"!{pattern}"])(path) in (True, False)
    re.compile(rule)


@pytest.mark.parametrize("pattern", ["", "!", "[z-a]", "./"])
def test_broken_patterns_are_refused(pattern: str) -> None:
    """An empty pattern or a range the wrong way round is a named error."""
    with pytest.raises(UsageError):
        path_rules([pattern])
