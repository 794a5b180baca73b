"""How an index grows: hashed vectors from 10,000 to 1,000,000 chunks, indexed and asked in one process."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import machine, markdown, results
from benchmarks.worker import REPOSITORY, WorkerError
from benchmarks.workers.protocol import versions

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.harness import Settings
    from embatch.types import FloatArray

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
QUICK = (1_000, 3_000)
_LIMIT_BYTES = 4 << 30


def run(settings: Settings) -> dict[str, Any]:
    """One process grows the index and asks; after each size, this one says what an exact search would have found."""
    folder = settings.work / "grown"
    folder.mkdir()
    sizes = [str(size) for size in (QUICK if settings.quick else SIZES)]
    measured = []
    command = [sys.executable, "-m", "benchmarks.workers.scale", str(folder), *sizes]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for size, line in zip(sizes, process.stdout, strict=False):
            one = {**json.loads(line), "recall": _recall(folder, folder / size)}
            print(f"  {one}, load {machine.load()}", flush=True)
            measured.append(one)
            if size != sizes[-1]:
                process.stdin.write("\n")
                process.stdin.flush()
        process.stdin.close()  # which ends the last wait
    if process.returncode:
        raise WorkerError(f"the growing process ended with {process.returncode}")
    return results.record(
        "scale",
        parameters={"model": "hashing", "dimensions": 384, "sizes": sizes, "limit_bytes": _LIMIT_BYTES},
        rounds=measured,
        summary={str(one["chunks"]): one for one in measured},
        versions={"embatch": versions(["embatch", "pylance", "numpy"])},
    )


def _recall(folder: Path, answers: Path) -> float:
    """Share of the ten nearest, by an exact search over the whole table, that the index found."""
    import lance

    queries: FloatArray = np.load(answers.with_suffix(".npy"))
    found: list[list[str]] = json.loads(answers.with_suffix(".json").read_text("utf-8"))
    published = json.loads((folder / ".embatch" / "index" / "published.json").read_text("utf-8"))
    table = lance.dataset(str(folder / ".embatch" / "index" / "chunks.lance"), version=published["version"])
    best = np.full((len(queries), 10), -2.0, np.float32)
    names = np.full((len(queries), 10), "", object)
    for batch in table.to_batches(columns=["path", "start", "vector"], batch_size=8192):
        vectors = np.asarray(batch["vector"].flatten(), np.float32).reshape(len(batch), -1)
        places = zip(batch["path"].to_pylist(), batch["start"].to_pylist(), strict=True)
        ids = np.asarray([f"{path} {start}" for path, start in places], object)
        scores = queries @ vectors.T
        take = np.argsort(-scores, axis=1)[:, :10]
        all_scores = np.concatenate([best, np.take_along_axis(scores, take, 1)], axis=1)
        all_names = np.concatenate([names, ids[take]], axis=1)
        keep = np.argsort(-all_scores, axis=1)[:, :10]
        best = np.take_along_axis(all_scores, keep, 1)
        names = np.take_along_axis(all_names, keep, 1)
    shares = [len(set(one) & set(other)) / 10 for one, other in zip(found, names.tolist(), strict=True)]
    return round(float(np.mean(shares)), 4)


def tables(result: dict[str, Any]) -> dict[str, str]:
    """`scale`: a line a size."""
    rows = [
        [
            f"{one['chunks']:,}",
            f"{one['query_ms']['vector']:.1f} ms",
            f"{one['query_ms']['hybrid']:.1f} ms",
            f"{one['recall']:.3f}",
            f"{one['seconds']:.0f} s",
            f"{one['disk_bytes'] / 1e9:.2f} GB",
            f"{one['peak_bytes'] / 1e9:.2f} GB",
        ]
        for one in result["rounds"]
    ]
    head = [
        "chunks",
        "query by vector, p50",
        "hybrid, p50",
        "recall@10",
        "indexing since the line above",
        "disk",
        "peak memory so far",
    ]
    return {"scale": f"{markdown.table(head, rows)}\n\n{markdown.footnote(result)}"}
