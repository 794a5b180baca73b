"""What is particular to the store in PostgreSQL: publications, editions, sessions, and exact searches by SQL."""

from __future__ import annotations

import math
import threading
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest

from embatch.chunks import Chunk, FileState, Where
from embatch.decisions.vectors import normalized
from embatch.errors import IndexBusyError, IndexMismatchError, IndexNotFoundError, UsageError
from embatch.storage.vectors.matching import document_words, query_words
from embatch.storage.vectors.pgvector import open_reader, open_writer
from embatch.storage.vectors.pgvector_words import FEW
from embatch.types import ModelSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.pgvector.made import Cut, States, Vectors

    from embatch.chunks import ChunkReader, Hit
    from embatch.types import FloatArray

EVERYTHING = Where()


def texts_found(reader: ChunkReader, query: FloatArray) -> list[str]:
    """All texts in the index, sorted."""
    (hits,) = reader.nearest(query[:1], k=10_000, where=EVERYTHING)
    return sorted(hit.chunk.text for hit in hits)


def test_readers_keep_a_publication_and_move_on_when_it_is_gone(
    url: str, spec: ModelSpec, vectors: Vectors, cut: Cut, state: States
) -> None:
    """A reader sees what it opened until it is refreshed, and goes on by itself when the store has dropped that."""
    with_closing = open_writer(url, spec=spec)
    rows = vectors(2)
    with pytest.raises(IndexNotFoundError):
        open_reader(url)
    for number in range(4):
        with_closing.replace([state("a", 2)], cut("a", [f"one {number}", f"two {number}"]), rows)
        with_closing.publish()
        if number == 0:
            reader, other = open_reader(url), open_reader(url)
        if number == 1:
            assert texts_found(reader, rows) == ["one 0", "two 0"]
            assert reader.refresh()
            assert not reader.refresh()
            assert texts_found(reader, rows) == ["one 1", "two 1"]
    assert texts_found(reader, rows) == ["one 3", "two 3"]
    assert reader.refresh(), "it moved on, which its caller has not been told yet"
    assert texts_found(other, rows) == ["one 3", "two 3"]
    assert other.count() == 2
    for opened in (with_closing, reader, other):
        opened.close()
        opened.close()
    with pytest.raises(UsageError, match="closed"):
        reader.nearest(rows[:1], k=1, where=EVERYTHING)
    with pytest.raises(UsageError, match="closed"):
        with_closing.files()


def test_publishing_nothing_is_no_publication(
    url: str, spec: ModelSpec, vectors: Vectors, cut: Cut, state: States
) -> None:
    """`publish` without changes, the same description included, leaves readers where they are."""
    writer = open_writer(url, spec=spec)
    writer.replace([state("a", 1)], cut("a", ["text"]), vectors(1))
    writer.describe({"cut": "by lines"})
    writer.publish()
    reader = open_reader(url)
    writer.describe({"cut": "by lines"})
    writer.publish()
    assert not reader.refresh()
    writer.describe({"cut": "otherwise"})
    assert reader.about == {"cut": "by lines"}
    writer.publish()
    assert reader.refresh()
    assert reader.about == writer.about == {"cut": "otherwise"}
    reader.close()
    writer.close()


def test_any_text_comes_back_as_it_was(url: str, spec: ModelSpec, vectors: Vectors, state: States) -> None:
    """Characters that a database refuses, lone surrogates and numbers beyond 63 bits survive."""
    text = "zero \0 byte, \ud800 surrogate, \\N tab\t, 🙂 'quoted' \r\n"
    chunk = Chunk(
        path="ordner/größe \\x80.py",
        text=text,
        start=3,
        end=3 + len(text),
        start_line=1,
        end_line=2,
        kind="method",
        language="c_sharp",
        symbol="A.b",
        context="class A: \0",
        imports="import a\nimport b",
    )
    note = FileState(
        path=chunk.path,
        size_bytes=2**40,
        mtime_ns=-5,
        inode=2**64 - 1,
        digest=b"\0\xff" * 8,
        chunks=1,
        failed=2,
    )
    writer = open_writer(url, spec=spec)
    writer.replace([note], [chunk], vectors(1))
    writer.publish()
    writer.close()
    writer = open_writer(url, spec=spec)
    assert writer.files() == {chunk.path: note}
    np.testing.assert_array_equal(writer.known([chunk.digest, b"x" * 16])[chunk.digest], vectors(1)[0])
    reader = open_reader(url)
    assert reader.nearest(vectors(1), k=5, where=EVERYTHING)[0][0].chunk == chunk
    assert reader.matching(["surrogate"], k=5, where=EVERYTHING)[0][0].chunk == chunk
    found = reader.at(chunk.path, 2)
    assert found is not None
    assert found[0] == chunk
    assert reader.at("zero\0", 1) is None
    reader.close()
    writer.close()


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


def test_what_was_not_published_waits_for_the_next_writer(
    url: str, spec: ModelSpec, vectors: Vectors, cut: Cut, state: States
) -> None:
    """A writer that ends without publishing leaves its chunks to the next one, unseen by readers."""
    writer = open_writer(url, spec=spec)
    chunks = cut("a", ["one", "two"])
    writer.replace([state("a", 2)], chunks, vectors(2))
    writer.replace([state("b", 1)], cut("b", ["three"]), vectors(1, seed=1))
    writer.remove(["b"])
    writer.close()
    with pytest.raises(IndexNotFoundError):
        open_reader(url)
    writer = open_writer(url, spec=spec)
    assert list(writer.files()) == ["a"]
    assert writer.known([chunk.digest for chunk in chunks]).keys() == {chunk.digest for chunk in chunks}
    writer.publish()
    reader = open_reader(url)
    assert texts_found(reader, vectors(1)) == ["one", "two"]
    moved = cut("moved", ["one", "two"])
    writer.remove(["a"])
    assert len(writer.known([chunk.digest for chunk in moved])) == 2, "a file that has moved costs nothing"
    writer.note([state("c", 0)])
    writer.publish()
    assert reader.refresh()
    assert (reader.count(), reader.stats().files) == (0, 0)
    assert list(writer.files()) == ["c"]
    reader.close()
    writer.close()


def test_a_file_noted_as_empty_loses_its_chunks(
    url: str, spec: ModelSpec, vectors: Vectors, cut: Cut, state: States
) -> None:
    """`note` leaves chunks as they are, unless the state says that there are none any more."""
    writer = open_writer(url, spec=spec)
    writer.replace([state("a", 1), state("b", 1)], cut("a", ["one"]) + cut("b", ["two"]), vectors(2))
    writer.publish()
    writer.note([state("a", 1, mtime=99), state("b", 0)])
    writer.publish()
    reader = open_reader(url)
    assert texts_found(reader, vectors(1)) == ["one"]
    assert writer.files()["a"].mtime_ns == 99
    reader.close()
    writer.close()


def test_wrong_chunks_change_nothing(
    url: str, spec: ModelSpec, vectors: Vectors, cut: Cut, state: States
) -> None:
    """Vectors of another shape, those that are no numbers, and chunks of unknown files are refused."""
    writer = open_writer(url, spec=spec)
    chunks = cut("a", ["one", "two"])
    for rows in (vectors(1), vectors(2, dim=9), np.full((2, 8), np.nan, np.float32)):
        with pytest.raises(UsageError):
            writer.replace([state("a", 2)], chunks, rows)
    with pytest.raises(UsageError):
        writer.replace([state("b", 2)], chunks, vectors(2))
    assert writer.files() == {}
    writer.close()


def test_one_writer_at_a_time(url: str, spec: ModelSpec) -> None:
    """A second writer is told that the index is busy; another index of the same database is not."""
    first = open_writer(url, spec=spec)
    with pytest.raises(IndexBusyError):
        open_writer(url, spec=spec)
    open_writer(f"{url}_other", spec=spec).close()
    first.close()
    open_writer(url, spec=spec).close()


def test_an_index_made_anew_replaces_the_old_one_in_one_step(
    url: str, spec: ModelSpec, vectors: Vectors, cut: Cut, state: States
) -> None:
    """With another model only `fresh` goes on; readers see the old index until the new one is published."""
    writer = open_writer(url, spec=spec)
    writer.replace([state("a", 1)], cut("a", ["old"]), vectors(1))
    writer.publish()
    writer.close()
    reader = open_reader(url)
    other = ModelSpec(model="test/other", revision="2", dimensions=5, max_tokens=64)
    with pytest.raises(IndexMismatchError, match="test/other"):
        open_writer(url, spec=other)
    writer = open_writer(url, spec=other, fresh=True)
    assert writer.files() == {}
    writer.replace([state("a", 1)], cut("a", ["new"]), vectors(1, dim=5))
    writer.close()
    assert not reader.refresh()
    writer = open_writer(url, spec=other)  # a rebuild that was interrupted goes on
    assert list(writer.files()) == ["a"]
    writer.publish()
    assert texts_found(reader, vectors(1)) == ["old"]
    writer.note([state("b", 0)])
    writer.publish()
    with pytest.raises(IndexMismatchError):
        reader.nearest(vectors(1), k=1, where=EVERYTHING)
    assert reader.refresh()
    assert reader.spec == other
    assert texts_found(reader, vectors(1, dim=5)) == ["new"]
    reader.close()
    writer.close()


def test_readers_never_see_half_of_an_update(
    url: str, spec: ModelSpec, vectors: Vectors, cut: Cut, state: States
) -> None:
    """While a writer publishes again and again, every answer of several threads is of one publication, whole."""
    paths = [f"f{number}" for number in range(5)]
    rows = vectors(10)

    def write(version: int) -> None:
        for at, path in enumerate(paths):
            texts = [f"version {version} {path} one", f"version {version} {path} two"]
            writer.replace([state(path, 2)], cut(path, texts), rows[2 * at : 2 * at + 2])
        writer.publish()

    writer = open_writer(url, spec=spec)
    write(0)
    reader = open_reader(url)
    done = threading.Event()
    answers: list[list[str]] = []

    def look(search: Callable[[], list[Hit]]) -> None:
        while not done.is_set():
            answers.append([hit.chunk.text for hit in search()])

    def by_vector() -> list[Hit]:
        reader.refresh()
        return reader.nearest(rows[:1], k=99, where=EVERYTHING)[0]

    def by_words() -> list[Hit]:
        return reader.matching(["version"], k=99, where=Where(paths=("f*",)))[0]

    threads = [threading.Thread(target=look, args=(search,)) for search in (by_vector, by_words, by_words)]
    for thread in threads:
        thread.start()
    for version in range(1, 25):
        write(version)
    done.set()
    for thread in threads:
        thread.join()
    versions = [{text.split()[1] for text in answer} for answer in answers]
    assert {len(answer) for answer in answers} == {10}
    assert {len(seen) for seen in versions} == {1}
    assert len(set.union(*versions)) > 1
    reader.close()
    writer.close()
