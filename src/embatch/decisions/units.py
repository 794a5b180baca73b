"""The smallest parts of a text that chunks are made of, and what each costs in tokens.

Used by `chunking`, before `packing` puts them together. A unit is a sentence or line; one that is over the limit
becomes words or, in the end, characters. `Limits` is what both steps go by.
"""

from __future__ import annotations

import unicodedata
from array import array
from typing import TYPE_CHECKING, NamedTuple

from embatch.decisions.borders import Border, borders
from embatch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    Count = Callable[[Sequence[str]], Sequence[int]]

MAX_TOKEN_CHARS = 64
"""No chunk has more characters a token than this. Real text has 3 to 5; only blobs that a tokeniser gives up on have
more, and there a bound keeps the work, and the chunk, small."""

_CALL_CHARS = 1 << 18
_CALL_TEXTS = 1 << 13
"""What `count` gets in one call, about: enough to keep a tokeniser's threads busy, and little memory."""

_WORD_CHARS = 32  # so long a word is taken for one before it is cut
_SPACES = " \n\t\u3000"


class Limits(NamedTuple):
    """How large a chunk and what it repeats may be."""

    tokens: int
    """Most tokens of a chunk, as `count` sees it."""
    added: int
    """Tokens that `count` adds to each text."""
    overlap: int
    """Most tokens that a chunk repeats."""

    @property
    def room(self) -> int:
        """Tokens of text in a chunk."""
        return self.tokens - self.added

    @property
    def chars(self) -> int:
        """Most characters of a chunk."""
        return self.tokens * MAX_TOKEN_CHARS

    @classmethod
    def of(cls, max_tokens: int, overlap_tokens: int, count: Count) -> Limits:
        """Limits for this way of counting.

        Raises:
            UsageError: there is no room for text, or the overlap is more than half of a chunk.
        """
        one, two = count(["a", "a a"])
        limits = cls(max_tokens, min(max(2 * one - two, 0), one), overlap_tokens)
        if limits.room < 1:
            raise UsageError(
                f"max_tokens={max_tokens} leaves no room for text: the model itself adds {limits.added} tokens."
            )
        if not 0 <= overlap_tokens <= max_tokens // 2:
            raise UsageError(
                f"overlap_tokens={overlap_tokens} is not between 0 and half of max_tokens={max_tokens}.",
                hint="An overlap of an eighth of the chunk is usual.",
            )
        return limits


class Units:
    """Consecutive parts of a text. Arrays, not lists: a long text has millions."""

    def __init__(self) -> None:
        self.starts = array("q")
        self.borders = array("b")
        """What stands before each: a `Border`."""
        self.tokens = array("q")
        """What each adds to a chunk; -1 while it is not known."""

    def add(self, start: int, border: int, tokens: int = -1) -> None:
        """Append a unit that ends where the next one starts."""
        self.starts.append(start)
        self.borders.append(border)
        self.tokens.append(tokens)


def cut_units(texts: Sequence[str], limits: Limits, count: Count) -> list[Units]:
    """The units of each text with their tokens: each within `limits.room`, unless it is a single character."""
    units = [_sentences(text, limits) for text in texts]
    todo = list(range(len(texts)))
    while todo:
        _count_open([(texts[at], units[at]) for at in todo], limits, count)
        todo = [at for at in todo if _has_long(texts[at], units[at], limits)]
        for at in todo:
            units[at] = _refined(texts[at], units[at], limits)
    return units


def count_all(texts: Iterable[str], count: Count) -> Iterator[int]:
    """Tokens of each text, counted in batches and as they are asked for."""
    batch: list[str] = []
    chars = 0
    for text in texts:
        batch.append(text)
        chars += len(text)
        if chars >= _CALL_CHARS or len(batch) >= _CALL_TEXTS:
            yield from count(batch)
            batch, chars = [], 0
    if batch:
        yield from count(batch)


def _sentences(text: str, limits: Limits) -> Units:
    """Sentences and lines. Very short ones are joined: borders that close would make work and no better chunks."""
    units = Units()
    shortest = limits.room // 8  # characters; about a thirtieth of a chunk
    start, before = 0, int(Border.HEADING)
    for at, border in borders(text):
        if border <= Border.SENTENCE and at - start < shortest:
            continue
        _add(units, text, start, at, before, limits)
        start, before = at, int(border)
    _add(units, text, start, len(text), before, limits)
    return units


def _add(units: Units, text: str, start: int, end: int, before: int, limits: Limits) -> None:
    """One unit, or several if it is so long that counting its tokens at once would take much memory."""
    units.add(start, before)
    most = limits.chars
    if end - start > most:
        for at, border in _cuts(text, start, end, near=most, far=most, within=most):
            units.add(at, border)


def _count_open(pairs: Sequence[tuple[str, Units]], limits: Limits, count: Count) -> None:
    """Fill in the tokens that are not known yet."""

    def places() -> Iterator[tuple[str, Units, int]]:
        for text, units in pairs:
            for at, tokens in enumerate(units.tokens):
                if tokens < 0:
                    yield text, units, at

    parts = (text[units.starts[at] : _end(text, units, at)] for text, units, at in places())
    for (_, units, at), tokens in zip(places(), count_all(parts, count), strict=True):
        units.tokens[at] = max(0, tokens - limits.added)


def _end(text: str, units: Units, at: int) -> int:
    return units.starts[at + 1] if at + 1 < len(units.starts) else len(text)


def _has_long(text: str, units: Units, limits: Limits) -> bool:
    return any(
        tokens > limits.room and _end(text, units, at) - units.starts[at] > 1
        for at, tokens in enumerate(units.tokens)
    )


def _refined(text: str, units: Units, limits: Limits) -> Units:
    """The units with those that are too long cut into smaller ones, whose tokens are not known yet."""
    finer = Units()
    for at, tokens in enumerate(units.tokens):
        start, end = units.starts[at], _end(text, units, at)
        length = end - start
        if tokens <= limits.room or length == 1:
            finer.add(start, units.borders[at], tokens)
            continue
        finer.add(start, units.borders[at])
        full = max(1, length * limits.room // tokens)  # characters that should fill a chunk
        far = max(1, min(length // 2, max(full, _WORD_CHARS)))
        near = max(1, min(far, length // 8, full // 16))
        for cut, border in _cuts(text, start, end, near=near, far=far, within=max(1, min(far, full // 4))):
            finer.add(cut, border)
    return finer


def _cuts(
    text: str, start: int, end: int, *, near: int, far: int, within: int
) -> Iterator[tuple[int, Border]]:
    """Where to cut `text[start:end]`, so that no part is longer than `far`.

    Behind the last space within `near` characters, else behind the first within `far`, else in a word after `within`.
    """
    at = start
    while end - at > near:
        cut, border = _space(text, at, end, near, far), Border.WORD
        if cut < 0:
            if end - at <= far:
                return
            cut, border = _glyph_border(text, at, at + within), Border.CHARACTER
        yield cut, border
        at = cut


def _space(text: str, at: int, end: int, near: int, far: int) -> int:
    """Behind a space, before `end`; -1 without one."""
    last = min(at + near, end - 1)
    found = max(text.rfind(space, at, last) for space in _SPACES)
    if found >= 0:
        return found + 1
    last = min(at + far, end - 1)
    return min((hit for space in _SPACES if (hit := text.find(space, at + near, last)) >= 0), default=-2) + 1


def _glyph_border(text: str, start: int, at: int) -> int:
    """`at`, or a little before it, so that no accent or joined emoji is cut from its letter."""
    for back in range(min(8, at - start - 1)):
        here, previous = text[at - back], text[at - back - 1]
        if not (unicodedata.combining(here) or here in "\u200d\ufe0f" or previous == "\u200d"):
            return at - back
    return at
