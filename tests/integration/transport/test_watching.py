"""`/health`, `/ready` and `/metrics` of the whole server, over a real socket."""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.integration.transport.conftest import get, post, until, wire

from embatch.frontends.server.settings import ServedModel, ServeSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.integration.transport.conftest import Got

pytestmark = pytest.mark.serve


def exchange(port: int, data: bytes) -> Got:
    async def talk() -> Got:
        async with wire(port) as client:
            await client.send(data)
            return await client.answer()

    return asyncio.run(talk())


@contextmanager
def whole(folder: Path, open_model: Callable[[ServedModel], Any] | None = None) -> Iterator[tuple[Any, Any]]:
    """The whole server with a tiny model: its state and its port."""
    from embatch.frontends.server.app import build_app
    from embatch.frontends.server.transport.running import BackgroundServer

    settings = ServeSettings(port=0, models=(ServedModel(name="tiny", model="hashing-32"),), state=folder)
    app = build_app(settings, open_model=open_model)
    with BackgroundServer(app, settings, app.state.server) as server:
        yield app.state.server, server.port


def scraped(port: int, accept: bytes, parse: Any) -> dict[str, Any]:
    """Samples by name and labels."""
    got = exchange(port, get("/metrics", b"Accept: " + accept))
    assert got.status == 200
    found: dict[str, Any] = {}
    for family in parse(got.body.decode()):
        for sample in family.samples:
            key = sample.name + "".join(f" {name}={value}" for name, value in sorted(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def test_metrics_count_what_was_asked(tmp_path: Path) -> None:
    """Asks, inputs, batches and latencies stand in the metrics under the model's name, in both formats."""
    from prometheus_client.openmetrics import parser as open_parser
    from prometheus_client.parser import text_string_to_metric_families

    request = post("/v1/embeddings", json.dumps({"input": ["one", "two"], "model": "tiny"}).encode())
    with whole(tmp_path) as (state, port):
        until(lambda: state.ready)
        assert exchange(port, request).status == 200
        assert exchange(port, request).status == 200
        until(lambda: state.board.snapshot()["totals"]["batches"])
        plain = scraped(port, b"text/plain", text_string_to_metric_families)
        new = scraped(port, b"application/openmetrics-text", open_parser.text_string_to_metric_families)
    for found in (plain, new):
        who = " model=tiny priority=interactive"
        assert found["embatch_asks_total model=tiny outcome=answered priority=interactive"] == 2
        assert found[f"embatch_inputs_total{who}"] == 4
        assert found[f"embatch_ask_duration_seconds_count{who}"] == 2
        assert found["embatch_batch_inputs_sum model=tiny"] == 4
        assert found["embatch_model_alive model=tiny"] == 1
        assert found[f"embatch_queue_inputs{who}"] == 0
        assert found["embatch_http_requests_total path=/v1/embeddings status=200"] == 2
        assert found["embatch_jobs state=completed"] == 0
        assert found["embatch_resident_memory_bytes"] > 1_000_000


def test_ready_follows_the_first_model_and_the_end(tmp_path: Path) -> None:
    """Not ready while the model opens, ready once it is open, not ready while draining; alive all the time."""
    import threading

    from embatch.frontends.async_embedder import AsyncEmbedder

    go = threading.Event()

    def open_model(served: ServedModel) -> AsyncEmbedder:
        go.wait(10)
        return AsyncEmbedder(served.model)

    with whole(tmp_path, open_model) as (state, port):
        early = exchange(port, get("/ready"))
        go.set()
        until(lambda: state.ready)
        there = exchange(port, get("/ready"))
        state.draining = True
        late = exchange(port, get("/ready"))
        health = exchange(port, get("/health"))
    assert (early.status, there.status, late.status, health.status) == (503, 200, 503, 200)
    assert "tiny" in json.loads(early.body)["reason"]
    assert "stopping" in json.loads(late.body)["reason"]
    assert early.headers["retry-after"] == "1"


def test_a_dead_engine_is_not_ready_and_opened_again(tmp_path: Path) -> None:
    """When the first model's engine has died, /ready says so, and brings it back without a request for vectors."""
    from embatch.frontends.async_embedder import AsyncEmbedder

    opened: list[Mortal] = []

    class Mortal(AsyncEmbedder):
        dead = False

        def snapshot(self) -> Any:
            return replace(super().snapshot(), alive=not self.dead)

    def open_model(served: ServedModel) -> AsyncEmbedder:
        opened.append(Mortal(served.model))
        return opened[-1]

    with whole(tmp_path, open_model) as (state, port):
        until(lambda: state.ready)
        opened[0].dead = True
        first = exchange(port, get("/ready"))
        until(lambda: exchange(port, get("/ready")).status == 200)
    assert first.status == 503
    assert "has failed" in json.loads(first.body)["reason"]
    assert len(opened) == 2
