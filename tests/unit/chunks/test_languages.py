"""A file's language is told by its name, else by its first line."""

from __future__ import annotations

import pytest

from embatch.search.chunks.languages import GRAMMARS, PROSE, language_of


@pytest.mark.parametrize(
    ("path", "language"),
    [
        ("src/a.py", "python"),
        ("src/a.PY", "python"),
        ("a.pyi", "python"),
        ("a.mjs", "javascript"),
        ("a.jsx", "jsx"),
        ("a.d.ts", "typescript"),
        ("a.tsx", "tsx"),
        ("a.go", "go"),
        ("a.rs", "rust"),
        ("A.java", "java"),
        ("a.c", "c"),
        ("a.h", "c"),
        ("a.hpp", "cpp"),
        ("a.cs", "c_sharp"),
        ("a.rb", "ruby"),
        ("Gemfile", "ruby"),
        ("a.php", "php"),
        ("a.sh", "bash"),
        (".bashrc", "bash"),
        ("a.sql", "sql"),
        ("Makefile", "make"),
        ("deep/Dockerfile", "dockerfile"),
        ("Dockerfile.dev", "dockerfile"),
        ("CMakeLists.txt", "cmake"),
        ("go.mod", "go_module"),
        ("README.md", "markdown"),
        ("a.rst", "rst"),
        ("a.html", "html"),
        ("notes.txt", "text"),
        ("LICENSE", "text"),
        (".py", "text"),
        ("py", "text"),
        ("a.unknown", "text"),
        ("", "text"),
        ("a.py/", "text"),
    ],
)
def test_the_name_tells(path: str, language: str) -> None:
    """By its ending, or all of it, capitals or not; only the last part of a path counts."""
    assert language_of(path, "") == language


@pytest.mark.parametrize(
    ("head", "language"),
    [
        ("#!/bin/sh\n", "bash"),
        ("#!/usr/bin/env python3\nprint()", "python"),
        ("#!/usr/bin/python3.11 -u\n", "python"),
        ("#! /usr/bin/env -S node --harmony\r\n", "javascript"),
        ("#!/usr/bin/env FOO=bar ruby\n", "ruby"),
        ("\ufeff#!/bin/bash", "bash"),
        ("#!/opt/strange", "text"),
        ("#!", "text"),
        ("hello\n#!/bin/sh", "text"),
        ("", "text"),
    ],
)
def test_the_first_line_tells_where_the_name_does_not(head: str, language: str) -> None:
    """The program of a `#!` line, behind `env` too; a name that tells comes first."""
    assert language_of("bin/run", head) == language
    assert language_of("run.py", head) == "python"


@pytest.mark.parametrize(
    ("head", "language"),
    [
        ("#include <stdio.h>\nstruct a { int b; };\n", "c"),
        ("#include <vector>\n", "cpp"),
        ("namespace a {\n", "cpp"),
        ("class A : public B {\n", "cpp"),
        ("template <typename T>\n", "cpp"),
    ],
)
def test_a_header_is_cpp_if_it_says_so(head: str, language: str) -> None:
    """Both languages name their headers `.h`."""
    assert language_of("a.h", head) == language


def test_prose_has_no_grammar() -> None:
    """Each language is cut in one way."""
    assert not GRAMMARS & PROSE
