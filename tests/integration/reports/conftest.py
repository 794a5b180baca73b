"""What tests of records and reports share: a user's folder of their own, and texts."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WORDS = ["a", "few", "words", "that", "are", "always", "the", "same", "and", "say", "nothing", "at", "all"]


@pytest.fixture(autouse=True)
def _recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records are on, as they are for users."""
    monkeypatch.setenv("EMBATCH_RECORD", "1")


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of records of this test; recording is on, the working folder and SIGTERM are the test's own."""
    monkeypatch.setenv("EMBATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path / "cache" / "records"
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Three hundred texts of many lengths in a file, two of them empty, one with a key that is no fun in HTML."""
    rows = [{"id": f"row{i}", "text": " ".join(WORDS[: 1 + i % len(WORDS)]) + f" {i}"} for i in range(300)]
    rows[7] = {"id": "<script>alert(1)</script>&", "text": "  "}
    rows[99] = {"id": "row99", "text": ""}
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path
