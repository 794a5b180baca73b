"""What is particular to the store in PostgreSQL: publications, editions, sessions, and exact searches by SQL."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from embatch.chunks import Chunk, FileState, Where
from embatch.errors import IndexBusyError, IndexMismatchError, IndexNotFoundError, UsageError
from embatch.storage.vectors.pgvector import open_reader, open_writer
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
