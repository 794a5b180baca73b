"""The worker's side of a benchmark: one JSON command a line on standard input, one JSON answer a line back.

Every system runs behind this same loop, in a process of its own that stays warm, so that rounds of different
systems can be interleaved. What is timed is the same for all: from a list of `str` in memory to a finished Parquet
file of keys and vectors. Reading the texts and loading the model are not timed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]


class Runner(Protocol):
    """A system under measurement."""

    @property
    def packages(self) -> Sequence[str]:
        """Distributions whose versions belong in the result."""
        ...

    def load(self, options: dict[str, Any]) -> None:
        """Open the model. Called again, it replaces what was open."""
        ...

    def embed(self, texts: list[str]) -> FloatArray:
        """`(n, dim)` float32, rows in the order of the texts."""
        ...

    def query(self, text: str) -> FloatArray:
        """`(dim,)` float32 of one short text, the fastest way that the system offers."""
        ...

    def details(self) -> dict[str, Any]:
        """What else the last `embed` has to say for itself; empty for most."""
        ...


def write_vectors(path: Path, vectors: FloatArray) -> None:
    """One Parquet file of keys (`0`, `1`, …) and vectors, as a fixed-size list of float32."""
    rows, dimensions = vectors.shape
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    table = pa.table(
        {
            "key": pa.array([str(row) for row in range(rows)]),
            "vector": pa.FixedSizeListArray.from_arrays(flat, dimensions),
        }
    )
    pq.write_table(table, path, compression="none")


def read_vectors(path: Path) -> FloatArray:
    """The vectors that `write_vectors` wrote, `(n, dim)` float32."""
    column = pq.read_table(path, columns=["vector"]).column("vector").combine_chunks()
    flat: FloatArray = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), -1)


class Worker:
    """Carries out commands on one runner."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._sets: dict[str, list[str]] = {}

    def load(self, options: dict[str, Any]) -> dict[str, Any]:
        """Open the model, and say how long it took and with which versions."""
        started = time.perf_counter()
        self._runner.load(options)
        return {"seconds": time.perf_counter() - started, "versions": versions(self._runner.packages)}

    def read(self, name: str, path: str) -> dict[str, Any]:
        """Take a set of texts into memory."""
        self._sets[name] = json.loads(Path(path).read_text("utf-8"))
        return {"rows": len(self._sets[name])}

    def embed(self, name: str, out: str, rows: int | None = None) -> dict[str, Any]:
        """Embed a set (or its first rows) and write its vectors; the timed step."""
        texts = self._sets[name][:rows]
        cpu, started = time.process_time(), time.perf_counter()
        vectors = self._runner.embed(texts)
        write_vectors(Path(out), vectors)
        seconds = time.perf_counter() - started
        return {
            "seconds": seconds,
            "cpu_s": time.process_time() - cpu,
            "rows": len(vectors),
            **self._runner.details(),
        }

    def one_by_one(self, name: str, out: str) -> dict[str, Any]:
        """Embed a set with one call a text, as programs do that know no batches; the timed step."""
        texts = self._sets[name]
        started = time.perf_counter()
        vectors = np.stack([self._runner.query(text) for text in texts])
        write_vectors(Path(out), vectors)
        return {"seconds": time.perf_counter() - started, "rows": len(vectors)}

    def query(self, texts: list[str]) -> dict[str, Any]:
        """Milliseconds that each of these queries took, one after the other."""
        took = []
        for text in texts:
            started = time.perf_counter()
            self._runner.query(text)
            took.append((time.perf_counter() - started) * 1000)
        return {"ms": took}


def serve(runner: Runner, **more: Callable[..., dict[str, Any]]) -> None:
    """Answer commands until `quit` or the end of standard input. Never returns.

    Args:
        runner: what is measured.
        more: commands that only this worker knows, by name.
    """
    # Libraries print to standard output as they like: answers get a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    worker = Worker(runner)
    commands: dict[str, Callable[..., dict[str, Any]]] = {
        "load": worker.load,
        "read": worker.read,
        "embed": worker.embed,
        "one_by_one": worker.one_by_one,
        "query": worker.query,
        **more,
    }
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "quit":
            break
        try:
            answer = commands[command.pop("do")](**command)
        except Exception as error:  # noqa: BLE001  # whatever a foreign library raises is an answer, not a hang
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
    answers.flush()
    os._exit(0)  # native threads of some libraries do not end by themselves


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Installed version of each distribution, `python` included; those that are absent left out."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
