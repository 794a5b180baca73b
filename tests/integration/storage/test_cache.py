"""The cache in a file: several models, several processes, damage, and pruning."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pytest

from embatch.errors import OutputError, UsageError
from embatch.storage.cache import VectorCache

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from embatch.types import FloatArray

    class Texts(Protocol):
        def __call__(self, count: int, *, first: int = 0) -> tuple[list[bytes], FloatArray]: ...


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., VectorCache]:
    """Opens the test's cache file: `opened()`, or `opened("other")` for another fingerprint."""

    def make(fingerprint: str = "one", dimensions: int = 6) -> VectorCache:
        return VectorCache(tmp_path / "cache.sqlite", fingerprint=fingerprint, dimensions=dimensions)

    return make


def test_fingerprints_never_mix(opened: Callable[..., VectorCache], texts: Texts) -> None:
    """The same digest under two models has two vectors, whoever wrote first, and they may differ in length."""
    digests, vectors = texts(400)
    with closing(opened("one")) as one, closing(opened("two", 3)) as two:
        one.put(digests, vectors)
        assert two.get(digests) == {}
        two.put(digests[::2], vectors[::2, :3] + 1)
    with closing(opened("one")) as one, closing(opened("two", 3)) as two:
        found = one.get(digests)
        assert all((found[d] == v).all() for d, v in zip(digests, vectors, strict=True))
        found = two.get(digests)
        assert sorted(found) == sorted(digests[::2])
        assert all((found[d] == v).all() for d, v in zip(digests[::2], vectors[::2, :3] + 1, strict=True))
        assert (one.count(), two.count()) == (400, 200)


def test_two_writers_share_a_file(opened: Callable[..., VectorCache], texts: Texts) -> None:
    """Each sees what the other has put once it is indexed, and what both put is one vector."""
    digests, vectors = texts(300)
    first, second = opened(), opened()
    first.put(digests[:200], vectors[:200])
    second.put(digests[100:], vectors[100:])
    first.close()
    assert len(second.get(digests)) == 300
    second.close()
    with closing(opened()) as third:
        assert third.count() == 300


def test_rows_not_yet_indexed_survive(opened: Callable[..., VectorCache], texts: Texts) -> None:
    """A process that ends without closing leaves its rows to be indexed by the next."""
    digests, vectors = texts(300)
    cache = opened()
    cache.put(digests, vectors)
    cache.release()
    with closing(opened()) as cache:
        assert len(cache.get(digests)) == 300


def test_use_after_close_is_named(opened: Callable[..., VectorCache], texts: Texts) -> None:
    """A closed store says so."""
    cache = opened()
    cache.close()
    with pytest.raises(UsageError, match="closed"):
        cache.get(texts(1)[0])


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE blocks SET vectors = substr(vectors, 1, 40)",
        "UPDATE blocks SET vectors = zeroblob(length(vectors))",
        "UPDATE blocks SET vectors = NULL",
        "UPDATE blocks SET vectors = 'text'",
        "UPDATE blocks SET count = count - 1",
        "UPDATE blocks SET checksum = checksum + 1",
        "UPDATE blocks SET digests = zeroblob(length(digests))",
        "UPDATE vectors SET row = row + 1",
        "UPDATE vectors SET row = -1",
        "UPDATE vectors SET block = 99",
        "DELETE FROM blocks",
    ],
)
def test_damaged_rows_are_absent_and_can_be_stored_again(
    opened: Callable[..., VectorCache], tmp_path: Path, texts: Texts, damage: str
) -> None:
    """A block or index row that is not what was written never gives a vector, and a new `put` heals it."""
    digests, vectors = texts(50)
    with closing(opened()) as cache:
        cache.put(digests, vectors)
    with closing(sqlite3.connect(tmp_path / "cache.sqlite")) as raw, raw:
        raw.execute("PRAGMA ignore_check_constraints = ON")
        raw.execute(damage.replace("vectors = NULL", "vectors = x''"))
    with closing(opened()) as cache:
        assert cache.get(digests) == {}
        cache.put(digests, vectors)
        found = cache.get(digests)
    assert all((found[d] == v).all() for d, v in zip(digests, vectors, strict=True))


def test_no_damage_to_the_file_gives_a_wrong_vector(
    opened: Callable[..., VectorCache], tmp_path: Path, texts: Texts
) -> None:
    """Bytes overwritten anywhere end as a missing vector or a named error, never as another vector."""
    digests, vectors = texts(3000)
    with closing(opened()) as cache:
        for start in range(0, 3000, 100):
            cache.put(digests[start : start + 100], vectors[start : start + 100])
    sound = (tmp_path / "cache.sqlite").read_bytes()
    rng = random.Random(5)
    answers = 0
    for _ in range(60):
        data = bytearray(sound)
        at = rng.randrange(len(data))
        data[at : at + rng.choice([1, 16, 500])] = rng.randbytes(rng.choice([1, 16, 500]))
        (tmp_path / "cache.sqlite").write_bytes(data[: len(sound)])
        try:
            with closing(opened()) as cache:
                found = cache.get(digests)
        except OutputError:
            continue
        answers += len(found)
        assert all((found[d] == v).all() for d, v in zip(digests, vectors, strict=True) if d in found)
    assert answers > 0


def test_pruning_drops_the_oldest(opened: Callable[..., VectorCache], tmp_path: Path, texts: Texts) -> None:
    """The file ends within the size asked for, the newest rows are all there, the oldest are gone."""
    digests, vectors = texts(10_000)
    vectors = np.tile(vectors, (1, 16))
    with closing(opened("wide", 96)) as cache:
        for start in range(0, 10_000, 1000):
            cache.put(digests[start : start + 1000], vectors[start : start + 1000])
        half = cache.size() // 2
        freed = cache.prune(half)
        assert freed > 0
        assert cache.size() <= half
        found = cache.get(digests)
        kept = [digest in found for digest in digests]
        assert kept == sorted(kept)
        assert 3_500 < sum(kept) < 6_000
        assert all((found[d] == v).all() for d, v in zip(digests, vectors, strict=True) if d in found)
        assert cache.count() == sum(kept)
        assert (tmp_path / "cache.sqlite").stat().st_size <= half + 100_000
        cache.put(digests[:10], vectors[:10])
        assert len(cache.get(digests[:10])) == 10


def test_pruning_to_nothing_and_to_more_than_there_is(
    opened: Callable[..., VectorCache], texts: Texts
) -> None:
    """A limit above the size changes nothing; a limit of zero empties the cache, which then works on."""
    digests, vectors = texts(500)
    with closing(opened()) as cache:
        cache.put(digests, vectors)
        assert cache.prune(10**9) == 0
        assert cache.count() == 500
        cache.prune(0)
        assert cache.get(digests) == {}
        cache.put(digests, vectors)
        assert len(cache.get(digests)) == 500


def test_another_process_never_takes_a_new_block_for_an_old_one(
    opened: Callable[..., VectorCache], texts: Texts
) -> None:
    """One that has read blocks before they were pruned answers from what is stored now, or not at all."""
    digests, vectors = texts(200)
    with closing(opened()) as reader, closing(opened()) as writer:
        reader.put(digests[:100], vectors[:100])
        writer.prune(0)
        writer.put(digests[100:], vectors[100:])
        writer.prune(10**9)
        found = reader.get(digests)
        for digest, vector in zip(digests, vectors, strict=True):
            if digest in found:
                np.testing.assert_array_equal(found[digest], vector)


def test_large_vectors_make_blocks_of_few_rows(opened: Callable[..., VectorCache]) -> None:
    """Any dimension works, one beyond the size of a block included."""
    vectors = np.random.default_rng(0).random((3, 100_000), dtype=np.float32)
    digests = [bytes([i]) * 16 for i in range(3)]
    with closing(opened("long", 100_000)) as cache:
        cache.put(digests, vectors)
        found = cache.get(digests)
    np.testing.assert_array_equal(np.stack([found[d] for d in digests]), vectors)
