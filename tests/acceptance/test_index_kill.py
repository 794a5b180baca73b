"""`embatch index` killed at random moments: the next run completes, and the index equals a clean one."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import embatch
from embatch.chunks import Where
from embatch.errors import IndexNotFoundError
from embatch.storage.vectors import open_reader

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.search, pytest.mark.kill]

SOURCES = Path(embatch.__file__).parent
COMMAND = [sys.executable, "-m", "embatch", "index"]
HASHING = ["--model", "hashing", "--dimensions", "64", "--chunk-tokens", "128"]
KILLS = int(os.environ.get("EMBATCH_INDEX_KILLS", "12"))
"""`EMBATCH_INDEX_KILLS=100` is the whole of it, in some minutes."""


def indexed(folder: Path) -> dict[str, Any]:
    """Run to the end; what it told."""
    done = subprocess.run(
        [*COMMAND, str(folder), *HASHING, "--json"], capture_output=True, text=True, check=True
    )
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def content(folder: Path) -> dict[tuple[str, int, str], list[float]]:
    """Every chunk that is published, with the cosines of its vector to some random ones."""
    probes = np.random.default_rng(3).standard_normal((6, 64)).astype(np.float32)
    reader = open_reader(str(folder / ".embatch" / "index"))
    try:
        count = reader.count()
        found: dict[tuple[str, int, str], list[float]] = {}
        for hits in reader.nearest(probes, k=max(1, count), where=Where()):
            assert len(hits) == count
            for hit in hits:
                found.setdefault((hit.chunk.path, hit.chunk.start, hit.chunk.text), []).append(hit.score)
        assert len(found) == count
        return found
    finally:
        reader.close()


def edits(folder: Path, rng: random.Random) -> Iterator[None]:
    """Changes as people make them: files edited, moved, deleted and added, time and again."""
    files = sorted(folder.rglob("*.py"))
    while True:
        for _ in range(4):
            file = rng.choice(files)
            if file.exists():
                file.write_text(
                    f"{file.read_text('utf-8')}\n\ndef added_{rng.randrange(10**6)}():\n    return 1\n"
                )
        moved = rng.choice(files)
        if moved.exists():
            moved.rename(moved.with_name(f"moved_{rng.randrange(10**6)}.py"))
        gone = rng.choice(files)
        gone.unlink(missing_ok=True)
        (folder / f"new_{rng.randrange(10**6)}.md").write_text(f"# New\n\nNumber {rng.random()}.\n")
        files = sorted(folder.rglob("*.py"))
        yield


@pytest.mark.timeout(900)
def test_kills_at_random_moments_leave_an_index_that_equals_a_clean_one(tmp_path: Path) -> None:
    """Between kills files change; readers always see a whole index, and at the end it is that of a fresh run."""
    folder, clean = tmp_path / "project", tmp_path / "clean"
    shutil.copytree(SOURCES / "decisions", folder / "decisions", ignore=shutil.ignore_patterns("__pycache__"))
    rng = random.Random(5)
    changes = edits(folder, rng)
    started = time.monotonic()
    indexed(folder)
    lifetime_s = time.monotonic() - started
    shutil.rmtree(folder / ".embatch")
    killed = 0
    while killed < KILLS:
        process = subprocess.Popen(
            [*COMMAND, str(folder), *HASHING], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        try:
            _, said = process.communicate(timeout=rng.uniform(0.2 * lifetime_s, lifetime_s))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            killed += 1
            _, said = process.communicate()
        assert process.returncode in {0, -signal.SIGKILL}, said
        try:
            content(folder)  # whole, as it was after some run that ended
        except IndexNotFoundError:
            assert process.returncode != 0
        if killed % 3 == 0:
            next(changes)
    indexed(folder)
    shutil.copytree(folder, clean, ignore=shutil.ignore_patterns(".embatch"))
    indexed(clean)
    found, expected = content(folder), content(clean)
    assert found.keys() == expected.keys()
    for key, scores in expected.items():
        np.testing.assert_allclose(found[key], scores, atol=1e-5)
    assert not list((folder / ".embatch" / "index").glob("journal.db*"))


def test_a_killed_run_embeds_nothing_twice(tmp_path: Path) -> None:
    """What a killed run had embedded is taken over by the next one: together they embed each chunk about once."""
    folder = tmp_path / "project"
    folder.mkdir()
    rng = random.Random(9)
    for number in range(40):
        sections = [
            f"# Section {at}\n\n" + " ".join(f"w{rng.randrange(9000)}" for _ in range(60)) for at in range(60)
        ]
        (folder / f"{number}.md").write_text("\n\n".join(sections), "utf-8")
    log = folder / ".embatch" / "index" / "journal.db-wal"
    process = subprocess.Popen(
        [*COMMAND, str(folder), *HASHING], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not (log.exists() and log.stat().st_size > 100_000):
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    told = indexed(folder)
    assert told["chunks"] == 2400
    assert told["embedded"] + told["reused"] == 2400
    assert told["reused"] >= 100  # of 256 bytes each, and what goes with them
