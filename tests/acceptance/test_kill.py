"""Processes killed at random moments: the same command, repeated, ends with the same rows as an uninterrupted one."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = [sys.executable, "-m", "embatch", "embed"]


def write_texts(path: Path, count: int, words: int) -> int:
    """`count` JSONL rows of which every fifth repeats an earlier text; how many distinct texts they are."""
    rng = random.Random(7)
    texts: list[str] = []
    with path.open("w", encoding="utf-8") as file:
        for row in range(count):
            repeat = row % 5 == 4
            texts.append(
                rng.choice(texts) if repeat else " ".join(f"w{rng.randrange(5000)}" for _ in range(words))
            )
            file.write(json.dumps({"id": f"row-{row}", "text": texts[-1]}) + "\n")
    return len(set(texts))


def finish(command: list[str]) -> list[dict[str, Any]]:
    """Run to the end; the events it told."""
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def rows(path: Path) -> tuple[list[str], np.ndarray]:
    table = pq.read_table(path)
    return table["key"].to_pylist(), np.stack(table["vector"].to_numpy(zero_copy_only=False))


def kill_until(command: list[str], output: Path, reference: Path, *, kills: int, lifetime_s: float) -> None:
    """Start and kill `kills` times at moments spread evenly over the life of the process; check after each."""
    rng = random.Random(11)
    keys, vectors = rows(reference)
    killed = 0
    while killed < kills:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=rng.uniform(0, lifetime_s))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            killed += 1
        code = process.wait()
        assert code in {0, -signal.SIGKILL}
        if output.exists():  # whole, or not there
            found = rows(output)
            assert found[0] == keys
            assert (found[1] * vectors).sum(axis=1).min() >= 0.9999
            output.unlink()
    assert not [path for path in output.parent.iterdir() if path.suffix == ".parquet" and path != reference]


@pytest.mark.kill
@pytest.mark.timeout(500)
def test_a_hundred_kills_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    """After 100 SIGKILLs at random moments the output equals an uninterrupted run's, row for row."""
    source, output, reference = (tmp_path / name for name in ("in.jsonl", "out.parquet", "ref.parquet"))
    distinct = write_texts(source, 12_000, 8)
    options = ["--model", "hashing", "--no-split"]
    started = time.monotonic()
    finish([*COMMAND, str(source), "--to", str(reference), *options])
    lifetime_s = time.monotonic() - started
    command = [*COMMAND, str(source), "--to", str(output), *options]
    kill_until(command, output, reference, kills=100, lifetime_s=lifetime_s)

    events = finish(command)
    keys, vectors = rows(output)
    assert keys == rows(reference)[0]
    np.testing.assert_array_equal(vectors, rows(reference)[1])
    done = events[-1]
    assert done["event"] == "done"
    assert done["items"] == 12_000
    stored = sum(event["stored"] for event in events if event["event"] == "resume")
    assert done["embedded"] == distinct - stored  # what was stored is not computed again
    assert not (tmp_path / ".embatch").exists()


@pytest.mark.kill
@pytest.mark.model
@pytest.mark.timeout(300)
def test_kills_of_the_real_model_cost_only_what_was_in_flight(tmp_path: Path) -> None:
    """With minilm, killed again and again, every restart finds more vectors, and the rows come out the same."""
    source, output, reference = (tmp_path / name for name in ("in.jsonl", "out.parquet", "ref.parquet"))
    write_texts(source, 800, 20)
    started = time.monotonic()
    finish([*COMMAND, str(source), "--to", str(reference)])
    lifetime_s = time.monotonic() - started
    command = [*COMMAND, str(source), "--to", str(output)]
    kill_until(command, output, reference, kills=8, lifetime_s=lifetime_s)
    finish(command)
    keys, vectors = rows(output)
    assert keys == rows(reference)[0]
    assert (vectors * rows(reference)[1]).sum(axis=1).min() >= 0.9999
