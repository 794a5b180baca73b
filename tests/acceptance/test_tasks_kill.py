"""`embatch tasks` killed at random moments: whole lines only, and the same commands, repeated, end as if never killed.

A dozen kills of each command by default; `EMBATCH_TASK_KILLS=100` for the full count.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = [sys.executable, "-m", "embatch", "tasks"]
KILLS = int(os.environ.get("EMBATCH_TASK_KILLS", "12"))
COUNT = 3000


def task(number: int) -> dict[str, Any]:
    return {"task_id": f"T{number}", "title": f"Fix part {number} of the login form", "epic": number % 7}


def content(workspace: Path) -> dict[str, Any]:
    """The last record of each task, without its time. Every whole line must be a record."""
    path = workspace / "state" / "quality_graph" / "task_vectors.jsonl"
    data = path.read_bytes() if path.exists() else b""
    records = [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]
    return {record.pop("task_id"): {**record, "timestamp": None} for record in records}


def life_of(command: list[str]) -> float:
    """Run to the end; how long it took."""
    started = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - started


def kill(command: list[str], rng: random.Random, lifetime_s: float) -> bool:
    """Start, and kill at a random moment of the process's life; whether it was still alive."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(timeout=rng.uniform(lifetime_s / 4, lifetime_s))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def workspaces(tmp_path: Path) -> tuple[Path, Path]:
    made = tmp_path / "killed", tmp_path / "clean"
    for folder in made:
        folder.mkdir()
    return made


@pytest.mark.kill
@pytest.mark.timeout(900)
def test_recording_survives_being_killed(tmp_path: Path) -> None:
    """After any number of SIGKILLs every line is whole, and the next run ends with what a clean one ends with."""
    workspace, clean = workspaces(tmp_path)
    source = tmp_path / "tasks.jsonl"
    source.write_text("".join(json.dumps(task(number)) + "\n" for number in range(COUNT)))
    arguments = ["--batch-from-file", str(source), "--embedding-mode", "tfidf"]
    lifetime_s = life_of([*COMMAND, "record", str(clean), *arguments])
    expected = content(clean)
    assert len(expected) == COUNT
    path = workspace / "state" / "quality_graph" / "task_vectors.jsonl"
    rng, killed = random.Random(3), 0
    while killed < KILLS:
        killed += kill([*COMMAND, "record", str(workspace), *arguments], rng, lifetime_s)
        found = content(workspace)
        assert all(expected[name] == record for name, record in found.items())
        if len(found) == COUNT:
            path.unlink()
    life_of([*COMMAND, "record", str(workspace), *arguments])
    assert content(workspace) == expected
    assert path.read_bytes().endswith(b"\n")


@pytest.mark.kill
@pytest.mark.timeout(900)
def test_a_monitor_loses_no_task_to_being_killed(tmp_path: Path) -> None:
    """Tasks handed over are in the spool or the file at every moment, and in the end all in the file."""
    workspace, clean = workspaces(tmp_path)
    spool = workspace / "spool"
    spool.mkdir()
    command = [
        *COMMAND,
        "monitor",
        str(workspace),
        "--spool",
        str(spool),
        "--once",
        "--embedding-mode",
        "tfidf",
    ]
    other = clean / "spool"
    other.mkdir()
    names = iter(range(10**9))
    expected: dict[str, Any] = {}

    def hand_over(folder: Path, tasks: list[dict[str, Any]]) -> None:
        for one in tasks:
            name = f"{next(names):09d}.json"
            (folder / f".{name}").write_text(json.dumps(one))
            (folder / f".{name}").rename(folder / name)
            expected[one["task_id"]] = one

    hand_over(other, [task(number) for number in range(500)])
    expected.clear()
    lifetime_s = life_of([*COMMAND, "monitor", str(clean), "--spool", str(other), "--once"])
    rng, killed = random.Random(5), 0
    while killed < KILLS:
        hand_over(spool, [{**task(rng.randrange(400)), "round": killed} for _ in range(300)])
        killed += kill(command, rng, lifetime_s)
        waiting = [json.loads(path.read_bytes()) for path in spool.rglob("*.json")]
        recorded = content(workspace)
        assert set(expected) == {one["task_id"] for one in waiting} | set(recorded)
    life_of(command)
    found = content(workspace)
    assert not [path for path in spool.rglob("*") if path.suffix == ".json"]
    assert set(found) == set(expected)
    for name, one in expected.items():
        assert found[name]["round"] == one["round"]
        assert len(found[name]["embedding"]) == 384


@pytest.mark.kill
@pytest.mark.timeout(900)
def test_a_killed_reindex_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    """Never a half: each record is of one model or all are of the other, and nothing else about them changes."""
    workspace, clean = workspaces(tmp_path)
    source = tmp_path / "tasks.jsonl"
    source.write_text("".join(json.dumps(task(number)) + "\n" for number in range(COUNT)))
    for folder in (workspace, clean):
        life_of([*COMMAND, "record", str(folder), "--batch-from-file", str(source)])
    modes = {"tfidf": content(clean)}
    environment = {**os.environ, "QUALITY_GRAPH_EMBED_MODEL_NAME": "hashing-384"}
    os.environ.update(environment)
    try:
        lifetime_s = life_of([*COMMAND, "reindex", str(clean), "--embedding-mode", "neural"])
        modes["neural"] = content(clean)
        assert modes["neural"] != modes["tfidf"]
        rng, killed = random.Random(7), 0
        while killed < max(4, KILLS // 3):
            mode = rng.choice(["tfidf", "neural"])
            killed += kill([*COMMAND, "reindex", str(workspace), "--embedding-mode", mode], rng, lifetime_s)
            assert content(workspace) in modes.values()
        life_of([*COMMAND, "reindex", str(workspace), "--embedding-mode", "neural"])
    finally:
        os.environ.pop("QUALITY_GRAPH_EMBED_MODEL_NAME", None)
    assert content(workspace) == modes["neural"]
    left = {path.name for path in (workspace / "state" / "quality_graph").iterdir()}
    assert left == {"task_vectors.jsonl", "task_vectors.jsonl.lock"}
