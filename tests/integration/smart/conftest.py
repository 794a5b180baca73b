"""A real `google.genai.Client` on an emulator whose time runs fast, and clients that live by the same time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from embatch.emulator import Emulator
    from embatch.gemini import SmartGeminiClient

SCALE = 200.0
JOB_S = 40.0
MODEL = "models/gemini-embedding-001"


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs and what is learned stay in this test; so does the working folder."""
    monkeypatch.setenv("EMBATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@dataclass
class Place:
    """The emulator, and the SDK's client on it."""

    emulator: Emulator
    client: Any
    made: list[SmartGeminiClient]

    def make(self, kind: type[SmartGeminiClient], *arguments: Any, **options: Any) -> Any:
        """A client of ours on the same time, closed in the end."""
        from embatch.engine.lanes.clock import Clock

        made = kind(self.client, *(arguments or (MODEL,)), clock=Clock(SCALE), **options)
        self.made.append(made)
        return made

    def vector(self, text: str, **config: Any) -> list[float]:
        """What the SDK itself gets for this text."""
        from google.genai import types

        answer = self.client.models.embed_content(
            model=MODEL, contents=text, config=types.EmbedContentConfig(**config)
        )
        values: list[float] = answer.embeddings[0].values
        return values


@pytest.fixture
def place() -> Iterator[Place]:
    """An emulator with the usual latencies; every job takes 40 virtual seconds."""
    pytest.importorskip("starlette")
    genai = pytest.importorskip("google.genai")
    from embatch.emulator import Emulator, EmulatorOptions, JobTimes, Latency

    options = EmulatorOptions(
        seed=3,
        time_scale=SCALE,
        jobs=JobTimes.fixed(JOB_S),
        latency=Latency(stall_probability=0.0, burst_every_s=0.0),
    )
    with Emulator("gemini", options=options) as emulator:
        client = genai.Client(
            api_key="a-key", http_options=genai.types.HttpOptions(base_url=emulator.url, api_version="v1beta")
        )
        found = Place(emulator, client, [])
        yield found
        for made in found.made:
            made.close()
        client.close()
