"""Grows an index of hashed vectors step by step, asks it, and compares with an exact search: one process, its own peak.

`python -m benchmarks.workers.scale FOLDER SIZE…` prints a JSON object a size.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embatch.frontends.searching.index import Index

PER_DOCUMENT = 500
QUERIES = 200
_SYLLABLES = [first + second for first in "bdklmnr" for second in "aeiou"]


def main(folder: str, *sizes: str) -> None:
    """Grow to each size in turn."""
    from embatch.frontends.searching.index import Index

    writer = _Words(7)
    made = 0
    with Index.open(folder, model="hashing", dimensions=384, chunk_tokens=64) as index:
        for size in map(int, sizes):
            seconds = 0.0
            while made < size:
                portion = min(size - made, 100_000)
                started = time.perf_counter()
                index.add(dict(writer.documents(made, portion)), language="text")
                seconds += time.perf_counter() - started
                made += portion
            print(
                json.dumps({"seconds": round(seconds, 1), **_asked(index, writer, Path(folder) / str(size))}),
                flush=True,
            )


def _asked(index: Index, writer: _Words, answers: Path) -> dict[str, Any]:
    texts = [writer.sentence(random.Random(1_000_003 + number)) for number in range(QUERIES)]
    stats = index.stats()
    for text in texts[:10]:
        index.query(text)
    took: dict[str, list[float]] = {"hybrid": [], "vector": []}
    found = []
    for text in texts:
        for mode, times in took.items():
            started = time.perf_counter()
            hits = index.query(text, mode=mode)  # type: ignore[arg-type]  # one of the two
            times.append(1000 * (time.perf_counter() - started))
        found.append([f"{hit.chunk.path} {hit.chunk.start}" for hit in hits])
    np.save(answers.with_suffix(".npy"), index.model.queries(texts))
    answers.with_suffix(".json").write_text(json.dumps(found), "utf-8")
    return {
        "chunks": stats.chunks,
        "vector_index": stats.vector_index,
        "recall_when_built": stats.recall,
        "query_ms": {mode: round(float(np.median(times)), 2) for mode, times in took.items()},
        "query_p95_ms": {mode: round(float(np.percentile(times, 95)), 2) for mode, times in took.items()},
        "disk_bytes": stats.bytes,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


class _Words:
    """Sentences of made-up words with the frequencies of real ones (Zipf), so that some chunks are alike."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self._words = ["".join(rng.choices(_SYLLABLES, k=rng.randint(1, 4))) for _ in range(60_000)]
        weights = 1.0 / np.arange(1, len(self._words) + 1)
        self._sums = (np.cumsum(weights) / weights.sum()).tolist()

    def sentence(self, rng: random.Random) -> str:
        """Twenty-five to forty words."""
        return (
            " ".join(rng.choices(self._words, cum_weights=self._sums, k=rng.randint(25, 40))).capitalize()
            + "."
        )

    def documents(self, first: int, count: int) -> Iterator[tuple[str, str]]:
        """Documents of 500 paragraphs, which become a chunk each."""
        for start in range(first, first + count, PER_DOCUMENT):
            paragraphs = [
                f"# {number}\n\n{self.sentence(random.Random(number))}"
                for number in range(start, start + PER_DOCUMENT)
            ]
            yield f"document-{start}", "\n\n".join(paragraphs)


if __name__ == "__main__":
    main(*sys.argv[1:])
