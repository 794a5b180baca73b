"""What the engine itself costs: texts per second with a backend that returns at once, with and without journal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import markdown, results
from benchmarks.stats import spread
from benchmarks.workers.protocol import versions
from embatch import Embedder, Item
from embatch.storage.journal import RunJournal
from embatch.types import Limits, ModelSpec, Tokenized

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from benchmarks.harness import Settings
    from embatch.types import FloatArray

TEXTS = 200_000
TOKENS = 13
DIMENSIONS = 384


class Instant:
    """A backend without a model: every text has as many tokens, every vector is the same."""

    spec = ModelSpec(model="instant", revision="1", dimensions=DIMENSIONS, max_tokens=256)
    limits = Limits(budgets=(256, 16_384), first_budget=1024)
    streams = 2
    device = "instant"
    prompts: Mapping[str, str] = {}

    def __init__(self) -> None:
        self._row = np.full(DIMENSIONS, DIMENSIONS**-0.5, np.float32)

    def tokenize(self, texts: Sequence[str], *, prompt: str = "") -> Tokenized:
        """The texts themselves, each counted as `TOKENS`."""
        del prompt
        count = len(texts)
        return Tokenized(texts, np.full(count, TOKENS, np.int32), np.zeros(count, np.bool_))

    def split(self, text: str, *, prompt: str = "") -> list[str]:
        """The text, which is never too long."""
        del prompt
        return [text]

    def embed(self, payloads: Sequence[object]) -> FloatArray:
        """The same unit vector for each."""
        return np.broadcast_to(self._row, (len(payloads), DIMENSIONS)).copy()

    def memory_used(self) -> float:
        """It has no memory of its own."""
        return 0.0

    def close(self) -> None:
        """Nothing is held."""


def run(settings: Settings) -> dict[str, Any]:
    """All texts through the pipeline, with and without a journal, in turns."""
    count = settings.scaled(TEXTS, 10_000)
    items = [Item(str(row), f"short text number {row} about nothing") for row in range(count)]
    rounds = [
        {"without journal": _pass(items, None), "with journal": _pass(items, settings.work)}
        for _ in range(settings.rounds)
    ]
    return results.record(
        "engine",
        parameters={
            "rounds": settings.rounds,
            "texts": count,
            "tokens_a_text": TOKENS,
            "dimensions": DIMENSIONS,
            "streams": Instant.streams,
        },
        rounds=rounds,
        summary={how: spread([count / one[how] for one in rounds]) for how in rounds[0]},
        versions={"embatch": versions(["embatch", "numpy"])},
    )


def _pass(items: list[Item], work: Path | None) -> float:
    """Seconds until the last block is handed over, and the journal closed."""
    with Embedder(backend=Instant(), profiles=False) as embedder:
        journal = None
        started = time.perf_counter()
        if work is not None:
            journal = RunJournal.open(
                work / "engine.parquet", spec=embedder.spec, settings={}, signature=None, fresh=True
            )
        rows = sum(len(block.items) for block in embedder.pipeline(store=journal).run(items))
        if journal is not None:
            journal.finish()
        seconds = time.perf_counter() - started
    assert rows == len(items)
    return seconds


def tables(result: dict[str, Any]) -> dict[str, str]:
    """`engine`: texts per second with and without the journal."""
    rows = [
        [how, *(markdown.number(one[key]) for key in ("median", "low", "high"))]
        for how, one in result["summary"].items()
    ]
    table = markdown.table(["backend that returns at once, texts/s", "median", "lowest", "highest"], rows)
    return {"engine": f"{table}\n\n{markdown.footnote(result)}"}
