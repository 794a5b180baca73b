"""Every `VectorStore`, opened anew for each test, and vectors that tell from which text they come."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pytest

from embatch.storage.cache import MemoryStore, VectorCache
from embatch.storage.journal import RunJournal
from embatch.storage.per_spec import PerSpec
from embatch.types import ModelSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from embatch.types import FloatArray, VectorStore

DIMENSIONS = 6
SPEC = ModelSpec(model="test/model", revision="1", dimensions=DIMENSIONS, max_tokens=64)


class Texts(Protocol):
    """Digests and vectors of `count` texts from number `first` on."""

    def __call__(self, count: int, *, first: int = 0) -> tuple[list[bytes], FloatArray]: ...


@pytest.fixture
def texts() -> Texts:
    """`texts(5)` gives five digests and their vectors; a vector out of place shows."""

    def make(count: int, *, first: int = 0) -> tuple[list[bytes], FloatArray]:
        numbers = range(first, first + count)
        digests = [hashlib.blake2b(str(n).encode(), digest_size=16).digest() for n in numbers]
        rows = [np.frombuffer(digest[:DIMENSIONS], dtype=np.uint8) for digest in digests]
        vectors = np.array(rows, dtype=np.float32).reshape(count, DIMENSIONS) / np.float32(255)
        return digests, vectors.astype(np.float32)

    return make


def memory(_: Path) -> VectorStore:
    return MemoryStore()


def cache(folder: Path) -> VectorStore:
    return VectorCache(folder / "cache.sqlite", fingerprint=SPEC.fingerprint, dimensions=DIMENSIONS)


def journal(folder: Path) -> VectorStore:
    return RunJournal.open(folder / "out.parquet", spec=SPEC, settings={}, signature=None)


def shared(_: Path) -> VectorStore:
    return PerSpec(MemoryStore(), SPEC.fingerprint, threading.Lock())


KINDS: dict[str, Callable[[Path], VectorStore]] = {
    "memory": memory,
    "cache": cache,
    "journal": journal,
    "shared": shared,
}
LASTING: Sequence[str] = ("cache", "journal")


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VectorStore]:
    """Each kind of store, empty and open."""
    opened = KINDS[request.param](tmp_path)
    yield opened
    opened.close()


@pytest.fixture(params=LASTING)
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], VectorStore]:
    """Opens the store of one test, each time that it is called, for each kind that outlives the process."""
    return lambda: KINDS[request.param](tmp_path)
