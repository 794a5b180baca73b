"""Real files for tests of sources: each test has a folder of its own and works in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from embatch.storage.sources import open_sources
from embatch.types import BadItem, Item

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def write(folder: Path) -> Callable[..., None]:
    """`write("docs/a.md", "text or bytes")` makes a file with its folders; the text is the name if none is given."""

    def write(path: str, content: str | bytes | None = None) -> None:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        content = path if content is None else content
        target.write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


@pytest.fixture
def items(folder: Path) -> Callable[..., dict[str, str]]:
    """`items("docs", "a.csv", …)` is each item's key and text; nothing may be bad."""

    def items(*paths: str, **options: Any) -> dict[str, str]:
        found = list(open_sources(paths, **options))
        assert all(isinstance(row, Item) for row in found), found
        return {row.key: row.text for row in found if isinstance(row, Item)}

    return items


@pytest.fixture
def errors(folder: Path) -> Callable[..., dict[str, tuple[str, str]]]:
    """`errors("docs", …)` is each bad item's key, with the error's name and message."""

    def errors(*paths: str, **options: Any) -> dict[str, tuple[str, str]]:
        return {
            row.key: (type(row.error).__name__, str(row.error))
            for row in open_sources(paths, **options)
            if isinstance(row, BadItem)
        }

    return errors
