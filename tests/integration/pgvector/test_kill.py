"""A writer that is killed leaves an index that the next one completes."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from embatch.chunks import Where
from embatch.storage.vectors.pgvector import open_reader

if TYPE_CHECKING:
    from tests.integration.pgvector.server import Server

FILES = 60

# Brings an index to what a list of files says, publishes now and then, and says what it had to embed.
WRITER = f"""
import hashlib, sys, time
import numpy as np
from embatch.chunks import Chunk, FileState
from embatch.errors import IndexBusyError
from embatch.storage.vectors.pgvector import open_writer
from embatch.types import ModelSpec
url = sys.argv[1]
spec = ModelSpec(model="test/model", revision="1", dimensions=8, max_tokens=64)

def embedded(digest):
    return np.frombuffer(digest[:8], np.uint8).astype(np.float32) + 1

def chunks_of(number, version):
    path = f"file {{number}}"
    texts = [f"def f{{number}}_{{at}}(): version {{version if at == 0 else 0}}" for at in range(20)]
    return path, [Chunk(path=path, text=t, start=at, end=at + 1, start_line=at + 1, end_line=at + 1,
        kind="function", language="python") for at, t in enumerate(texts)]

while True:
    try:
        writer = open_writer(url, spec=spec)
    except IndexBusyError:
        continue
    break
print("open", flush=True)
for version in (1, 2):
    for number in range({FILES}):
        path, chunks = chunks_of(number, version)
        done = writer.files().get(path)
        if done is not None and done.mtime_ns >= version:
            continue
        if number % 10 == version:
            writer.remove([path])
            if number % 20 == version:
                continue
        held = writer.known([c.digest for c in chunks])
        for c in chunks:
            if c.digest not in held:
                print("embed", c.digest.hex(), flush=True)
        vectors = np.stack([held.get(c.digest, embedded(c.digest)) for c in chunks])
        state = FileState(path=path, size_bytes=1, mtime_ns=version, inode=1, digest=b"d" * 16, chunks=len(chunks))
        writer.replace([state], chunks, vectors)
        if number % 7 == 0:
            writer.publish()
writer.publish()
print("done", flush=True)
"""


def content(server: Server, url: str) -> dict[str, Any]:
    """Everything that a reader can learn, and the counts behind its scores."""
    reader = open_reader(url)
    (hits,) = reader.nearest(_query(), k=5000, where=Where())
    (words,) = reader.matching(["version 2"], k=5000, where=Where())
    stats = reader.stats()
    name = url.partition("#")[2]
    (edition,) = server.run(f"SELECT max(edition) FROM {name}.editions")[0]
    counted = server.run(f"SELECT word, chunks FROM {name}.frequencies_{edition} WHERE chunks > 0 ORDER BY 1")
    found = {
        "near": sorted((hit.chunk.path, hit.chunk.start, hit.chunk.text, hit.score) for hit in hits),
        "words": sorted((hit.chunk.path, hit.chunk.start, round(hit.score, 9)) for hit in words),
        "counts": (reader.count(), stats.chunks, stats.files, dict(stats.by_language), dict(stats.by_kind)),
        "frequencies": counted,
    }
    reader.close()
    return found


def _query() -> Any:
    import numpy as np

    return np.arange(1, 9, dtype=np.float32)[None]


@pytest.mark.kill
def test_a_killed_writer_is_completed_by_the_next(server: Server, url: str) -> None:
    """After five kills at any moment, the next run completes, equals a clean one, and embeds nothing stored twice."""
    rng = random.Random(11)
    embedded: list[str] = []
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            embedded += [writer.stdout.readline() for _ in range(1 + rng.randint(0, 300))]
            time.sleep(rng.random() * 0.005)
            writer.kill()
            embedded += writer.stdout.readlines()
    ran = subprocess.run([sys.executable, "-c", WRITER, url], capture_output=True, text=True, check=True)
    assert ran.stdout.endswith("done\n")
    clean = f"{url}_clean"
    once = subprocess.run([sys.executable, "-c", WRITER, clean], capture_output=True, text=True, check=True)
    assert content(server, url) == content(server, clean)
    lines = [line for line in (*embedded, *ran.stdout.splitlines(keepends=True)) if line.startswith("embed")]
    most = once.stdout.count("embed") + 5 * 20  # at a kill, one file's chunks were embedded and not stored
    assert len(lines) <= most
