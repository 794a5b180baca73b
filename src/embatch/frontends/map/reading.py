"""What a map shows of an index: its chunks, shortened, and their vectors, reduced, read in bounded memory.

Two passes: the first looks at a sample to find the directions in which vectors differ most, the second reads all that
is shown and keeps of each vector only these directions. It lays nothing out and writes nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from textwrap import dedent
from typing import TYPE_CHECKING, Protocol

import numpy as np

from embatch.errors import IndexBrokenError, SearchIndexError
from embatch.frontends.map.projection import Axes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from embatch.chunks import Chunk
    from embatch.types import FloatArray, ModelSpec

    Tell = Callable[[str, int, int], None]
    """Is told what goes on, how much of it is done, and of how much; 0 if that is not known."""

BASIS_ROWS = 10_000
"""Vectors that the directions are taken from: in 50 directions, more change nothing that can be seen."""
EXCERPTS_CHARS = 9_000_000
"""Of all excerpts together, so that the page stays loadable."""
_LONGEST, _SHORTEST = 320, 60
_BLANK = re.compile(r"[ \t]*\n\s*\n")


class Scannable(Protocol):
    """A reader of a store that can show all of it. Both stores' readers can."""

    @property
    def spec(self) -> ModelSpec:
        """The model that its vectors were made with."""
        ...

    def count(self) -> int:
        """Chunks in it."""
        ...

    def scan(self, most: int, *, seed: int = 0) -> Iterator[tuple[list[Chunk], FloatArray]]:
        """At most `most` chunks with their vectors, a sample of more that `seed` names."""
        ...

    def refresh(self) -> bool:
        """Look for something newer."""
        ...

    def close(self) -> None:
        """Release it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A chunk, as far as a map shows it."""

    path: str
    start_line: int
    end_line: int
    symbol: str
    kind: str
    language: str
    excerpt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """What was read of an index."""

    spots: list[Spot]
    reduced: FloatArray
    """`(n, at most 50)` float32; row `i` belongs to `spots[i]`."""
    chunks: int
    """In the index, shown or not."""
    spec: ModelSpec


def read_corpus(reader: Scannable, *, most: int, seed: int, tell: Tell) -> Corpus:
    """Read what a map shows.

    Args:
        reader: the index. Stays open.
        most: chunks that are shown; more are sampled.
        seed: names the sample.
        tell: see `Tell`.

    Raises:
        SearchIndexError: it is empty, or cannot be read.
    """
    try:
        return _read(reader, most, seed, tell)
    except IndexBrokenError:
        if not reader.refresh():
            raise
    return _read(reader, most, seed, tell)  # it was replaced while it was read


def _read(reader: Scannable, most: int, seed: int, tell: Tell) -> Corpus:
    chunks = reader.count()
    if not chunks:
        raise SearchIndexError(
            "The index is empty: there is nothing to draw.", hint="Fill it with `embatch index PATH`."
        )
    tell("looking at vectors", 0, 0)
    axes = Axes.of(np.concatenate([_finite(vectors) for _, vectors in reader.scan(BASIS_ROWS, seed=seed)]))
    shown = min(chunks, most)
    length = min(max(EXCERPTS_CHARS // shown, _SHORTEST), _LONGEST)
    spots: list[Spot] = []
    parts: list[FloatArray] = []
    for read, vectors in reader.scan(most, seed=seed):
        spots += [_spot(chunk, length) for chunk in read]
        parts.append(axes.reduce(_finite(vectors)))
        tell("reading", len(spots), shown)
    return Corpus(spots=spots, reduced=np.concatenate(parts), chunks=chunks, spec=reader.spec)


def _finite(vectors: FloatArray) -> FloatArray:
    """Vectors of unit length; nothing that is not a number, whoever wrote it."""
    rows = np.nan_to_num(vectors, nan=0.0, posinf=0.0, neginf=0.0)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: FloatArray = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return unit


def _spot(chunk: Chunk, length: int) -> Spot:
    return Spot(
        path=_clean(chunk.path),
        start_line=chunk.start_line,
        end_line=chunk.end_line,
        symbol=_clean(chunk.symbol),
        kind=chunk.kind,
        language=chunk.language,
        excerpt=excerpt_of(chunk.text, length),
    )


def excerpt_of(text: str, length: int) -> str:
    """The beginning of a text without blank lines and common indents, at most `length` characters long."""
    head = dedent(_BLANK.sub("\n", f"\n{_clean(text[: 4 * length]).rstrip()}")).lstrip("\n")
    if len(head) <= length and len(text) <= 4 * length:
        return head
    return head[: length - 1].rstrip() + "…"


def _clean(text: str) -> str:
    """Without halves of surrogate pairs, which no file in UTF-8 can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
