"""An index over a provider's model: the same commands, the same lanes, nothing paid twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("openai")
pytest.importorskip("starlette")

from embatch.emulator import Emulator, EmulatorOptions
from embatch.emulator.options import JobTimes, Latency
from embatch.frontends.cli import main
from embatch.frontends.searching.index import Index

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.remote, pytest.mark.search]

MODEL = "openai:text-embedding-3-small"
SECTIONS = 40


@pytest.fixture(autouse=True)
def _surroundings(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A user's folder of its own, a key in the environment, and `main`'s signal handler given back."""
    monkeypatch.setenv("EMBATCH_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret-key")
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """OpenAI's wire; jobs take a virtual second."""
    options = EmulatorOptions(seed=1, latency=Latency.none(), jobs=JobTimes.fixed(1.0), key="a-secret-key")
    with Emulator("openai", options=options) as one:
        yield one


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A guide of forty sections, each a chunk."""
    root = tmp_path / "docs"
    root.mkdir()
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]
    sections = [
        f"## Part {at}\n\n" + " ".join(f"{words[(at * step) % 10]}{at + step}" for step in range(150))
        for at in range(SECTIONS)
    ]
    (root / "guide.md").write_text("# Guide\n\n" + "\n\n".join(sections), "utf-8")
    return root


@pytest.mark.parametrize("strategy", ["individual", "batch"])
def test_an_index_over_a_provider(
    folder: Path, emulator: Emulator, capsys: pytest.CaptureFixture[str], strategy: str
) -> None:
    """Chunks are embedded by the lane that was asked for, the report says what was paid, and questions work."""
    options = ["--model", MODEL, "--base-url", emulator.url, "--strategy", strategy, "--json"]
    assert main(["index", str(folder), *options]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["embedded"] == told["chunks"] >= SECTIONS
    assert told["lanes"]["jobs" if strategy == "batch" else "calls"] >= 1
    assert told["lanes"]["dollars"] > 0
    assert main(["query", "what is in part 7?", "--index", str(folder), "-k", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["count"] == 3
    assert main(["index", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["embedded"] == 0


def test_a_changed_section_costs_one_text(folder: Path, emulator: Emulator) -> None:
    """The provider is asked for what is new, and for nothing else."""
    with Index.open(folder, model=MODEL, base_url=emulator.url, strategy="individual") as index:
        index.sync()
        file = folder / "guide.md"
        file.write_text(file.read_text("utf-8").replace("## Part 7\n", "## Part seven\n"), "utf-8")
        report = index.sync()
        assert report.changed == 1
        assert report.embedded == 1
        assert index.last_run is not None
        assert index.last_run.lanes is not None
        assert index.last_run.lanes.call_items == 1


def test_a_job_that_was_paid_for_is_found_again_after_a_kill(folder: Path, emulator: Emulator) -> None:
    """Killed while a job runs, the same command takes its results: one job in all."""
    command = [sys.executable, "-m", "embatch", "index", str(folder), "--model", MODEL]
    command += ["--base-url", emulator.url, "--strategy", "batch", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    while process.poll() is None and not _jobs(emulator):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    told = json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    )
    assert told["failed"] == 0
    assert told["embedded"] + told["reused"] == told["chunks"]
    assert _jobs(emulator) == 1


def _jobs(emulator: Emulator) -> int:
    return len(emulator.jobs())
