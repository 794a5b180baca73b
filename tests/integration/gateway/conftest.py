"""Gateways over a provider on loopback, and asks that remember what they were told."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from embatch.engine.lanes.clock import Clock
from embatch.engine.window import as_items
from embatch.frontends.gateway import Gateway
from embatch.frontends.remote import RemoteModel
from embatch.frontends.remote_host import RemoteHost
from embatch.providers.registry import open_provider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from embatch.emulator import Emulator
    from embatch.emulator.catalog import ProviderName
    from embatch.types import FloatArray

MODEL = "openai:text-embedding-3-small"
MODELS = {"openai": MODEL, "gemini": "gemini:gemini-embedding-001"}


class Vectors(dict[bytes, "FloatArray"]):
    """A store in memory that is not thread-safe, and knows when it is misused."""

    def __init__(self) -> None:
        self._user = threading.Lock()

    def get(self, digests: Any, default: Any = None) -> Any:  # a dictionary's word
        assert self._user.acquire(blocking=False)
        found = {digest: self[digest] for digest in digests if digest in self}
        self._user.release()
        return found

    def put(self, digests: Any, vectors: Any) -> None:
        assert self._user.acquire(blocking=False)
        self.update(zip(digests, vectors, strict=True))
        self._user.release()

    def close(self) -> None:
        """Nothing to release."""


@dataclass
class Place:
    """An emulator, and gateways on it that are closed in the end."""

    emulator: Emulator
    scale: float
    made: list[tuple[Gateway, RemoteModel]] = field(default_factory=list)

    def open(self, *, dimensions: int | None = None, **options: Any) -> Gateway:
        """A gateway with a model of its own."""
        provider = open_provider(MODELS[self.emulator.provider], base_url=self.emulator.url, api_key="a-key")
        model = RemoteModel(provider, clock=Clock(self.scale))
        gateway = Gateway(RemoteHost(model, dimensions=dimensions, overlong="truncate"), **options)
        self.made.append((gateway, model))
        return gateway

    def vectors(self, *texts: str, dimensions: int | None = None) -> FloatArray:
        """What one caller alone gets for these, in one run."""
        _, model = self.made[0]
        host = RemoteHost(model, dimensions=dimensions, overlong="truncate")
        blocks = list(host.run(None, list(as_items(texts)), store=None).blocks())
        assert not any(block.failures for block in blocks)
        return np.concatenate([block.vectors for block in blocks])

    def close(self) -> None:
        for gateway, model in self.made:
            gateway.close()
            model.close()


@pytest.fixture
def make_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Place]]:
    """`make_place("openai", scale=1.0, latency=False, **options)` starts an emulator."""
    pytest.importorskip("starlette")
    pytest.importorskip("openai")
    pytest.importorskip("google.genai")
    from embatch.emulator import Emulator, EmulatorOptions, Latency

    monkeypatch.setenv("EMBATCH_CACHE", str(tmp_path / "cache"))
    places: list[Place] = []

    def make(
        provider: ProviderName = "openai", *, scale: float = 1.0, latency: bool = False, **options: Any
    ) -> Place:
        slow = Latency(stall_probability=0.0, burst_every_s=0.0) if latency else Latency.none()
        chosen = EmulatorOptions(seed=5, time_scale=scale, latency=slow, **options)
        places.append(Place(Emulator(provider, options=chosen).start(), scale))
        return places[-1]

    yield make
    for place in places:
        place.close()
        place.emulator.stop()


@pytest.fixture
def place(make_place: Callable[..., Place]) -> Place:
    """An emulator that answers at once."""
    return make_place()
