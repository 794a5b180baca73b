"""Every provider under one name each, open on an emulator in this process."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from embatch.remote import EmbedWork, JobRef

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embatch.emulator import Emulator
    from embatch.remote import JobRow, Provider

KEY = "topsecret-0123456789"
MODELS = {
    "gemini": "gemini-embedding-001",
    "openai": "text-embedding-3-small",
    "compatible": "text-embedding-3-small",
}
GENERATING = {"gemini": "gemini-2.5-flash", "openai": "gpt-4o-mini", "compatible": "gpt-4o-mini"}
KINDS = tuple(MODELS)
WITH_JOBS = ("gemini", "openai")
RAW_CUT = "gemini"  # whose emulator sends cut vectors unnormalised
JOB_S = 100.0  # virtual seconds that a job takes


@dataclass
class Place:
    """One provider and the emulator behind it."""

    kind: str
    emulator: Emulator
    stack: ExitStack
    provider: Provider
    generating: Provider

    @property
    def model(self) -> str:
        return MODELS[self.kind]

    @property
    def generating_model(self) -> str:
        return GENERATING[self.kind]

    def open(self, model: str | None = None, **arguments: Any) -> Provider:
        """Another provider object, closed in the end."""
        from embatch.providers.registry import open_provider

        where = {} if "client" in arguments else {"base_url": self.emulator.url, "api_key": KEY}
        provider = open_provider(f"{self.kind}:{model or self.model}", **{**where, **arguments})
        self.stack.callback(provider.close)
        return provider

    def finish_jobs(self) -> None:
        """Let all jobs that are under way end."""
        self.emulator.advance(JOB_S * 2)


@pytest.fixture(scope="session")
def places() -> Iterator[dict[str, Place]]:
    """All kinds: two emulators, of which the one that speaks OpenAI's protocol serves two kinds."""
    pytest.importorskip("openai")
    pytest.importorskip("google.genai")
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    from embatch.emulator import Emulator, EmulatorOptions, JobTimes, Latency
    from embatch.providers.registry import open_provider

    options = EmulatorOptions(latency=Latency.none(), jobs=JobTimes.fixed(JOB_S))
    with ExitStack() as stack:
        gemini = stack.enter_context(Emulator("gemini", options=options))
        openai = stack.enter_context(Emulator("openai", options=options))
        found = {}
        for kind, emulator in (("gemini", gemini), ("openai", openai), ("compatible", openai)):
            providers = [
                open_provider(f"{kind}:{name}", base_url=emulator.url, api_key=KEY)
                for name in (MODELS[kind], GENERATING[kind])
            ]
            for provider in providers:
                stack.callback(provider.close)
            found[kind] = Place(kind, emulator, stack, *providers)
        yield found


@pytest.fixture
def place(places: dict[str, Place], request: pytest.FixtureRequest) -> Iterator[Place]:
    """The place of the kind that the test is parametrised with (`indirect`), without faults of other tests."""
    chosen = places[request.param]
    chosen.emulator.clear_faults()
    yield chosen
    chosen.emulator.clear_faults()


_count = iter(range(10_000))


def tag() -> str:
    """One that no other test uses."""
    return f"embatch-test-{next(_count)}"


def items(count: int = 5) -> Iterator[tuple[str, str]]:
    """(key, text), read once."""
    return ((f"key-{i}", f"text {i}\u2028 ü") for i in range(count))


def work(place: Place, **others: Any) -> EmbedWork:
    return EmbedWork(model=place.model, **others)


def right(place: Place, key: str, dims: int | None = None) -> np.ndarray:
    from embatch.emulator.vectors import vector

    raw = vector(place.model, f"text {key.removeprefix('key-')}\u2028 ü", None, dims)
    return raw / np.linalg.norm(raw) if place.kind == RAW_CUT else raw


def run(
    place: Place, fault: str | None = None, *, count: int = 5, **others: Any
) -> tuple[JobRef, list[JobRow]]:
    """A job from its start to its rows, with something wrong in it."""
    from embatch.emulator import Fault

    if fault is not None:
        place.emulator.fault(Fault(kind=fault, where="create_job"))
    job = place.provider.submit(items(count), work(place, **others), tag=tag())
    place.finish_jobs()
    return job, list(place.provider.results(job))
