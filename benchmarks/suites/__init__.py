"""One module a suite: `run(settings)` measures and gives a result, `tables(result)` renders it as Markdown."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from benchmarks.harness import Settings

SUITES = {
    "throughput": "embatch and its peers on four sets of texts, in interleaved rounds",
    "query": "one warm query of 12 tokens, in process",
    "tuner": "the cold tuner against every fixed budget and against a fixed count",
    "memory": "peak memory of small and large runs from JSONL to Parquet",
    "engine": "what the engine itself costs, with a backend that returns at once",
    "start": "importing embatch, and a cold run over one small file",
    "quality": "nDCG@10 on Cranfield in each precision",
    "kernels": "the matrix-product ceiling of this machine",
    "lanes": "remote runs on the emulator: answer times, quotas, money",
    "decisions": "the strategy against one who knows the future, in simulated worlds",
    "search": "nDCG@10 and recall@10 of searches by words, by meaning and by both",
    "index": "making an index against the bare engine, keeping it, asking it cold and warm",
    "scale": "an index of hashed vectors that grows to a million chunks",
    "processor": "chunks through an embedding service against one call a chunk, and what that saves",
    "tasks": "task vectors in a batch against one task at a time",
    "serve": "one endpoint for many clients, against infinity's server and a plain one",
    "serve_storm": "10,000 connections at once on a queue of 1,000, and how soon it is over",
    "serve_mixed": "interactive requests beside a job of 100,000 texts",
    "serve_soak": "at capacity with failing batches, killed clients and broken bodies, for minutes",
    "gpu": "embatch and sentence-transformers in half precision on a GPU",
}
"""Name of each suite, and what it measures; `all` runs them in this order."""


class Suite(Protocol):
    """What each module of this package has."""

    def run(self, settings: Settings) -> dict[str, Any] | None:
        """Measure, and give the result that is to be recorded; None where it cannot be measured here."""
        ...

    def tables(self, result: dict[str, Any]) -> dict[str, str]:
        """Markdown by marker name: `<!-- table:NAME -->` in a document is filled with it."""
        ...


def suite(name: str) -> Suite:
    """The suite of this name."""
    return cast("Suite", import_module(f"benchmarks.suites.{name}"))
