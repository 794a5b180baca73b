"""Emulators that answer at once, one a module, and what tests of them share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from embatch.emulator import Emulator, EmulatorOptions, JobTimes, Latency

if TYPE_CHECKING:
    from collections.abc import Iterator

QUICK = EmulatorOptions(seed=1, latency=Latency.none(), jobs=JobTimes.fixed(100.0))
"""No latency, jobs of a hundred virtual seconds, no quotas."""


@pytest.fixture(scope="module")
def gemini() -> Iterator[Emulator]:
    """A Gemini that tests of a module share; nothing is scripted when a test begins or ends."""
    with Emulator("gemini", options=QUICK) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def openai() -> Iterator[Emulator]:
    """An OpenAI that tests of a module share."""
    with Emulator("openai", options=QUICK) as emulator:
        yield emulator
