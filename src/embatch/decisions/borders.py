"""Where a text can be cut, and how good each place is.

`units` asks here. Headings, paragraphs, lines and sentences are told apart by their marks alone, in one pass and in
time linear in the length; no language is detected, and code is seen as lines and paragraphs. Words and characters
are left to `units`, which needs them only where a sentence is too long.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Border(IntEnum):
    """What a cut would separate; the higher, the better a place it is."""

    CHARACTER = 0  # within a word
    WORD = 1
    SOFT = 2  # lines of one sentence, or a heading from its text
    SENTENCE = 3  # sentences, or lines that are no running text
    PARAGRAPH = 4
    HEADING = 5  # what stands before a heading from the heading


_LATIN = ".!?…؟۔।"  # end a sentence if white space follows
_WIDE = "。！？｡"  # end a sentence as they are
_CLOSING = r"\"'”’»)\]}*_」』）"

# One character class comes first, so that the search runs at memory speed, and whatever it hits is consumed whole, so
# that a text of nothing but dots takes linear time too.
_CANDIDATE = re.compile(rf"[{_LATIN}{_WIDE}\n](?:(?<=\n)|[{_LATIN}{_WIDE}]*+[{_CLOSING}]{{0,4}}+)\s*+")
# Markdown's; the same characters begin comments in code, and to cut before one of these is as well.
_MARKED_HEADING = re.compile(r"#{1,6}[ \t]+\S")
_UNDERLINED_HEADING = re.compile(r"[^\n]{1,200}\n([=\-~^\"'`:*+#.])\1{2,}[ \t]*(?:\n|\Z)")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")  # J. Smith, e.g., U.S., z.B.

_TITLES = (
    "al approx bzw cf dept dr eq eqs fig figs gen gov hon lt mr mrs ms mt prof resp rev sen sgt st vgl vs"
)
_BEFORE_NUMBERS = (
    "abb abs apr art aug bd ch chap dec feb jan jul jun mar no nos nov nr oct p par pp pt ref refs s sec secs"
    " sep sept tab vol"
)
_ALWAYS = frozenset(_TITLES.split())
_WITH_NUMBER = frozenset(_BEFORE_NUMBERS.split())

_LOOK_BACK = 16  # characters before a full stop in which an abbreviation fits


def borders(text: str) -> Iterator[tuple[int, Border]]:
    """Every place where a heading, paragraph, line or sentence begins, from left to right, without the text's start.

    White space belongs to what stands before it: a border is where the next visible character is.
    """
    heading_end = -1  # the line break below the heading that was found last
    for match in _CANDIDATE.finditer(text):
        start, end = match.span()
        if end == len(text):
            return
        breaks = text.count("\n", start, end)
        in_heading = start <= heading_end
        next_end = _heading_end(text, end, breaks) if breaks else -1
        if next_end >= 0:
            heading_end = next_end
        if in_heading:
            yield end, Border.SOFT
        elif next_end >= 0:
            yield end, Border.HEADING
        elif breaks > 1:
            yield end, Border.PARAGRAPH
        elif text[start] == "\n":
            yield end, Border.SOFT if text[end].islower() else Border.SENTENCE
        elif _ends_sentence(text, start, end):
            yield end, Border.SENTENCE
        elif breaks:
            yield end, Border.SOFT


def _heading_end(text: str, start: int, breaks: int) -> int:
    """The line break below the heading that begins at `start`; -1 if there is none.

    Args:
        text: the whole text.
        start: where a line begins.
        breaks: line breaks before it. An underlined heading follows an empty line, or any text above a rule were one.
    """
    if _MARKED_HEADING.match(text, start):
        return text.find("\n", start)
    if breaks > 1 and (match := _UNDERLINED_HEADING.match(text, start)):
        return match.end() - 1
    return -1


def _ends_sentence(text: str, start: int, end: int) -> bool:
    mark, following = text[start], text[end]
    if mark in _WIDE:
        return True
    if not text[end - 1].isspace():  # 3.14, file.txt
        return False
    before = text[max(0, start - _LOOK_BACK) : start]
    if (
        not before or before[-1].isspace()
    ):  # set apart, as in tokenised text; at a line's start it is a mark-up sign
        return before.endswith((" ", "\t"))
    if following.islower():
        return False
    if mark != "." or text[start + 1] in _LATIN:
        return True
    return not _abbreviated(before, following)


def _abbreviated(before: str, following: str) -> bool:
    """Whether the full stop behind `before` belongs to its last word."""
    word = before.rsplit(maxsplit=1)[-1].lstrip("([{\"'“‘«").lower()
    if _INITIALS.fullmatch(word) or word in _ALWAYS:
        return True
    if word.isdigit():  # 1. First point
        line = before.rpartition("\n")[2]
        return line.strip() == word and (len(before) < _LOOK_BACK or "\n" in before)
    return word in _WITH_NUMBER and (following.isdigit() or following in "([")
