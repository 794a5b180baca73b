"""Embedders over a provider in memory, in a time that runs a thousand times as fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pytest

from embatch.engine.lanes.clock import Clock
from embatch.frontends.embedder import Embedder
from embatch.frontends.remote import LaneSettings, RemoteModel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fake_provider import FakeProvider

    from embatch.remote import StrategyName
    from embatch.types import Overlong, VectorStore


class OpenLanes(Protocol):
    """An embedder over `provider`, closed after the test; further arguments are those of LaneSettings."""

    def __call__(
        self,
        provider: FakeProvider,
        strategy: StrategyName = "individual",
        *,
        overlong: Overlong = "truncate",
        cache: VectorStore | None = None,
        clock: Clock | None = None,
        **settings: Any,
    ) -> Embedder: ...


@pytest.fixture
def lanes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[OpenLanes]:
    """`lanes(provider, "batch")` opens an embedder whose files lie in a folder of the test's own."""
    monkeypatch.setenv("EMBATCH_CACHE", str(tmp_path / "embatch"))
    opened: list[Embedder] = []

    def open_lanes(
        provider: FakeProvider,
        strategy: StrategyName = "individual",
        *,
        overlong: Overlong = "truncate",
        cache: VectorStore | None = None,
        clock: Clock | None = None,
        **settings: Any,
    ) -> Embedder:
        model = RemoteModel(
            provider, settings=LaneSettings(strategy=strategy, **settings), clock=clock or Clock(1000)
        )
        opened.append(Embedder(backend=model, overlong=overlong, cache=cache))
        return opened[-1]

    yield open_lanes
    for embedder in opened:
        embedder.close()
