"""A workspace, and a command line whose answers are read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from embatch.frontends.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Told(NamedTuple):
    """What a command said."""

    code: int
    answer: Any
    """The last line on standard output, as JSON."""
    err: str


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "EMBEDDINGS",
        "EMBED_MODEL_NAME",
        "EMBED_MODEL_PATH",
        "EMBED_ALLOW_DOWNLOAD",
        "EMBED_DEVICE",
    ):
        monkeypatch.delenv(f"QUALITY_GRAPH_{name}", raising=False)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    folder.mkdir()
    return folder


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    """`tell("record", workspace, …)` runs `embatch tasks record …`."""

    def run(*arguments: object) -> Told:
        code = main(["tasks", *map(str, arguments)])
        said = capsys.readouterr()
        lines = said.out.splitlines()
        return Told(code, json.loads(lines[-1]) if lines else None, said.err)

    return run
