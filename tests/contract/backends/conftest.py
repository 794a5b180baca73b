"""Every backend under one name each, made once for the whole suite, and makers for tests that close one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from embatch.backends.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.doubles import FakeBackend

    from embatch.types import Backend

KINDS = [
    "fake",
    "hashing",
    "openvino",
    pytest.param("openvino-minilm", marks=pytest.mark.model),
    pytest.param("torch", marks=pytest.mark.torch),
]


@dataclass
class Makers:
    """Makes backends by kind, and closes what it made."""

    tiny_bert: Path
    fake: Callable[[], FakeBackend]
    made: list[Backend] = field(default_factory=list)

    def make(self, kind: str) -> Backend:
        backend = self._make(kind)
        self.made.append(backend)
        return backend

    def _make(self, kind: str) -> Backend:
        if kind == "fake":
            return self.fake()
        if kind == "hashing":
            from embatch.backends.hashing import HashingBackend

            return HashingBackend()
        if kind == "torch":
            pytest.importorskip("sentence_transformers")
            from embatch.backends.torch import TorchBackend

            return TorchBackend(resolve(str(self.tiny_bert)), device="cpu")
        from embatch.backends.openvino import OpenVINOBackend

        model = "minilm" if kind == "openvino-minilm" else str(self.tiny_bert)
        return OpenVINOBackend(resolve(model))


@pytest.fixture(scope="session")
def makers(tiny_bert: Path) -> Iterator[Makers]:
    from tests.doubles import FakeBackend

    makers = Makers(tiny_bert, FakeBackend)
    yield makers
    for backend in makers.made:
        backend.close()


@pytest.fixture(scope="session")
def open_backends() -> dict[str, Backend]:
    """Open backends by kind: loading a model for every test would take minutes."""
    return {}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def backend(kind: str, makers: Makers, open_backends: dict[str, Backend]) -> Backend:
    """An open backend, shared between tests: do not close it."""
    if kind not in open_backends:
        open_backends[kind] = makers.make(kind)
    return open_backends[kind]


@pytest.fixture
def own_backend(kind: str, makers: Makers) -> Backend:
    """A backend of the test's own, to be closed."""
    return makers.make(kind)
