"""Every store of chunks, empty for each test, behind two verbs: `place.reader()` and `place.writer()`.

Another kind of store joins the suite with an entry in `KINDS`, and tests that it cannot run where it is missing.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Protocol

import pytest
from tests.contract.chunk_stores.memory_store import MemoryStore
from tests.integration.pgvector.server import shared_server

from embatch.types import ModelSpec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from embatch.chunks import ChunkReader, ChunkWriter

SPEC = ModelSpec(model="test/model", revision="1", dimensions=16, max_tokens=64)

_NUMBERS = count(1)


class Place(Protocol):
    """Where one store lies. Both verbs open it anew at each call."""

    def reader(self) -> ChunkReader: ...

    def writer(self, *, spec: ModelSpec = SPEC, fresh: bool = False) -> ChunkWriter: ...


class InMemory:
    def __init__(self) -> None:
        self.store = MemoryStore()

    def reader(self) -> ChunkReader:
        return self.store.reader()

    def writer(self, *, spec: ModelSpec = SPEC, fresh: bool = False) -> ChunkWriter:
        return self.store.writer(spec, fresh=fresh)


class AtLocation:
    """Whatever the registry opens: a folder, or an address."""

    def __init__(self, location: str) -> None:
        self.location = location

    def reader(self) -> ChunkReader:
        from embatch.storage.vectors import open_reader

        return open_reader(self.location)

    def writer(self, *, spec: ModelSpec = SPEC, fresh: bool = False) -> ChunkWriter:
        from embatch.storage.vectors import open_writer

        return open_writer(self.location, spec=spec, fresh=fresh)


def lance(request: pytest.FixtureRequest) -> Place:
    folder: Path = request.getfixturevalue("tmp_path")
    return AtLocation(str(folder / "index"))


def pgvector(_: pytest.FixtureRequest) -> Place:
    """An index of its own in the one server; the test is skipped where none can be started."""
    return AtLocation(f"{shared_server().url()}#contract_{next(_NUMBERS)}")


KINDS: dict[str, Callable[[pytest.FixtureRequest], Place]] = {
    "memory": lambda _: InMemory(),
    "lance": lance,
    "pgvector": pgvector,
}


@pytest.fixture(
    params=[
        pytest.param(kind, marks=[pytest.mark.search] if kind == "lance" else []) for kind in sorted(KINDS)
    ]
)
def place(request: pytest.FixtureRequest) -> Place:
    """One empty store."""
    return KINDS[request.param](request)
