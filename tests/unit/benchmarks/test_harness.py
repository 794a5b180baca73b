"""Workers in processes of their own, results on disk, and what is said about the machine."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks import environments, machine, results
from benchmarks.__main__ import main
from benchmarks.harness import Settings, Stage
from benchmarks.suites import gpu
from benchmarks.systems import HASHING, System, peers
from benchmarks.worker import Worker, WorkerError
from benchmarks.workers.protocol import read_vectors, versions, write_vectors
from click.testing import CliRunner


def test_vectors_survive_the_file(tmp_path: Path) -> None:
    """What a worker writes is what the harness reads, in order and to the bit."""
    vectors = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)
    write_vectors(tmp_path / "v.parquet", vectors)
    assert np.array_equal(read_vectors(tmp_path / "v.parquet"), vectors)


def test_stage_runs_a_system_in_its_own_process(tmp_path: Path) -> None:
    """A system gets texts, embeds them, answers queries, and says its versions."""
    with Stage([HASHING], tmp_path) as stage:
        stage.give("few", ["one wing", "two wings", "one wing"])
        answer = stage.embed(HASHING.name, "few")
        assert answer["rows"] == 3
        assert answer["embedded"] == 2
        vectors = read_vectors(stage.out(HASHING.name, "few"))
        assert np.array_equal(vectors[0], vectors[2])
        assert not np.array_equal(vectors[0], vectors[1])
        assert len(stage.ask(HASHING.name, "query", texts=["a", "b"])["ms"]) == 2
        assert stage.versions[HASHING.name]["python"] == platform.python_version()
    assert stage.problems == {}


def test_budget_is_fixed_for_the_next_pass(tmp_path: Path) -> None:
    """The command `tune` decides how batches are formed: by budget, by count, or by a new search."""
    with Stage([HASHING], tmp_path) as stage:
        stage.give("few", [f"wing {number}" for number in range(64)])
        limits = stage.ask(HASHING.name, "tune", budget=4096)
        assert limits["budgets"][0] <= 4096 <= limits["budgets"][1]
        assert stage.embed(HASHING.name, "few")["budget"] == 4096
        stage.ask(HASHING.name, "tune", count=16)
        assert stage.embed(HASHING.name, "few")["batches"] == 4
        stage.ask(HASHING.name, "tune", cold=True)
        assert stage.embed(HASHING.name, "few")["settled"] is False
        stage.ask(HASHING.name, "tune", in_order=16)
        assert stage.embed(HASHING.name, "few")["rows"] == 64


def test_system_that_cannot_run_is_reported(tmp_path: Path) -> None:
    """A worker that cannot open its model leaves a reason; the others go on."""
    broken = System(
        name="broken", environment="embatch", worker="embatch", options={"model": "nosuchmodel"}, setting=""
    )
    with Stage([broken, HASHING], tmp_path) as stage:
        assert stage.names == [HASHING.name]
    assert "UnknownModelError" in stage.problems["broken"]


def test_system_that_fails_later_leaves_the_stage(tmp_path: Path) -> None:
    """A failure in a turn drops the system with its reason, and does not end the suite."""
    with Stage([HASHING], tmp_path) as stage:
        stage.attempt(HASHING.name, lambda name: stage.ask(name, "embed", name="never given", out="x"))
        assert stage.names == []
    assert "KeyError" in stage.problems[HASHING.name]


def test_worker_that_ends_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    """A worker that dies is told from one that answers, and its last line is in the message."""
    with (
        Worker(Path(sys.executable), "benchmarks.workers.nothing", tmp_path / "log") as dead,
        pytest.raises(WorkerError, match="No module named"),
    ):
        dead.ask("load", options={})


def test_peers_that_are_not_set_up_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its environment a peer has a problem, and so a line in the result."""
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    problems = {system.name: system.problem() for system in peers(tmp_path)}
    assert set(problems.values()) == {"not set up"}
    (tmp_path / "infinity.log").write_text("…\nERROR: no matching distribution\n", "utf-8")
    assert environments.ENVIRONMENTS["infinity"].problem() == (
        "could not be installed: ERROR: no matching distribution"
    )


def test_every_environment_has_pinned_requirements() -> None:
    """Each peer's requirements exist and pin every version."""
    for environment in environments.ENVIRONMENTS.values():
        lines = environment.requirements.read_text("utf-8").splitlines()
        wanted = [line for line in lines if line and not line.startswith("#")]
        assert wanted
        assert all("==" in line for line in wanted), environment.name


def test_result_is_whole_and_names_no_place(tmp_path: Path) -> None:
    """A result is read back as it was saved, and names neither the host nor a folder."""
    result = results.record("engine", parameters={"a": 1}, rounds=[1.0], summary={"b": 2})
    path = results.save(result, tmp_path)
    assert json.loads(path.read_text("utf-8")) == results.read("engine", tmp_path) == result
    text = path.read_text("utf-8")
    assert platform.node() not in text or not platform.node()
    assert "/home" not in text
    assert [file.name for file in tmp_path.iterdir()] == ["engine.json"]


def test_results_of_another_machine_stand_beside(tmp_path: Path) -> None:
    """A machine with a name has its own file, and neither replaces the other's."""
    here, there = (
        results.record("engine", parameters={}, rounds=[], summary={"texts": count}) for count in (1, 2)
    )
    results.save(here, tmp_path)
    results.save(there, tmp_path, on="zen5")
    assert results.machines("engine", tmp_path) == ["zen5"]
    assert results.read("engine", tmp_path) == here
    assert results.read("engine", tmp_path, on="zen5") == there


@pytest.mark.parametrize("name", ["", "Zen 5", "../zen5", "zen-5"])
def test_machine_of_an_impossible_name_is_refused(name: str) -> None:
    """Before anything is measured, with the reason."""
    done = CliRunner().invoke(main, ["engine", "--machine", name])
    assert done.exit_code == 2
    assert "small letters and digits" in done.output


def test_machine_is_described() -> None:
    """Processor, cores, memory and kernel are there, and are plain JSON."""
    facts: dict[str, Any] = machine.describe()
    assert facts["cores"] >= 1
    assert facts["memory_gib"] > 0
    assert json.loads(json.dumps(facts)) == facts


def test_versions_leave_out_what_is_absent() -> None:
    """A distribution that is not installed has no version."""
    assert set(versions(["numpy", "no-such-distribution"])) == {"python", "numpy"}


def test_without_a_gpu_nothing_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PyTorch sees no card, the GPU suite measures nothing and gives no result."""
    monkeypatch.setattr(gpu, "find_card", lambda: None)
    settings = Settings(rounds=1, quick=True, model=tmp_path, work=tmp_path, results=tmp_path)
    assert gpu.run(settings) is None


def test_gpu_suite_compares_the_same_precision() -> None:
    """On a card both systems compute in half precision, on the same device."""
    own, peer = gpu.systems(Path("model"))
    assert own.options["precision"] == gpu.PRECISION == "fp16"
    assert peer.options["dtype"] == "float16"
    assert own.options["device"] == peer.options["device"] == "cuda"


def test_unknown_suite_is_named() -> None:
    """A suite that does not exist is a usage error that lists those that do."""
    answer = CliRunner().invoke(main, ["speed"])
    assert answer.exit_code == 2
    assert "no such suite: speed" in answer.output
    assert "throughput" in answer.output
