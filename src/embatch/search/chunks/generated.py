"""Which files nobody wrote: generated, minified, lock files.

Used by `reading`. Names, the first lines and the lengths of lines decide, as GitHub's linguist does it; what programs
write without saying so is not found. To find nothing written by hand here matters more than to find everything else.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from embatch.search.chunks.languages import PROSE

_LOCK_FILES = (
    "bun.lock cargo.lock cartfile.resolved composer.lock conda-lock.yml deno.lock flake.lock gemfile.lock "
    "go.sum go.work.sum gradle.lockfile mix.lock npm-shrinkwrap.json package-lock.json package.resolved "
    "packages.lock.json pdm.lock pipfile.lock pixi.lock pnpm-lock.yaml podfile.lock poetry.lock "
    "pubspec.lock rebar.lock uv.lock yarn.lock"
)
_LOCKS = frozenset(_LOCK_FILES.split())
_MINIFIED = (".min.js", ".min.css", ".min.mjs", ".bundle.js", "-min.js", "-min.css")
_GENERATED_ENDINGS = (
    ".map .g.dart .freezed.dart .designer.cs .g.cs .pb.go .pb.cc .pb.h _pb2.py _pb2_grpc.py _pb2.pyi "
    ".pb.swift _pb.js _pb.d.ts"
)
_GENERATED = tuple(_GENERATED_ENDINGS.split())

_HEAD_LINES = 40
_HEAD_CHARS = 8192

# In code a mark counts only in a comment; in prose only in one of its own kind: `#` begins a heading there.
_COMMENT = re.compile(r"[ \t]*(?://|/\*|\*|#|--|;|%|<!--|\(\*|'|dnl\b|@?rem\b)", re.IGNORECASE)
_PROSE_COMMENT = re.compile(r"[ \t]*(?:<!--|\.\.[ \t]|\[//\]:)")

_SAYS_SO = re.compile(
    r"""
    ^\W*code\ generated\ .*\bdo\ not\ edit\b
    | ^\W*@(?:partially-)?generated\b
    | \bautomatically\ @generated\b
    | <auto-?generated
    | \bgenerated\ by\ the\ (?:grpc\ )?protocol\ buffer\ (?:compiler|plugin)
    | ^\W*(?:file\ )?auto-?generated\ (?:by|from|file|using|with|code)\b
    | \b(?:this|the\ following)\ (?:file|code|module|header|source)\ (?:is|was|has\ been)
      \ (?:auto(?:matically)?[- ]?)?generated\b
    | ^\W*generated\ by\ (?:cython|coffeescript|peg\.js|haxe|swig|pyrex|gnu\ autoconf|jison|re2c)\b
    | ^\W*generated\ from\ .*\bby\ antlr\b
    | \ba\ bison\ parser,\ made\ by\ gnu\ bison\b
    | \ba\ lexical\ scanner\ generated\ by\ flex\b
    | ^\W*makefile\.in\ generated\ by\ automake\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
_GENERATED_WORD = re.compile(r"\b(?:auto[- ]?)?generated\b", re.IGNORECASE)
_HANDS_OFF = re.compile(r"\b(?:do not|don't|never) (?:edit|modify|change|touch)\b", re.IGNORECASE)
_NEAR_LINES = 3
"""So far apart may `generated` and `do not edit` stand."""

_SCRIPTS = frozenset(("javascript", "typescript", "tsx", "css"))
_SCRIPT_LINE = 110
"""Mean characters a line above which linguist calls scripts minified."""

_ANY_LINE = 500
"""The same for other languages: nobody writes so."""

_LEAST_CHARS = 2048  # of shorter files the mean line says little


def by_name(path: str) -> str:
    """`lock file`, `minified` or `generated` if the name says so, else empty."""
    name = PurePosixPath(path).name.lower()
    if name in _LOCKS:
        return "lock file"
    if name.endswith(_MINIFIED):
        return "minified"
    return "generated" if name.endswith(_GENERATED) else ""


def by_content(text: str, language: str) -> str:
    """`generated` if the first lines say so, `minified` if the lines are too long to be read, else empty."""
    if _is_marked(text, prose=language in PROSE):
        return "generated"
    if language in PROSE or len(text) < _LEAST_CHARS:
        return ""
    longest_mean = _SCRIPT_LINE if language in _SCRIPTS else _ANY_LINE
    return "minified" if len(text) > longest_mean * (text.count("\n") + 1) else ""


def _is_marked(text: str, *, prose: bool) -> bool:
    comment = _PROSE_COMMENT if prose else _COMMENT
    generated = hands_off = -_HEAD_LINES
    for number, line in enumerate(text[:_HEAD_CHARS].split("\n", _HEAD_LINES)[:_HEAD_LINES]):
        if comment.match(line) is None:
            continue
        if _SAYS_SO.search(line):
            return True
        generated = number if _GENERATED_WORD.search(line) else generated
        hands_off = number if _HANDS_OFF.search(line) else hands_off
        if generated >= 0 and hands_off >= 0 and abs(generated - hands_off) <= _NEAR_LINES:
            return True
    return False
