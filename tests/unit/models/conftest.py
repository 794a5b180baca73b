"""A cache folder of the test's own, and a tiny model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.tiny_model import write_tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder; the user's own is never touched."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("EMBATCH_CACHE", str(folder))
    return folder


@pytest.fixture
def tiny_model() -> Callable[..., Path]:
    """`tiny_model(folder, seed=0)` writes a model folder."""
    return write_tiny_model
