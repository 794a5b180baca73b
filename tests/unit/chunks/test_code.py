"""What chunks the syntax of each language gives, pinned on a file that has of everything something."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from embatch.chunks import Chunk, Document
from embatch.errors import MissingExtraError, UsageError
from embatch.search.chunks.code import cut_code
from embatch.search.chunks.grammars import GRAMMARS
from embatch.search.chunks.languages import GRAMMARS as LANGUAGES

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.search

PIECE = re.compile(r"\w{1,4}|[^\w\s]")
SAMPLES = Path(__file__).parent / "code"
ENDINGS = {
    "python": "py",
    "javascript": "js",
    "typescript": "ts",
    "go": "go",
    "rust": "rs",
    "java": "java",
    "c": "c",
    "cpp": "cpp",
    "c_sharp": "cs",
    "ruby": "rb",
    "php": "php",
    "bash": "sh",
    "sql": "sql",
}
# Lines, kind and symbol of each chunk, in order, with a limit of 128 tokens.
EXPECTED = {
    "python": """
        1-12 block
        13-17 class StackError
        18-20 function one
        21-27 class Stack
        28-33 method Stack.__init__
        34-40 method Stack.top
        41-43 class Stack.Inner
        44-46 method Stack.Inner.deep
        47-52 method Stack.push
        53-57 function merge
        58-59 block
    """,
    "javascript": """
        1-7 block
        8-15 function readAll
        16-20 function add
        21-24 class Queue
        25-30 method Queue.constructor
        31-34 method Queue.of
        35-40 method Queue.handle
        41-46 function Queue.clear
        47-50 function later
        51-53 function View
    """,
    "typescript": """
        1-5 block
        6-13 class Store
        14-15 class Level
        16-21 function Tools.twice
        22-24 function Tools.half
        25-28 class Memory
        29-33 method Memory.constructor
        34-37 method Memory.size
        38-42 method Memory.get
        43-44 block Memory
    """,
    "go": """
        1-11 block
        12-17 class Stack
        18-21 class Pusher
        22-27 function New
        28-35 method Stack.Push
    """,
    "rust": """
        1-6 block
        7-13 class Stack
        14-14 class Stack
        15-21 method Stack.new
        22-28 method Stack.push
        29-29 class Stack
        30-34 method Stack.fmt
        35-39 function inner.helper
        40-40 class inner.Shape
        40-42 method inner.Shape.name
        43-45 function twice
    """,
    "java": """
        1-6 block
        7-12 class Stack
        13-17 method Stack.Stack
        18-24 method Stack.push
        25-27 class Stack.Level
        28-28 method Stack.Level.Level
        29-32 method Stack.Level.twice
        33-34 class Shape
        35-35 class Point
    """,
    "c": """
        1-7 block
        8-9 function TWICE
        10-14 class Stack
        15-19 class node
        20-24 block
        25-33 function stack_new
        34-34 block
        35-39 function stack_print
        40-41 function find_it
    """,
    "cpp": """
        1-4 block
        5-6 block stacks.inner
        7-10 class stacks.inner.Stack
        11-11 method stacks.inner.Stack.Stack
        12-13 method stacks.inner.Stack.~Stack
        14-14 method stacks.inner.Stack.operator==
        15-21 block stacks.inner.Stack
        22-27 method stacks.inner.Stack.top
        28-29 class stacks.inner.Level
        30-33 class stacks.inner.Point
        34-34 block
        35-37 function stack_count
        38-39 block
        40-43 function main
    """,
    "c_sharp": """
        1-4 block
        5-6 block Example.Stacks
        7-13 class Example.Stacks.Stack
        14-15 method Example.Stacks.Stack.Count
        16-20 method Example.Stacks.Stack.Stack
        21-28 method Example.Stacks.Stack.PushAsync
        29-31 method Example.Stacks.Stack
        32-33 class Example.Stacks.IShape
        34-35 class Example.Stacks.Point
        36-37 class Example.Stacks.Level
    """,
    "ruby": """
        1-7 block
        8-8 block Stacks
        9-13 class Stacks.Stack
        14-19 method Stacks.Stack.initialize
        20-24 method Stacks.Stack.load
        25-30 block Stacks.Stack
        31-34 method Stacks.Stack.each
        35-42 method Stacks.Stack.check!
        43-43 function helper
    """,
    "php": """
        1-9 block
        10-18 class Stack
        19-24 method Stack.__construct
        25-32 method Stack.count
        33-34 class Shape
        35-35 class Loggable
        36-38 method Loggable.log
        39-40 class Level
        41-43 function helper
        44-45 block
    """,
    "bash": """
        1-6 block
        7-12 function die
        13-19 function build_all
        20-24 block
    """,
    "sql": """
        1-7 class stacks
        8-9 block
        10-13 class large_stacks
        14-20 function push
        21-25 block
    """,
}


def pieces(texts: Sequence[str]) -> list[int]:
    """Much as WordPiece counts."""
    return [len(PIECE.findall(text)) + 2 for text in texts]


def cut(text: str, language: str = "python", max_tokens: int = 128, first_line: int = 1) -> list[Chunk]:
    document = Document(path="a", text=text, language=language, first_line=first_line)
    chunks = cut_code(document, max_tokens=max_tokens, count=pieces)
    assert "".join(chunk.text for chunk in chunks) == text
    assert all(size <= max_tokens for size in pieces([chunk.embedded for chunk in chunks]))
    return chunks


def sample(language: str) -> str:
    return (SAMPLES / f"sample.{ENDINGS[language]}.txt").read_text(encoding="utf-8")


def by_symbol(chunks: Sequence[Chunk], symbol: str) -> Chunk:
    return next(chunk for chunk in chunks if chunk.symbol == symbol)


def test_every_language_with_a_grammar_has_a_table() -> None:
    """What `languages` promises to cut by syntax is what `grammars` has node types for."""
    assert frozenset(GRAMMARS) == LANGUAGES


@pytest.mark.parametrize("language", sorted(GRAMMARS))
def test_every_node_type_of_a_table_is_one_of_its_grammar(language: str) -> None:
    """A misspelt or outdated node type would cut nothing, and say nothing."""
    import importlib

    from tree_sitter import Language

    grammar = GRAMMARS[language]
    spoken = Language(getattr(importlib.import_module(grammar.module), grammar.entry)())
    known = {spoken.node_kind_for_id(number) for number in range(spoken.node_kind_count)}
    used = grammar.named | grammar.open | grammar.wrappers | frozenset(grammar.assigned) | grammar.values
    used |= grammar.bodies | grammar.leads | grammar.comments | grammar.imports
    assert not used - known


@pytest.mark.parametrize("language", EXPECTED)
def test_chunks_of_each_language(language: str) -> None:
    """Functions, methods and heads of classes are chunks with their symbols; small neighbours are joined."""
    chunks = cut(sample(language), language)
    found = [f"{c.start_line}-{c.end_line} {c.kind} {c.symbol}".rstrip() for c in chunks]
    assert found == [line.strip() for line in EXPECTED[language].strip().splitlines()]
    assert {chunk.language for chunk in chunks} == {language}


@pytest.mark.parametrize("language", EXPECTED)
def test_windows_line_ends_and_a_byte_order_mark_change_nothing(language: str) -> None:
    """The same file as an editor on Windows saves it has the same chunks, in the same lines."""
    text = sample(language)
    if language == "bash":  # to a shell, CR is a character of a word
        text = text.replace("cat <<EOF\nfunction not_one() { :; }\nEOF\n", "")
    plain = cut(text, language, 512)
    windows = cut("\ufeff" + text.replace("\n", "\r\n"), language, 512)
    lines = [(c.start_line, c.end_line, c.symbol) for c in plain if c.kind in {"function", "method"}]
    assert [
        (c.start_line, c.end_line, c.symbol) for c in windows if c.kind in {"function", "method"}
    ] == lines


def test_jsx_and_tsx_are_cut_as_what_they_are() -> None:
    """Elements in a function are part of it."""
    text = "const View = ({ name }: Props) => {\n  return <div>{name}</div>;\n};\n"
    assert [(c.kind, c.symbol) for c in cut(text, "tsx")] == [("function", "View")]
    assert [(c.kind, c.symbol) for c in cut(text.replace(": Props", ""), "jsx")] == [("function", "View")]


def test_a_method_is_embedded_with_its_class() -> None:
    """What is embedded before a method is its name in plain words, and the line that begins its class."""
    chunks = cut(sample("python"), max_tokens=256)
    assert by_symbol(chunks, "Stack.push").context == "stack push: class Stack(Base[int], metaclass=Meta):"
    assert by_symbol(chunks, "merge").context == "merge"
    assert by_symbol(cut(sample("java"), "java"), "Stack.push").context.startswith(
        "stack push: class Stack<T>"
    )


def test_a_long_function_is_cut_between_statements_and_keeps_its_symbol() -> None:
    """Its pieces begin at statements of its own, and all but the first are embedded with its first line."""
    body = "".join(
        f"    if value_{i} > {i}:\n        call_{i}(value_{i}, other=[{i}, {i}])\n" for i in range(60)
    )
    chunks = cut(f"class A:\n    pass\n\n\ndef long(value, other):\n{body}\n\ndef after(): pass\n")
    parts = [chunk for chunk in chunks if chunk.symbol == "long"]
    assert len(parts) > 5
    assert {part.kind for part in parts} == {"function"}
    assert parts[0].context == "long"
    for part in parts[1:]:
        assert part.context == "long: def long(value, other):"
        assert part.text.lstrip().startswith("if value_")


def test_a_function_within_a_long_function_has_its_own_symbol() -> None:
    """Most of a script may stand in one function: what is in it is found by name all the same."""
    inner = "".join(
        f"  function inner{i}(value) {{\n    return value + {i} + other(value, value, value);\n  }}\n"
        for i in range(20)
    )
    chunks = cut(f"(function outer() {{\n{inner}}})();\n", "javascript", 64)
    assert {f"inner{i}" for i in range(20)} <= {chunk.symbol.rpartition(".")[2] for chunk in chunks}


def test_comments_belong_to_what_follows_them() -> None:
    """A comment directly above a function is in its chunk; one behind a line is with that line."""
    text = "x = 1  # one\n# two, and three\n@cached\ndef f(value, other):\n    return value + other + value * other\n"
    chunks = cut(text, max_tokens=64)
    assert [chunk.text.split("\n")[0] for chunk in chunks] == ["x = 1  # one", "# two, and three"]


@pytest.mark.parametrize(
    ("language", "symbol", "imports"),
    [
        ("python", "merge", "from collections import deque as Queue, OrderedDict"),
        ("javascript", "add", "import React, { useState as useIt } from 'react'"),
        ("go", "Stack.Push", 'import "fmt"'),
        ("rust", "Stack.new", "use std::collections::{HashMap, VecDeque as Deque}"),
        ("java", "Stack.Stack", None),
        ("c_sharp", "Example.Stacks.Stack.PushAsync", "using Json = Newtonsoft.Json.Linq"),
        ("ruby", "Stacks.Stack.load", "require 'json'"),
        ("php", "Stack.__construct", r"use Psr\Log\{LoggerInterface, NullLogger as Nothing}"),
        ("bash", "die", ""),
    ],
)
def test_chunks_name_the_imports_that_they_use(language: str, symbol: str, imports: str | None) -> None:
    """A chunk has the import lines whose names are in its text, under their aliases, and no others."""
    found = by_symbol(cut(sample(language), language), symbol).imports
    if imports is None:
        imports = (
            "import java.util.List\nimport java.util.Map\nimport static java.util.Objects.requireNonNull"
        )
    assert found == imports


@pytest.mark.parametrize("language", sorted(GRAMMARS))
@pytest.mark.parametrize("text", ["", "\n\n", " ", "\0", "\ufeff", "x", "é\n", "\t}\n", '"', "\ud800"])
def test_next_to_nothing_is_a_chunk_too(language: str, text: str) -> None:
    """Whatever a file holds is one chunk; an empty one has none."""
    assert len(cut(text, language)) == (1 if text else 0)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("python", "x = " + "[" * 10_000 + "]" * 10_000),
        ("python", "(" * 10_000),
        ("javascript", "x = " + "(" * 10_000 + "1" + ")" * 10_000),
        ("c", "int f() {" + "if (a) b(); else " * 10_000 + "c(); }"),
        ("java", "class A { " * 3_000 + "}" * 3_000),
        ("bash", "$(" * 3_000),
        ("sql", "SELECT " + "(" * 3_000 + "1" + ")" * 3_000),
    ],
)
def test_deep_nesting_is_no_error(language: str, text: str) -> None:
    """Source that is nested ten thousand deep is cut like other source."""
    assert len(cut(text, language)) > 10


def test_one_very_long_line_is_cut() -> None:
    """A file without a line break has chunks within the limit, cut between tokens."""
    chunks = cut("var a=[" + ",".join(f'"k{i}"' for i in range(20_000)) + "];", "javascript")
    assert len(chunks) > 500
    assert all(not chunk.text.startswith(("k", '",')) for chunk in chunks)


def test_a_token_over_the_limit_is_cut_at_lines_or_words() -> None:
    """Only a string that is by itself too long is cut within."""
    lines = "".join(f"line {i} of the text\n" for i in range(100))
    chunks = cut(f'TEXT = """\n{lines}"""\n')
    assert all(chunk.text.startswith("line ") for chunk in chunks[1:])
    words = cut("TEXT = '" + "word " * 500 + "'\n")
    assert all(chunk.text.startswith("word ") for chunk in words[1:-1])


def test_lines_are_those_of_the_file() -> None:
    """A document that is part of a file counts its lines from where it begins."""
    chunks = cut(sample("python"), first_line=101)
    assert (chunks[0].start_line, chunks[0].end_line) == (101, 112)
    assert chunks[-1].end_line == 159


def test_places_are_characters_and_not_bytes() -> None:
    """Text outside of ASCII moves no border: a chunk is where its `start` says."""
    text = "# Größe: 漢字 \U0001f600\n" + sample("python").replace(
        "Stacks", "Stäcke \U0001f469\u200d\U0001f4bb"
    )
    for chunk in cut(text):
        assert text[chunk.start : chunk.end] == chunk.text
    assert by_symbol(cut(text), "merge").text.startswith("def merge(")


def test_no_room_is_an_error() -> None:
    """A limit that what the model adds fills alone is refused, with its name."""
    with pytest.raises(UsageError, match="max_tokens=2"):
        cut("x", max_tokens=2)


def test_a_missing_grammar_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, the error says what to install."""
    from embatch.search.chunks import grammars

    monkeypatch.setitem(sys.modules, "tree_sitter_absent", None)
    broken = grammars.Grammar(
        module="tree_sitter_absent", functions=frozenset(), classes=frozenset(), bodies=frozenset()
    )
    monkeypatch.setattr(grammars, "GRAMMARS", {"absent": broken})
    with pytest.raises(MissingExtraError, match=r"embatch\[search\]"):
        grammars.parse("absent", b"x")
