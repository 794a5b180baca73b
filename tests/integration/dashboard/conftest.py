"""Servers with a dashboard on loopback, over a model that needs no files, and an index to search."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.corpus import TOOLS, age

from embatch.frontends.server.settings import ServedModel, ServeSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from embatch.frontends.server.transport.running import BackgroundServer

    Serving = Callable[..., AbstractContextManager[BackgroundServer]]

WORDS = ServedModel(name="words", model="hashing", options={"dimensions": 64})

GUIDE = """# Guide

## Install

Run the installer and restart.

## Penguins

Penguins cannot fly, but swim. <img src=x onerror="document.title='broken'"> <b>They are bold.</b>
"""


@pytest.fixture(scope="session")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Serving:
    """`with serving(index=…) as server`: options are settings."""

    @contextmanager
    def serve(**options: Any) -> Iterator[BackgroundServer]:
        from embatch.frontends.server.app import build_app
        from embatch.frontends.server.transport.running import BackgroundServer

        folder = tmp_path_factory.mktemp("serve")
        settings = replace(
            ServeSettings(port=0, models=(WORDS,), drain_s=1.0, state=folder, preload=False), **options
        )
        app = build_app(settings)
        with BackgroundServer(app, settings, app.state.server) as server:
            yield server

    return serve


@pytest.fixture(scope="session")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an index that the served model could have made."""
    return write_index(tmp_path_factory.mktemp("corpus") / "project")


def write_index(root: Path, *, dimensions: int = 64) -> Path:
    """Two functions and a guide, indexed."""
    from embatch.frontends.searching.index import Index

    (root / "src").mkdir(parents=True)
    (root / "src" / "tools.py").write_text(TOOLS, "utf-8")
    (root / "guide.md").write_text(GUIDE, "utf-8")
    age(root)
    with Index.open(root, model="hashing", dimensions=dimensions) as index:
        index.sync()
    return root
