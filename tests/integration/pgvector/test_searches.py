"""What both searches find in PostgreSQL: scores by their formulas, filters, and queries without a syntax."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest

from embatch.chunks import Chunk, Where
from embatch.decisions.vectors import normalized
from embatch.errors import IndexMismatchError
from embatch.storage.vectors.matching import document_words, query_words
from embatch.storage.vectors.pgvector import open_reader, open_writer
from embatch.storage.vectors.pgvector_words import FEW

if TYPE_CHECKING:
    from tests.integration.pgvector.made import Cut, States, Vectors

    from embatch.types import ModelSpec


EVERYTHING = Where()


def bm25(chunks: list[Chunk], query: str) -> dict[str, float]:
    """Scores by the formula, written down once more: by start of the text."""
    documents = {chunk.text: Counter(document_words(chunk).split()) for chunk in chunks}
    average = sum(words.total() for words in documents.values()) / len(documents)
    frequencies = Counter(word for words in documents.values() for word in words)
    scores: dict[str, float] = {}
    for text, words in documents.items():
        score = 0.0
        for word in query_words(query):
            having = frequencies[word]
            idf = math.log(1 + (len(documents) - having + 0.5) / (having + 0.5))
            norm = 1.2 * (0.25 + 0.75 * words.total() / average)
            score += idf * 2.2 * words[word] / (words[word] + norm)
        if score:
            scores[text] = score
    return scores


def test_words_are_ranked_by_bm25(
    url: str, spec: ModelSpec, vectors: Vectors, cut: Cut, state: States
) -> None:
    """Scores are those of the formula, also for words that occur often, and dropped chunks do not count."""
    rng = np.random.default_rng(5)
    names = ["batchSize", "retry_policy", "socket", "timeout", "parse", "json", "it's", "a\\b"]
    texts = [" ".join(rng.choice(names, size=rng.integers(1, 60))) for _ in range(60)]
    chunks = cut("src/a.py", texts)
    writer = open_writer(url, spec=spec)
    writer.replace([state("b.py", 30)], cut("b.py", ["timeout json"] * 30), vectors(30))
    writer.replace([state("src/a.py", 60)], chunks, vectors(60))
    writer.publish()
    writer.remove(["b.py"])
    writer.publish()
    reader = open_reader(url)
    for query in ("batch", "timeout of a socket", "retry_policy", "json json size", "a\\b it's"):
        expected = bm25(chunks, query)
        (hits,) = reader.matching([query], k=100, where=EVERYTHING)
        assert {hit.chunk.text: hit.score for hit in hits} == pytest.approx(expected, rel=1e-5)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    reader.close()
    writer.close()


def test_common_words_do_not_change_what_is_best(
    url: str, spec: ModelSpec, vectors: Vectors, cut: Cut, state: States
) -> None:
    """A word that is in more chunks than are looked at first counts all the same, and fills up what is missing."""
    number = FEW + 500
    texts = [f"common {'filler ' * (at % 7)}{'rare ' * (at % 1500 == 3)}n{at}" for at in range(number)]
    chunks = cut("a.py", texts)
    writer = open_writer(url, spec=spec)
    writer.replace([state("a.py", number)], chunks, vectors(number))
    writer.publish()
    writer.close()
    reader = open_reader(url)
    best = sorted(bm25(chunks, "common rare").values(), reverse=True)
    for k in (2, 3, 20):
        (hits,) = reader.matching(["common rare"], k=k, where=EVERYTHING)
        assert [hit.score for hit in hits] == pytest.approx(best[:k], rel=1e-5)
    (common,) = reader.matching(["common"], k=5, where=EVERYTHING)
    assert len(common) == 5
    reader.close()


@pytest.mark.parametrize(
    "query", ["'", "\\", "a & | ! <-> :*", "%s %(k)s {n}", '"', "\0", "", "(((", "absent"]
)
def test_queries_have_no_syntax(
    query: str, url: str, spec: ModelSpec, vectors: Vectors, cut: Cut, state: States
) -> None:
    """Signs mean nothing in a query."""
    writer = open_writer(url, spec=spec)
    writer.replace([state("x", 1)], cut("x", ["some words"]), vectors(1))
    writer.publish()
    writer.close()
    reader = open_reader(url)
    one, two = reader.matching([query, f"{query} words"], k=3, where=EVERYTHING)
    assert one == []
    assert [hit.chunk.text for hit in two] == ["some words"]
    reader.close()


def test_only_what_a_filter_allows_is_found(
    url: str, spec: ModelSpec, vectors: Vectors, cut: Cut, state: States
) -> None:
    """Patterns, languages and kinds narrow both searches, alone and together."""
    writer = open_writer(url, spec=spec)
    kinds = {
        "src/a.py": ("python", "function"),
        "src/deep/b.go": ("go", "method"),
        "doc/c.md": ("markdown", "section"),
    }
    for path, (language, kind) in kinds.items():
        writer.replace(
            [state(path, 2)], cut(path, ["word", "word more"], language=language, kind=kind), vectors(2)
        )
    writer.publish()
    reader = open_reader(url)
    for where, expected in (
        (Where(paths=("src/**",)), {"src/a.py", "src/deep/b.go"}),
        (Where(paths=("src/*",)), {"src/a.py"}),
        (Where(paths=("!**/*.md",), languages=("go", "markdown")), {"src/deep/b.go"}),
        (Where(kinds=("section", "function")), {"src/a.py", "doc/c.md"}),
        (Where(paths=("nowhere",)), set()),
        (Where(languages=("cobol",)), set()),
    ):
        near = reader.nearest(vectors(1), k=10, where=where)[0]
        words = reader.matching(["word"], k=10, where=where)[0]
        assert {hit.chunk.path for hit in near} == {hit.chunk.path for hit in words} == expected
        assert {hit.id for hit in near} == {hit.id for hit in words}
        assert len(near) == 2 * len(expected)
    assert reader.stats().by_language == {"python": 2, "go": 2, "markdown": 2}
    assert reader.stats().files == 3
    assert reader.stats().bytes > 0
    reader.close()
    writer.close()


def test_searches_by_vectors_are_exact(
    url: str, spec: ModelSpec, vectors: Vectors, cut: Cut, state: States
) -> None:
    """Order and scores are those of cosines; a vector of zeros is like none other, and finds all alike."""
    rows = 3 * vectors(50)
    rows[7] = 0
    writer = open_writer(url, spec=spec)
    writer.replace([state("x", 50)], cut("x", [f"{number} text" for number in range(50)]), rows)
    writer.publish()
    reader = open_reader(url)
    queries = vectors(3, seed=9)
    cosines = queries @ normalized(rows).T
    for hits, scores in zip(reader.nearest(queries, k=50, where=EVERYTHING), cosines, strict=True):
        assert [hit.score for hit in hits] == pytest.approx(sorted(scores.tolist(), reverse=True), abs=1e-5)
        assert [int(hit.chunk.text.split()[0]) for hit in hits[:10]] == np.argsort(-scores)[:10].tolist()
    (hits,) = reader.nearest(np.zeros((1, 8), np.float32), k=3, where=EVERYTHING)
    assert [hit.score for hit in hits] == [0, 0, 0]
    assert reader.nearest(np.zeros((0, 8), np.float32), k=3, where=EVERYTHING) == []
    assert reader.nearest(queries[:1], k=0, where=EVERYTHING) == [[]]
    with pytest.raises(IndexMismatchError):
        reader.nearest(np.zeros((1, 9), np.float32), k=3, where=EVERYTHING)
    reader.close()
    writer.close()
