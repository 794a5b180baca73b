"""The founding documents' command lines, as they are written there, from a checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parent.parent.parent.parent
SCRIPTS = REPOSITORY / "scripts" / "quality_graph"


def run(
    script: str, *arguments: object, python: str = sys.executable, **env: str
) -> subprocess.CompletedProcess[str]:
    command = [python, f"scripts/quality_graph/{script}.py", *map(str, arguments)]
    return subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=False, env={**os.environ, **env}
    )


def answer(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_documents_commands_run_as_written(workspace: Path, tmp_path: Path) -> None:
    """Record many from a file of ids, ask for many, bring them to another model."""
    state = workspace / "state" / "quality_graph"
    state.mkdir(parents=True)
    tasks = [{"task_id": f"T{number}", "title": f"Fix the login form {number}"} for number in range(3)]
    (state / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    ids = tmp_path / "task_ids.txt"
    ids.write_text("T0\nT1\nT2\n")
    hashed = {"QUALITY_GRAPH_EMBED_MODEL_NAME": "hashing-384"}
    batch = ["--embedding-mode", "neural", "--batch-size", "32", "--batch-from-file", ids]
    assert answer(run("record_task_vector", workspace, *batch, **hashed))["recorded"] == ["T0", "T1", "T2"]
    found = answer(
        run("query_similar_tasks", workspace, "--embedding-mode", "neural", "--batch-query", ids, **hashed)
    )
    assert {name: len(similar) for name, similar in found["similar_tasks"].items()} == {
        "T0": 2,
        "T1": 2,
        "T2": 2,
    }
    assert answer(run("reindex_vectors", workspace, "--embedding-mode", "tfidf"))["reindexed"] == 3
    found = answer(run("query_similar_tasks", workspace, "--title", "Fix the login form", "--k", "2"))
    assert found["count"] == 2


def test_the_benchmark_prints_a_table_and_writes_its_figures(tmp_path: Path) -> None:
    """Without a model: each batch size is a row, and the same facts lie in the file."""
    output = tmp_path / "new" / "figures.json"
    done = run(
        "benchmark_batch_embeddings",
        *[
            "--mode",
            "tfidf",
            "--num-tasks",
            "20",
            "--batch-sizes",
            "1,8",
            "--rounds",
            "1",
            "--output",
            output,
        ],
    )
    assert done.returncode == 0, done.stderr
    assert "embatch, batches of 8" in done.stdout
    assert "peak memory" in done.stdout
    figures = json.loads(output.read_text())
    assert [way["name"] for way in figures["ways"]] == [
        "embatch, one at a time",
        "embatch, batches of 1",
        "embatch, batches of 8",
    ]
    assert figures["deterministic"] is True
    assert figures["lowest_cosine_to_single"] >= 0.9999


@pytest.mark.model
@pytest.mark.torch
def test_the_benchmark_compares_with_sentence_transformers(tmp_path: Path) -> None:
    """The same vectors as one at a time through sentence-transformers, and both speeds."""
    output = tmp_path / "figures.json"
    sizes = ["--num-tasks", "4", "--batch-sizes", "1,8,16,32,64", "--rounds", "1"]
    done = run("benchmark_batch_embeddings", "--mode", "neural", *sizes, "--output", output)
    assert done.returncode == 0, done.stderr
    figures = json.loads(output.read_text())
    assert figures["lowest_cosine_to_yardstick"] >= 0.999
    assert figures["ways"][0]["name"] == "sentence-transformers, one at a time"
    assert all(way["against_yardstick"] > 0 for way in figures["ways"])


@pytest.mark.parametrize("arguments", [["--batch-sizes", "0"], ["--batch-sizes", "x"], ["--mode", "x"]])
def test_the_benchmark_refuses_what_makes_no_sense(arguments: list[str]) -> None:
    """A message and exit code 1."""
    done = run("benchmark_batch_embeddings", *arguments)
    assert done.returncode == 1
    assert "Error" in done.stderr
    assert "Traceback" not in done.stderr


def bare_environment(folder: Path) -> str:
    """A Python that has none of embatch's libraries."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return str(folder / "bin" / "python")


def checkout(folder: Path) -> Path:
    """A checkout that holds the scripts and nothing else."""
    scripts = folder / "scripts" / "quality_graph"
    scripts.mkdir(parents=True)
    for path in SCRIPTS.glob("*.py"):
        (scripts / path.name).write_bytes(path.read_bytes())
    return scripts


def test_without_an_environment_the_way_out_is_named(tmp_path: Path) -> None:
    """A Python without the libraries, and a checkout without `.venv`: what lacks, and how to make it."""
    scripts = checkout(tmp_path / "checkout")
    python = bare_environment(tmp_path / "bare")
    command = [python, str(scripts / "query_similar_tasks.py"), "."]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "lacks click" in done.stderr
    assert "pip install -e ." in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bare_python_goes_on_in_the_checkouts_environment(tmp_path: Path) -> None:
    """The script is started again with `.venv`'s Python, arguments and all."""
    scripts = checkout(tmp_path / "checkout")
    bin_folder = tmp_path / "checkout" / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    stand_in = bin_folder / "python"
    stand_in.write_text('#!/bin/sh\necho "started: $@"\n')
    stand_in.chmod(0o755)
    python = bare_environment(tmp_path / "bare")
    command = [python, str(scripts / "query_similar_tasks.py"), "a b", "--k", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("query_similar_tasks.py a b --k 3\n")
