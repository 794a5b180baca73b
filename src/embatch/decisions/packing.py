"""Which units of a text go into one chunk.

Used by `chunking`, after `units` has cut and measured. Chunks are filled from left to right; the cut falls on the best
border in the last two thirds of what fits. Nothing is tokenised here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from embatch.decisions.borders import Border

if TYPE_CHECKING:
    from embatch.decisions.units import Limits, Units

# As plain numbers: looking up a member of an enum takes longer than the comparison.
_SENTENCE, _HEADING = int(Border.SENTENCE), int(Border.HEADING)
_FROM_BEST = (_SENTENCE, int(Border.WORD), int(Border.CHARACTER))


class Part(NamedTuple):
    """A stretch of the text that becomes a chunk."""

    start: int
    end: int
    units: int
    """How many it is made of: what is one unit has been counted as it is."""


def pack(text: str, units: Units, limits: Limits) -> list[Part]:
    """The parts in order; each adds something visible to those before it, and together they hold all that is."""
    return _Packer(units, len(text), limits).parts(text)


class _Packer:
    """Works on positions between units, 0 to n: position `i` is where unit `i` begins."""

    def __init__(self, units: Units, length: int, limits: Limits) -> None:
        self._limits = limits
        self._starts = np.append(np.frombuffer(units.starts, np.int64), length)
        self._borders = np.append(np.frombuffer(units.borders, np.int8), np.int8(_HEADING))
        self._before = np.concatenate([[0], np.cumsum(np.frombuffer(units.tokens, np.int64))])  # tokens

    def parts(self, text: str) -> list[Part]:
        last = len(self._starts) - 1
        parts = []
        begin = fresh = 0  # where the chunk begins, and where what it does not repeat does
        while fresh < last:
            reach = self._reach(begin)
            if reach <= fresh:  # what it repeats leaves no room
                begin, reach = fresh, max(self._reach(fresh), fresh + 1)
            cut = last if reach == last else self._cut(fresh, reach)
            start, end = int(self._starts[begin]), int(self._starts[cut])
            if not text[int(self._starts[fresh]) : end].isspace():
                parts.append(Part(start, end, cut - begin))
            begin, fresh = self._overlap(begin + 1, cut), cut
        return parts

    def _reach(self, begin: int) -> int:
        """The last position that a chunk from `begin` can end at."""
        by_tokens = self._before.searchsorted(self._before[begin] + self._limits.room, "right")
        by_chars = self._starts.searchsorted(self._starts[begin] + self._limits.chars, "right")
        return int(min(by_tokens, by_chars)) - 1

    def _cut(self, fresh: int, reach: int) -> int:
        """The best border that leaves the chunk a third full, the last one of its kind."""
        third = self._before.searchsorted(self._before[fresh] + self._limits.room // 3)
        low = int(min(reach, max(fresh + 1, third)))
        window = self._borders[low : reach + 1]
        cut = reach - int(window[::-1].argmax())
        if self._borders[cut] >= _SENTENCE:
            return cut
        # All of the window is within one sentence. Cut before that sentence, if it then fits into the next chunk.
        early = (self._borders[fresh + 1 : low] >= _SENTENCE).nonzero()[0]
        if early.size:
            before = fresh + 1 + int(early[-1])
            if self._sentence_tokens(before) is not None:
                return before
        return cut

    def _sentence_tokens(self, at: int) -> int | None:
        """Tokens of the sentence that begins at `at`; `None` if it does not fit into a chunk."""
        ends = (self._borders[at + 1 : self._reach(at) + 1] >= _SENTENCE).nonzero()[0]
        return int(self._before[at + 1 + ends[0]] - self._before[at]) if ends.size else None

    def _overlap(self, first: int, cut: int) -> int:
        """Where the chunk that follows a cut begins: at `cut`, or earlier to repeat something, not before `first`."""
        if self._borders[cut] == _HEADING or not self._limits.overlap:
            return cut
        next_tokens = self._sentence_tokens(cut) or 0
        most = min(self._limits.overlap, self._limits.room - next_tokens)
        low = max(first, int(self._before.searchsorted(self._before[cut] - most)))
        window = self._borders[low:cut]
        for border in _FROM_BEST:
            found = (window >= border).nonzero()[0]
            if found.size:
                return low + int(found[0])
            if self._borders[cut] >= _SENTENCE:
                return cut  # nothing was torn apart here, so words without their sentence add nothing
        return cut
