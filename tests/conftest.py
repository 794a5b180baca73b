"""Fixtures that every test may use. Light on purpose: collecting a test must load no engine."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from tests.doubles import FakeBackend, Faults

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


settings.register_profile("embatch", deadline=None)  # timing never decides a test
settings.load_profile("embatch")

# Commands that tests run leave no records among the user's own; tests of records switch them on in a folder of theirs.
os.environ["EMBATCH_RECORD"] = "0"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Tests run in the background inherit that, and so would the commands that they start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def fake_backend() -> type[FakeBackend]:
    """`fake_backend(dim=8, …)` makes a backend that counts its calls; see `tests/doubles.py`."""
    return FakeBackend


@pytest.fixture
def faulty_backend() -> Callable[..., FakeBackend]:
    """`faulty_backend(oom_above_tokens=100)` makes a fake backend that fails as scripted."""

    def make(**faults: object) -> FakeBackend:
        return FakeBackend(faults=Faults(**faults))  # type: ignore[arg-type]  # Faults checks the names

    return make


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that every engine runs, made without PyTorch; see `tests/tiny_bert.py`."""
    from tests.tiny_bert import write_tiny_bert

    return write_tiny_bert(tmp_path_factory.mktemp("models") / "tiny-bert")
