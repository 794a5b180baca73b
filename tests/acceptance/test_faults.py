"""Every fault that the emulator can script, over all lanes: each text ends as its own vector, or as a named error.

Vectors of the emulator depend on the text, and every row is compared. `EMBATCH_FAULT_PAIRS` sets how many random pairs
of faults are tried for each provider.
"""

from __future__ import annotations

import itertools
import os
import random
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest

from embatch import EmbatchError, Embedder, ItemError

pytest.importorskip("google.genai")
pytest.importorskip("openai")
pytest.importorskip("starlette")

from embatch.decisions.lanes import absence
from embatch.emulator import Emulator, EmulatorOptions
from embatch.emulator.faults import FAULTS, Fault
from embatch.emulator.options import JobTimes, Latency
from embatch.emulator.vectors import vector
from embatch.engine.lanes.clock import Clock
from embatch.frontends.remote import LaneSettings, RemoteModel
from embatch.providers.registry import open_provider

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from embatch.emulator.catalog import ProviderName
    from embatch.emulator.faults import Operation
    from embatch.remote import StrategyName

pytestmark = [pytest.mark.remote, pytest.mark.kill]

SCALE = 2000.0
DIMENSIONS = 128
MODELS = {"gemini": "gemini-embedding-001", "openai": "text-embedding-3-small"}
TEXTS = [f"text number {number} about boundary layers" for number in range(23)]
PAIRS = int(os.environ.get("EMBATCH_FAULT_PAIRS", "25"))
OF_LANES: dict[StrategyName, tuple[Operation, ...]] = {
    "individual": ("embed",),
    "batch": ("create_job", "poll_job", "upload", "download"),
}


class Case(NamedTuple):
    """A fault, where, and in which lane."""

    provider: ProviderName
    strategy: StrategyName
    faults: tuple[Fault, ...]

    @property
    def name(self) -> str:
        """For people."""
        faults = " + ".join(f"{fault.kind}@{fault.where}" for fault in self.faults)
        return f"{self.provider} {self.strategy}: {faults}"


def single_faults() -> Iterator[Case]:
    """Every kind of fault in every operation that a lane uses."""
    for strategy, operations in OF_LANES.items():
        for operation, kind in itertools.product(operations, FAULTS.values()):
            if operation in kind.operations:
                for provider in kind.providers:
                    yield Case(provider, strategy, (Fault(kind=kind.name, where=operation),))


def pairs(provider: ProviderName, count: int) -> Iterator[Case]:
    """Random pairs, the same in every run, over all strategies."""
    draw = random.Random(f"{provider} pairs")
    strategies: tuple[StrategyName, ...] = ("individual", "batch", "hybrid", "auto")
    singles = [case for case in single_faults() if case.provider == provider]
    for _ in range(count):
        one, two = draw.sample(singles, 2)
        yield Case(provider, draw.choice(strategies), (*one.faults, *two.faults))


@pytest.fixture(scope="module")
def emulators() -> Iterator[dict[str, Emulator]]:
    """One emulator of each provider, quick and without faults of its own."""
    options = EmulatorOptions(
        seed=3,
        time_scale=SCALE,
        latency=Latency.none(),
        jobs=JobTimes.fixed(20.0, expires_s=1200.0),
        key="good-key",
    )
    with Emulator("gemini", options=options) as gemini, Emulator("openai", options=options) as openai:
        yield {"gemini": gemini, "openai": openai}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing learned in one case may help or harm another."""
    monkeypatch.setenv("EMBATCH_CACHE", str(tmp_path))


@pytest.fixture(autouse=True)
def patience_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """At this pace a minute is 30 ms, which a busy machine takes for one exchange: nobody must seem gone for that."""
    monkeypatch.setattr(absence, "FIRST_S", dict.fromkeys(absence.FIRST_S, absence.AGAIN_S))


@pytest.mark.parametrize("case", list(single_faults()), ids=lambda case: case.name)
def test_every_fault_alone(case: Case, emulators: dict[str, Emulator]) -> None:
    """A fault that comes about once leaves every text with its own vector, or with an error that names it."""
    emulator = emulators[case.provider]
    (fault,) = case.faults
    assert fault.where is not None
    before = troubled(emulator, fault.where)
    check(case, emulator)
    if FAULTS[fault.kind].stage == "refuse":
        assert troubled(emulator, fault.where) > before, "the fault never came about"


@pytest.mark.parametrize(
    "case", [*pairs("gemini", PAIRS), *pairs("openai", PAIRS)], ids=lambda case: case.name
)
def test_faults_in_pairs(case: Case, emulators: dict[str, Emulator]) -> None:
    """Two faults in one run do no more harm than each alone."""
    check(case, emulators[case.provider])


def troubled(emulator: Emulator, operation: Operation) -> int:
    """How many requests were refused, or had their connection reset."""
    seen = emulator.requests
    return seen.refused[operation] + seen.statuses[0]


def check(case: Case, emulator: Emulator) -> None:
    """Run the case and look at every row."""
    emulator.clear_faults()
    for fault in case.faults:
        emulator.fault(fault)
    model = MODELS[case.provider]
    provider = open_provider(f"{case.provider}:{model}", base_url=emulator.url, api_key="good-key")
    settings = LaneSettings(strategy=case.strategy, max_job_items=12, parallel=4)
    remote = RemoteModel(provider, settings=settings, clock=Clock(SCALE))
    with Embedder(backend=remote, dimensions=DIMENSIONS) as embedder:
        try:
            result = embedder.embed(TEXTS, on_error="collect")
        except EmbatchError as error:
            pytest.fail(f"the run ended with {error!r} instead of naming its texts")
    failed = {failure.row: failure for failure in result.errors}
    for row, text in enumerate(TEXTS):
        if row in failed:
            assert isinstance(failed[row].error, ItemError)
            assert failed[row].key == str(row)
        else:
            expected = vector(
                model, text, "RETRIEVAL_DOCUMENT" if case.provider == "gemini" else None, DIMENSIONS
            )
            cosine = float(np.dot(result.vectors[row], expected / np.linalg.norm(expected)))
            assert cosine > 0.9999, f"row {row} has another text's vector"
    fatal = {
        "rate_limit_day",
        "unauthenticated",
        "forbidden",
        "not_found",
        "insufficient_quota",
        "billing",
        "status",
    }
    if not fatal & {fault.kind for fault in case.faults}:
        assert not failed, f"{len(failed)} texts failed, the first with {next(iter(failed.values())).error}"
