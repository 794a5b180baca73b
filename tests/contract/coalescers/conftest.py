"""Both coalescers under one name each, over doubles whose calls can be held."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from tests.doubles import FakeBackend, Faults, Gate
from tests.fake_provider import FakeProvider, vector

from embatch.decisions.tuning import BudgetTuner
from embatch.engine.coalesce.local import LocalCoalescer
from embatch.engine.tuners import SharedTuner
from embatch.errors import UsageError
from embatch.frontends.gateway import Gateway
from embatch.frontends.remote import RemoteModel
from embatch.frontends.remote_host import RemoteHost

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embatch.serving import Ask, Coalescer
    from embatch.types import FloatArray, ModelSpec


class Kind(Protocol):
    """How a test makes one of the coalescers, and holds what computes for it."""

    gate: Gate | None
    """Set before `open`: holds every call until it is opened."""

    def open(self, **options: Any) -> Coalescer:
        """A coalescer, closed in the end."""
        ...

    def vector(self, text: str) -> FloatArray:
        """What a text must come back with."""
        ...


class Local:
    """The one for a model on this machine."""

    def __init__(self) -> None:
        self.gate: Gate | None = None
        self.opened: list[Coalescer] = []
        self.backend = FakeBackend()

    def open(self, **options: Any) -> Coalescer:
        self.backend.faults = Faults(before_embed=self.gate)
        tuner = SharedTuner(BudgetTuner(low=16, high=4096, first=256))
        specs: dict[ModelSpec, ModelSpec] = {}

        def spec_for(ask: Ask) -> ModelSpec:
            if ask.dimensions is not None and ask.dimensions > self.backend.dim:
                raise UsageError("fewer dimensions than that")  # as `AsyncEmbedder` does
            spec = replace(self.backend.spec, dimensions=ask.dimensions or self.backend.dim)
            return specs.setdefault(spec, spec)

        settings = {"queue": 100, "batch_share": 0.1} | options
        self.opened.append(LocalCoalescer(self.backend, spec_for, tuner, **settings))
        return self.opened[-1]

    def vector(self, text: str) -> FloatArray:
        return self.backend.vector(text)


class Remote:
    """The gateway over a provider."""

    def __init__(self) -> None:
        self.gate: Gate | None = None
        self.opened: list[Coalescer] = []

    def open(self, **options: Any) -> Coalescer:
        gate = self.gate
        before = None if gate is None else lambda texts: gate(list(texts))
        model = RemoteModel(FakeProvider(before_call=before))
        host = RemoteHost(model, dimensions=None, overlong="truncate")
        settings = {"queue": 100, "batch_share": 0.1, "parallel": 1} | options
        self.opened.append(Gateway(host, **settings))
        return self.opened[-1]

    def vector(self, text: str) -> FloatArray:
        return vector(text)


@pytest.fixture(params=[Local, Remote], ids=["local", "gateway"])
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    before = set(threading.enumerate())
    made: Any = request.param()
    yield made
    if made.gate is not None:
        made.gate.open.set()
    for coalescer in made.opened:
        coalescer.close()
    left = set(threading.enumerate()) - before
    assert not [thread for thread in left if thread.name.startswith("embatch-stream")]
