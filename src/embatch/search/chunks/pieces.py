"""The smallest parts of prose, found so that an edit moves only the borders near it.

Used by `prose` for sections that are too long for a chunk. A part is a block; one that is too long becomes sentences or
lines, then words, then characters. Where there are no borders to go by, the text itself chooses: a hash of the word
before decides whether a cut is there, never a distance from the start.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from embatch.decisions.borders import Border, borders
from embatch.decisions.units import count_all
from embatch.search.chunks.headings import Rank

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from embatch.decisions.units import Count, Limits

_RANKS = {
    Border.SOFT: Rank.SOFT,
    Border.SENTENCE: Rank.SENTENCE,
    Border.PARAGRAPH: Rank.INNER,
    Border.HEADING: Rank.INNER,
}
# Each consumes what it has looked at, so that a text of nothing but one character takes linear time.
_LINE_END = re.compile(r"\n((?:[ \t]*+\n)*+)")  # indentation stays with its line
_WORD = re.compile(r"(\S++)\s*+")
_ONE_IN_WORDS = 4
_ONE_IN_CHARS = 8
_JOINED = "\u200d\ufe0f"


class Piece(NamedTuple):
    """A stretch of text that is not cut."""

    start: int
    end: int
    rank: int
    """How good a place for a cut is before it: a `Rank`."""
    tokens: int
    step: int = 0
    """How often it has been cut: what comes next is finer."""


def fitted(text: str, pieces: Sequence[Piece], *, room: int, limits: Limits, count: Count) -> list[Piece]:
    """The pieces with their tokens, those of more than `room` tokens cut until they fit.

    A single character that does not fit stays. Tokens of pieces whose count is -1 are counted.
    """
    done = list(pieces)
    while True:
        _count(text, done, limits, count)
        finer: list[Piece] = []
        for piece in done:
            if piece.tokens <= room or piece.end - piece.start <= 1:
                finer.append(piece)
            else:
                finer.extend(cut(text, piece))
        if len(finer) == len(done):
            return done
        done = finer


def _count(text: str, pieces: list[Piece], limits: Limits, count: Count) -> None:
    """Fill in what is not known. What is far too long is not worth counting."""
    bare: dict[int, str] = {}
    for at, (start, end, rank, tokens, step) in enumerate(pieces):
        if tokens >= 0:
            continue
        part = text[start:end].strip()
        if part and len(part) <= limits.chars:
            bare[at] = part
        else:
            pieces[at] = Piece(start, end, rank, limits.tokens + 1 if part else 0, step)
    for at, tokens in zip(bare, count_all(bare.values(), count), strict=True):
        start, end, rank, _, step = pieces[at]
        pieces[at] = Piece(start, end, rank, max(1, tokens - limits.added), step)


def cut(text: str, piece: Piece) -> list[Piece]:
    """Finer pieces of one, their tokens unknown: by the next step that finds a border, at the latest by characters.

    White space at its ends is not cut: it costs nothing, and there can be much of it.
    """
    part = text[piece.start : piece.end]
    start, end = piece.end - len(part.lstrip()), piece.start + len(part.rstrip())
    for step in range(piece.step, len(_STEPS)):
        places = list(_STEPS[step](text, start, end))
        if places:
            starts = [(piece.start, piece.rank), *places]
            ends = [*(at for at, _ in places), piece.end]
            return [
                Piece(at, behind, rank, -1, step + 1) for (at, rank), behind in zip(starts, ends, strict=True)
            ]
    return [piece]


def _by_sentence(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    for at, border in borders(text[start:end]):
        yield start + at, int(_RANKS[border])


def _by_line(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    for match in _LINE_END.finditer(text, start, end):
        if match.end() < end:
            yield match.end(), int(Rank.INNER if match[1] else Rank.SENTENCE)


def _by_some_words(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    for match in _WORD.finditer(text, start, end):
        if match.end() < end and crc32(match[1].encode("utf-8", "surrogatepass")) % _ONE_IN_WORDS == 0:
            yield match.end(), int(Rank.WORD)


def _by_word(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    for match in _WORD.finditer(text, start, end):
        if match.end() < end:
            yield match.end(), int(Rank.WORD)


def _by_some_characters(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    for at in range(start + 2, end):  # two characters choose; with fewer, a run of one would lose its first
        mixed = ord(text[at - 1]) * 0x9E3779B1 ^ ord(text[at - 2]) * 0x85EBCA6B
        if (mixed >> 7) % _ONE_IN_CHARS == 0 and not _glued(text, at):
            yield at, int(Rank.CHARACTER)


def _by_glyph(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    for at in range(start + 1, end):
        if not _glued(text, at):
            yield at, int(Rank.CHARACTER)


def _by_character(_: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    for at in range(start + 1, end):
        yield at, int(Rank.CHARACTER)


def _glued(text: str, at: int) -> bool:
    """Whether a cut would tear an accent or a joined emoji from its letter."""
    return text[at] in _JOINED or text[at - 1] == "\u200d" or "\u0300" <= text[at] <= "\u036f"


_STEPS: tuple[Callable[[str, int, int], Iterator[tuple[int, int]]], ...] = (
    _by_sentence,
    _by_line,
    _by_some_words,
    _by_word,
    _by_some_characters,
    _by_glyph,
    _by_character,
)
LINES_FIRST = 1
"""The step at which a block of code or a table begins to be cut."""
