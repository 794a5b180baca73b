"""Chunks and queries as words for PostgreSQL's full text search, and BM25 in its terms.

Words are `matching`'s, the same in every store, not those of a configuration of the server. PostgreSQL
finds rows by an index over words, and its `ts_rank` tells how often each word is in a row at the speed of C; how many
chunks have it comes from a table. Pure: statements run elsewhere.

BM25 as in Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework", with Lucene's idf: never negative.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from embatch.storage.vectors.matching import document_words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embatch.chunks import Chunk

K1, B = 1.2, 0.75

_MOST_COUNTED = 64
"""Occurrences beyond this add less than 2% to a score."""

_MOST_WORDS = 32
"""Of a query: the rarest. More is a text, not a question, and costs time for each chunk that is looked at."""

FEW, MANY = 4000, 20_000
"""Chunks that are scored at first and at most: those with the rarest words of the query, unless one word has more."""

# ts_rank of one word that occurs n times is (1 + 1/4 + ... + 1/n²) · 6/π²: halfway between two is the border.
_SHARES = [sum(6 / (math.pi * i) ** 2 for i in range(1, n + 1)) for n in range(_MOST_COUNTED + 1)]
_BORDERS = ",".join(f"{(low + high) / 2:.9f}" for low, high in pairwise(_SHARES))
_COUNT = f"width_bucket(ts_rank('{{1,1,1,1}}', words, %(word_I)s::tsquery), '{{{_BORDERS}}}'::real[])"
_NORM = f"({K1 * (1 - B)} + {K1 * B} * length / %(average)s::float8)"
# idf · (k1 + 1) · count / (count + norm), written so that the count stands there once.
_TERM = f"%(idf_I)s * {K1 + 1} * (1 - {_NORM} / ({_COUNT} + {_NORM}))"


@dataclass(frozen=True, slots=True)
class Ranking:
    """What finds and scores the chunks of one query."""

    score: str
    """An expression of SQL over a row of `words`."""
    parameters: Mapping[str, Any]
    """`query`, what selects rows, and what the score needs."""
    missed: float
    """A chunk that is not selected scores less than this; 0.0 if all with any of the words are."""


def words_of(chunk: Chunk) -> Counter[str]:
    """The words that a chunk is found by, each as often as it is there."""
    return Counter(document_words(chunk).split())


def as_tsvector(words: Mapping[str, int]) -> str:
    """Words as PostgreSQL reads them, each with as many positions as it occurs."""
    return " ".join(
        f"{_quoted(word)}:{_POSITIONS[min(count, _MOST_COUNTED)]}" for word, count in words.items()
    )


def ranking(frequencies: Mapping[str, int], *, chunks: int, average: float, room: int) -> Ranking:
    """BM25 for a query.

    Args:
        frequencies: the query's words, and in how many chunks each is; at least one.
        chunks: how many there are.
        average: words of a chunk on average.
        room: select the chunks with the rarest words while they are so many at most, the first word's always.
    """
    rarest = sorted(frequencies, key=lambda word: (frequencies[word], word))[:_MOST_WORDS]
    selected = max(1, sum(total <= room for total in accumulate(frequencies[word] for word in rarest)))
    parameters: dict[str, Any] = {"average": max(average, 1.0), "query": _any_of(rarest[:selected])}
    idf: list[float] = []
    for number, word in enumerate(rarest):
        found = frequencies[word]
        idf.append(math.log1p(max(0.0, chunks - found + 0.5) / (found + 0.5)))
        parameters[f"word_{number}"] = _quoted(word)
        parameters[f"idf_{number}"] = idf[-1]
    score = " + ".join(_TERM.replace("_I)", f"_{number})") for number in range(len(rarest)))
    return Ranking(score, parameters, (K1 + 1) * sum(idf[selected:]))


_POSITIONS = ["", *(",".join(map(str, range(1, n + 1))) for n in range(1, _MOST_COUNTED + 1))]


def _any_of(words: Sequence[str]) -> str:
    return " | ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"
