"""Where a text can be cut without its syntax: at lines, at words, and in words.

Under `lines_fitting`, for lines and for tokens that are over the limit by themselves. Which word it is hangs on its own
letters, so that cuts stay where they are when a distant part of the text changes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Iterator

_WORD = re.compile(r"\S+\s*")
_NAME = re.compile(r"\W*\w*")
_INDENTS = 400  # columns that are told apart


class Border:
    """How good a place for a cut is if no line begins there; plain numbers, for there are many."""

    WITHIN = 0
    """Before a token that belongs to what precedes it, on its own line too."""
    LETTER = 1
    TOKEN = 2
    STATEMENT = 3
    LINE = 4
    """The least of those where a line begins: see `line_border`."""


def line_border(text: str, start: int) -> int:
    """How good a place for a cut the start of a line is: less indented is better, behind an empty line too."""
    column = start
    while column - start < _INDENTS and text[column : column + 1] in (" ", "\t"):
        column += 1
    empty = text[max(0, start - 3) : start].count("\n") > 1
    return Border.LINE + 2 * (_INDENTS - (column - start)) + empty


def tear(text: str, start: int, end: int, part: int) -> Iterator[tuple[int, int]]:
    """Where a stretch can be cut without its syntax: its lines, and within long ones words, and in these characters.

    Args:
        text: all of it.
        start: where the stretch begins, which is not named again.
        end: where it ends.
        part: characters that are too few for a cut in a line.
    """
    most = 8 * part
    line = start
    while line < end:
        after = text.find("\n", line, end) + 1 or end
        if line > start:
            yield line, Border.LINE
        if after - line > most or (line == start and after == end):
            yield from _tear_line(text, line, after, part)
        line = after


def _tear_line(text: str, start: int, end: int, part: int) -> Iterator[tuple[int, int]]:
    """Behind words that their own letters choose, and where these are too far apart."""
    last = start
    for word in _WORD.finditer(text, start, end):
        at = word.end()
        if at - word.start() > part:
            if word.start() > last:
                yield word.start(), Border.TOKEN
            for cut in _tear_word(text, word.start(), at, part):
                yield cut, Border.LETTER
            last = at
            if at < end:
                yield at, Border.TOKEN
        elif at < end and (at - last > part or not crc32(word.group().encode("utf-8", "surrogatepass")) & 3):
            yield at, Border.TOKEN
            last = at


def _tear_word(text: str, start: int, end: int, part: int) -> Iterator[int]:
    """Behind names, or else anywhere, but not between a letter and its accent."""
    last = start
    while end - last > part:
        name = _NAME.match(text, last, min(end, last + part))
        at = name.end() if name and last < name.end() < last + part else last + max(1, part)
        while at < end - 1 and _is_joined(text[at]):
            at += 1
        if at >= end:
            return
        yield at
        last = at


def _is_joined(character: str) -> bool:
    return "\u0300" <= character <= "\u036f" or character in "\u200d\ufe0f"
