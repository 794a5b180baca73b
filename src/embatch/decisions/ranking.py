"""From what a store finds by meaning and by words to what a person is shown, best first.

The last decision of a query. Rankings are fused; pieces of one function are one place; and tests stand behind what they
test, unless they are asked for. The weights are those that were best on the questions of `benchmarks/suites/search.py`.
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
    found = [replace(hits[name], score=score) for name, score in fused]
    if not chosen and not _ASKS_FOR_TESTS.search(question):
        found = [replace(hit, score=hit.score * _worth(hit)) for hit in found]
        found.sort(key=lambda hit: -hit.score)  # stable: equal scores stay as they were fused
    return _places(found)


def is_test(path: str) -> bool:
    """Whether a path is that of a test, by the habits of most languages.

    >>> is_test("tests/unit/a.py"), is_test("src/app.spec.ts"), is_test("src/contest/latest.py")
    (True, True, False)
    """
    return _TEST.search(path.lower()) is not None


def _worth(hit: Hit) -> float:
    return TESTS_WEIGHT if is_test(hit.chunk.path) else 1.0


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
