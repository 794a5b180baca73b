"""A server, indexes of their own in it, and chunks to put there."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.integration.pgvector.server import Server, shared_server

from embatch.chunks import Chunk, FileState
from embatch.decisions.vectors import normalized
from embatch.types import ModelSpec

if TYPE_CHECKING:
    from tests.integration.pgvector.made import Cut, States, Vectors

    from embatch.types import FloatArray

_NUMBERS = count(1)


@pytest.fixture(scope="session")
def server() -> Server:
    """A PostgreSQL with pgvector."""
    return shared_server()


@pytest.fixture
def url(server: Server) -> str:
    """The location of an index that no other test uses."""
    return f"{server.url()}#test_{next(_NUMBERS)}"


@pytest.fixture
def spec() -> ModelSpec:
    return ModelSpec(model="test/model", revision="1", dimensions=8, max_tokens=64)


@pytest.fixture
def vectors() -> Vectors:
    """`vectors(5, dim=8, seed=1)`: rows of unit length, the same for the same arguments."""

    def make(rows: int, *, dim: int = 8, seed: int = 0) -> FloatArray:
        found = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
        return normalized(found)

    return make


@pytest.fixture
def cut() -> Cut:
    """`cut("a.py", ["one text", "another"])`: a file's chunks, two lines each."""

    def make(path: str, texts: list[str], *, language: str = "python", kind: str = "function") -> list[Chunk]:
        starts = np.cumsum([0, *map(len, texts)]).tolist()
        return [
            Chunk(
                path=path,
                text=text,
                start=starts[at],
                end=starts[at + 1],
                start_line=2 * at + 1,
                end_line=2 * at + 2,
                kind=kind,  # type: ignore[arg-type]  # one of its words
                language=language,
            )
            for at, text in enumerate(texts)
        ]

    return make


@pytest.fixture
def state() -> States:
    """`state("a.py", 3)`: a file with three chunks."""

    def make(path: str, chunks: int, *, mtime: int = 1, digest: bytes = b"d" * 16) -> FileState:
        return FileState(path=path, size_bytes=10, mtime_ns=mtime, inode=7, digest=digest, chunks=chunks)

    return make
