"""What every `VectorStore` does: the cache, a run's journal, one in memory, and one that several specs share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import pytest

from embatch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from embatch.types import FloatArray, VectorStore

    class Texts(Protocol):
        def __call__(self, count: int, *, first: int = 0) -> tuple[list[bytes], FloatArray]: ...


def assert_holds(store: VectorStore, digests: list[bytes], vectors: FloatArray) -> None:
    """Every digest is there with its own vector, and in the shape that was promised."""
    found = store.get(digests)
    assert sorted(found) == sorted(set(digests))
    for digest, vector in zip(digests, vectors, strict=True):
        assert found[digest].shape == vector.shape
        assert found[digest].dtype == np.float32
        np.testing.assert_array_equal(found[digest], vector)


def test_an_empty_store_finds_nothing(store: VectorStore, texts: Texts) -> None:
    """Digests that were never stored are missing from the answer, and asking for none is allowed."""
    assert store.get(texts(3)[0]) == {}
    assert store.get([]) == {}


@pytest.mark.parametrize("count", [1, 32, 5000])
def test_what_was_put_is_found(store: VectorStore, texts: Texts, count: int) -> None:
    """Each digest gives its own vector, in small and in large calls."""
    digests, vectors = texts(count)
    store.put(digests, vectors)
    assert_holds(store, digests, vectors)


def test_only_what_is_stored_is_answered(store: VectorStore, texts: Texts) -> None:
    """Known and unknown digests may be mixed and repeated."""
    digests, vectors = texts(10)
    store.put(digests[::2], vectors[::2])
    assert sorted(store.get([*digests, *digests])) == sorted(digests[::2])


def test_many_small_puts_add_up(store: VectorStore, texts: Texts) -> None:
    """Twenty thousand rows in pieces of uneven size are all found, from the first to the last."""
    digests, vectors = texts(20_000)
    start = 0
    for size in [*([7, 64, 1, 300] * 50), 20_000]:
        store.put(digests[start : start + size], vectors[start : start + size])
        start += size
    assert_holds(store, digests, vectors)


def test_a_known_digest_keeps_its_vector(store: VectorStore, texts: Texts) -> None:
    """The first vector stays, within one call, between calls, and beside new digests."""
    digests, vectors = texts(4)
    store.put(digests[:2], vectors[:2])
    store.put([*digests, digests[3]], np.vstack([vectors[2:], vectors[2:], vectors[:1]]) + 1)
    assert_holds(store, digests[:2], vectors[:2])
    assert_holds(store, digests[2:], vectors[2:] + 1)


def test_nothing_put_is_nothing_changed(store: VectorStore, texts: Texts) -> None:
    """No digests and `(0, dim)` vectors are an ordinary call."""
    digests, vectors = texts(1)
    store.put([], vectors[:0])
    assert store.get(digests) == {}


def test_rows_that_are_not_finite_are_left_out(store: VectorStore, texts: Texts) -> None:
    """NaN and infinity are never handed back as vectors; the other rows of the call are stored."""
    digests, vectors = texts(4)
    broken = vectors.copy()
    broken[1, 0], broken[2, 3] = np.nan, np.inf
    store.put(digests, broken)
    assert_holds(store, [digests[0], digests[3]], vectors[[0, 3]])
    assert store.get(digests[1:3]) == {}


def test_vectors_that_are_views_are_stored_as_they_read(store: VectorStore, texts: Texts) -> None:
    """Strided, reversed and double-precision arrays give the same rows."""
    digests, vectors = texts(8)
    store.put(digests[:4], vectors[3::-1])
    store.put(digests[4:], vectors[4:].astype(np.float64))
    assert_holds(store, digests[:4], vectors[3::-1])
    assert_holds(store, digests[4:], vectors[4:])


def test_answers_belong_to_the_caller(store: VectorStore, texts: Texts) -> None:
    """Changing an answer, or the array that was put, changes nothing that is stored."""
    digests, vectors = texts(3)
    mine = vectors.copy()
    store.put(digests, mine)
    mine[:] = -1
    store.get(digests)[digests[0]][:] = -1
    assert_holds(store, digests, vectors)


def test_counts_that_differ_are_refused(store: VectorStore, texts: Texts) -> None:
    """Two digests and three vectors are a mistake of the caller, and nothing is stored."""
    digests, vectors = texts(3)
    with pytest.raises(UsageError):
        store.put(digests[:2], vectors)
    assert store.get(digests) == {}


def test_closing_twice_is_allowed(store: VectorStore) -> None:
    """`close` may be called again."""
    store.close()
    store.close()


def test_an_empty_store_is_true(store: VectorStore) -> None:
    """`store or default` must not pass over a store because it is empty."""
    assert bool(store)


def test_vectors_outlive_the_store(reopen: Callable[[], VectorStore], texts: Texts) -> None:
    """What was put before closing is there after opening, three times over."""
    digests, vectors = texts(900)
    for start in (0, 300, 600):
        store = reopen()
        store.put(digests[start : start + 300], vectors[start : start + 300])
        assert_holds(store, digests[: start + 300], vectors[: start + 300])
        store.close()


def test_vectors_of_another_length_are_refused(reopen: Callable[[], VectorStore], texts: Texts) -> None:
    """A store knows its dimensions."""
    store = reopen()
    with pytest.raises(UsageError, match="6 dimensions"):
        store.put(texts(2)[0], np.ones((2, 5), dtype=np.float32))
    store.close()


def test_digests_of_another_length_are_refused(reopen: Callable[[], VectorStore], texts: Texts) -> None:
    """A digest has 16 bytes; anything else is a mistake of the caller."""
    store = reopen()
    with pytest.raises(UsageError, match="16 bytes"):
        store.put([b"short"], texts(1)[1])
    with pytest.raises(UsageError, match="16 bytes"):
        store.get([b"short"])
    store.close()
