"""What `put` acknowledged is there after SIGKILL, whenever it strikes."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pytest

from embatch.storage.journal import RunJournal

if TYPE_CHECKING:
    from pathlib import Path

    from embatch.types import FloatArray, ModelSpec

    class Texts(Protocol):
        def __call__(self, count: int, *, first: int = 0) -> tuple[list[bytes], FloatArray]: ...


# Stores texts from a number on, in puts of uneven size, and says after each how far it is.
WRITER = """
import hashlib, random, sys
from pathlib import Path
import numpy as np
from embatch.storage.journal import RunJournal
from embatch.types import ModelSpec
output, first, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
spec = ModelSpec(model="test/model", revision="1", dimensions=6, max_tokens=64)
rng = random.Random(seed)
journal = RunJournal.open(output, spec=spec, settings={}, signature=None)
while True:
    count = rng.choice([1, 32, 32, 300, 2000])
    digests = [hashlib.blake2b(str(n).encode(), digest_size=16).digest() for n in range(first, first + count)]
    data = np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(count, 16)
    journal.put(digests, data[:, :6].astype(np.float32))
    first += count
    print(first, flush=True)
"""


def assert_holds(journal: RunJournal, digests: list[bytes], vectors: FloatArray) -> None:
    """Every digest has its own vector."""
    found = journal.get(digests)
    np.testing.assert_array_equal(np.stack([found[digest] for digest in digests]), vectors)


@pytest.mark.kill
def test_thirty_kills_lose_nothing_that_was_acknowledged(
    tmp_path: Path, spec: ModelSpec, texts: Texts
) -> None:
    """Killed at a random point of an endless run, the journal opens again and holds every acknowledged vector."""
    rng = random.Random(13)
    output = tmp_path / "out.parquet"
    acknowledged = 0
    for seed in range(30):
        command = [sys.executable, "-c", WRITER, str(output), str(acknowledged), str(seed)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(rng.randint(1, 40)):
                acknowledged = int(writer.stdout.readline())
            writer.kill()
            for line in writer.stdout:  # what it still got out
                acknowledged = int(line) if line.endswith("\n") else acknowledged
        with RunJournal.open(output, spec=spec, settings={}, signature=None) as journal:
            assert journal.changes == []
            assert journal.stored >= acknowledged
            newest = max(0, acknowledged - 20_000)
            assert_holds(journal, *texts(acknowledged - newest, first=newest))
    with RunJournal.open(output, spec=spec, settings={}, signature=None) as journal:
        assert_holds(journal, *texts(acknowledged))
