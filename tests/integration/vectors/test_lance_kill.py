"""Writers of the Lance store killed at random moments: nothing half is ever seen, and the next one goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.contract.chunk_stores.making import EVERYTHING, texts, vector
from tests.integration.vectors.writing_child import wanted

from embatch.errors import IndexNotFoundError
from embatch.storage.vectors import open_reader

pytestmark = [pytest.mark.search, pytest.mark.kill]

KILLS = int(os.environ.get("EMBATCH_TEST_KILLS", "12"))
GENERATIONS = 8
ROOT = Path(__file__).parents[3]


def run(folder: Path, *, life_s: float | None = None) -> int:
    """Start a writer, and kill it after `life_s` seconds; how it ended. It may not fail of itself."""
    start = "from tests.integration.vectors.writing_child import main; import sys; from pathlib import Path; "
    call = f"main(Path(sys.argv[1]), {GENERATIONS})"
    errors = folder.with_suffix(".errors")
    with errors.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-c", f"{start}{call}", str(folder)], cwd=ROOT, stderr=sink
        )
        try:
            process.wait(timeout=life_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
    ended = process.wait()
    assert ended in {0, -signal.SIGKILL}, errors.read_text()
    return ended


def check_whole(folder: Path) -> int:
    """That what is published is one generation, all of it; which one, or -1 before the first."""
    try:
        reader = open_reader(folder)
    except IndexNotFoundError:
        return -1
    generation = int(reader.about["generation"])
    files = wanted(generation)
    assert texts(reader) == sorted(text for group in files.values() for text in group)
    assert reader.count() == sum(map(len, files.values()))
    assert reader.stats().files == len(files)
    for path, group in files.items():
        found = reader.at(path, 1)
        assert found is not None
        assert found[0].text == group[0]
        assert abs(found[1] - vector(group[0])).max() < 1e-6
    assert {hit.chunk.path for hit in reader.matching(["wordhx"], k=50, where=EVERYTHING)[0]} == {"f7.py"}
    reader.close()
    return generation


@pytest.mark.timeout(600)
def test_kills_lose_nothing_and_show_nothing_half(tmp_path: Path) -> None:
    """After each SIGKILL readers see one whole generation, no older one, and the last writer ends as a clean one."""
    clean = tmp_path / "clean"
    began = time.monotonic()
    assert run(clean) == 0
    life_s = time.monotonic() - began
    assert check_whole(clean) == GENERATIONS - 1
    rng = random.Random(5)
    folder, seen = tmp_path / "killed", -1
    for number in range(KILLS):
        run(folder, life_s=rng.uniform(0.15, 0.8) * life_s)
        now = check_whole(folder)
        assert now >= seen
        seen = now
        if seen == GENERATIONS - 1:  # begin again: all moments of a life are wanted
            folder, seen = tmp_path / f"killed{number}", -1
    assert run(folder) == 0
    assert check_whole(folder) == GENERATIONS - 1
    assert run(folder) == 0
