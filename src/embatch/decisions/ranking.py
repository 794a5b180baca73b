"""From what a store finds by meaning and by words to what a person is shown, best first.

The last decision of a query. Rankings are fused; a file in which several places fit is more likely to be the right one;
tests stand behind what they test, unless they are asked for; pieces of one function are one place. The weights lie in
the middle of a range in which the questions of `benchmarks/suites/search.py` are answered about equally well.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from embatch.decisions.fusion import fuse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.chunks import Hit

DEPTH = 100
"""So many of each ranking are looked at, at least: what is far down in one may be high in the other."""

WORDS_WEIGHT = 0.75
"""What the ranking by words counts beside the one by meaning."""

CONSTANT = 30.0
"""Of the fusion: how little the first ranks stand out."""

TESTS_WEIGHT = 0.7
"""What the fused score of a chunk of a test is worth."""

HEAD_WEIGHT = 0.8
"""The same of a run of imports and constants without a name: it mentions much and does little."""

FILE_WEIGHT = 0.75
"""What the best other hit of the same file adds to a hit's score."""

_TEST = re.compile(
    r"(?:^|/)(?:tests?|__tests__|specs?|testing)/"  # a folder
    r"|(?:^|/)test_[^/]*$|[._](?:test|spec)\.\w+$"  # a file
)
_ASKS_FOR_TESTS = re.compile(
    r"\b(?:(?:unit)?tests?|tested|testing|specs?|pytest|fixtures?|mock(?:s|ed)?)\b", re.IGNORECASE
)


def ranked(question: str, near: Sequence[Hit], matching: Sequence[Hit], *, chosen: bool = False) -> list[Hit]:
    """The hits of one question, best first, each place once.

    A hit of both rankings has the fused score; where there is but one ranking, hits keep the scores that they have.

    Args:
        question: as it was asked.
        near: by meaning; empty if that does not count.
        matching: by words; empty if that does not count.
        chosen: whether whoever asks has said where to look: then tests are as good as anything.
    """
    if not near or not matching:
        return _places(list(near) or list(matching))
    hits = {hit.id: hit for hit in (*matching, *near)}
    fused = fuse(
        [[hit.id for hit in near], [hit.id for hit in matching]],
        weights=[1.0, WORDS_WEIGHT],
        constant=CONSTANT,
    )
    all_alike = chosen or _ASKS_FOR_TESTS.search(question) is not None
    own = [
        replace(hits[name], score=score * _worth(hits[name], all_alike=all_alike)) for name, score in fused
    ]
    found = _with_files(own)
    found.sort(key=lambda hit: -hit.score)  # stable: equal scores stay as they were fused
    return _places(found)


def is_test(path: str) -> bool:
    """Whether a path is that of a test, by the habits of most languages.

    >>> is_test("tests/unit/a.py"), is_test("src/app.spec.ts"), is_test("src/contest/latest.py")
    (True, True, False)
    """
    return _TEST.search(path.lower()) is not None


def _worth(hit: Hit, *, all_alike: bool) -> float:
    chunk = hit.chunk
    worth = HEAD_WEIGHT if chunk.kind == "block" and not chunk.symbol else 1.0
    return worth if all_alike or not is_test(chunk.path) else worth * TESTS_WEIGHT


def _with_files(hits: Sequence[Hit]) -> list[Hit]:
    """The hits with what the best other one of their file adds."""
    best: dict[str, list[float]] = {}  # path -> its two highest scores
    for hit in hits:
        best[hit.chunk.path] = sorted([*best.get(hit.chunk.path, ()), hit.score], reverse=True)[:2]
    found = []
    for hit in hits:
        first, second = (*best[hit.chunk.path], 0.0)[:2]
        other = second if hit.score == first else first
        found.append(replace(hit, score=hit.score + FILE_WEIGHT * other))
    return found


def _places(hits: list[Hit]) -> list[Hit]:
    """Without further pieces of a function that stands higher up."""
    seen: set[tuple[str, str, str]] = set()
    kept = []
    for hit in hits:
        chunk = hit.chunk
        place = (chunk.path, chunk.kind, chunk.symbol)
        if chunk.kind in {"function", "method"} and chunk.symbol:
            if place in seen:
                continue
            seen.add(place)
        kept.append(hit)
    return kept
