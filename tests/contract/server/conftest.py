"""Servers on loopback that official clients are pointed at."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from embatch.frontends.server.settings import ServedModel, ServeSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.doubles import FakeBackend

    from embatch.frontends.server.transport.running import BackgroundServer

    Serving = Callable[..., AbstractContextManager[BackgroundServer]]

SETTINGS = ServeSettings(
    port=0,
    models=(ServedModel(name="words", model="hashing"),),
    dashboard=False,
    drain_s=1.0,
)


@pytest.fixture(scope="session")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Serving:
    """`with serving(fake, queue=5) as server`: a server over a double, or over hashing; options are settings.

    Of several doubles each opening of the model takes the next.
    """

    @contextmanager
    def serve(*backends: FakeBackend, **options: Any) -> Iterator[BackgroundServer]:
        from embatch.frontends.async_embedder import AsyncEmbedder
        from embatch.frontends.server.app import build_app
        from embatch.frontends.server.transport.running import BackgroundServer

        folder: Path = tmp_path_factory.mktemp("serve")
        settings = replace(SETTINGS, **{"state": folder, **options})
        if backends:
            settings = replace(settings, models=(ServedModel(name="fake", model="fake"),))
        nexts = iter(backends)

        def open_model(served: ServedModel) -> AsyncEmbedder:
            return AsyncEmbedder(
                served.model,
                backend=next(nexts),
                profiles=False,
                queue=settings.queue,
                timeout_s=settings.timeout_s,
            )

        app = build_app(settings, open_model=open_model if backends else None)
        with BackgroundServer(app, settings, app.state.server) as server:
            yield server

    return serve


@pytest.fixture(scope="session")
def server(serving: Serving) -> Iterator[BackgroundServer]:
    """One over hashing, for tests that leave it as it was."""
    with serving() as server:
        yield server
