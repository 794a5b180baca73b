"""What tests of the command line over a provider's model share."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from embatch.emulator import Emulator

TEXTS = [f"text number {number}" for number in range(30)]


@pytest.fixture
def surroundings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A user's folder of its own, keys in the environment, and `main`'s signal handler given back."""
    monkeypatch.setenv("EMBATCH_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret-key")
    monkeypatch.setenv("GEMINI_API_KEY", "a-secret-key")
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def quick(surroundings: None) -> Iterator[Emulator]:  # for what it sets up
    """OpenAI's wire, without latencies; jobs take a virtual second."""
    from embatch.emulator import Emulator, EmulatorOptions
    from embatch.emulator.options import JobTimes, Latency

    options = EmulatorOptions(seed=1, latency=Latency.none(), jobs=JobTimes.fixed(1.0), key="a-secret-key")
    with Emulator("openai", options=options) as one:
        yield one


@pytest.fixture
def thirty(tmp_path: Path) -> Path:
    """Thirty texts, in a file."""
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    return path
