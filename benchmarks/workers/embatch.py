"""embatch itself, behind the same loop as its peers, in a process of its own.

Options are those of `embatch.Embedder`; learned budgets and vectors are kept nowhere, so that a round profits from
nothing but the warm process. The command `tune` fixes how the next passes form their batches.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.workers.protocol import serve
from embatch import BatchTuner, Embedder
from embatch.decisions.tuning import BudgetTuner
from embatch.engine.tuners import CountTuner, FixedCount, SharedTuner

if TYPE_CHECKING:
    from benchmarks.workers.protocol import FloatArray
    from embatch.engine.tuners import Tuner


class Embatch:
    """One `Embedder`, kept open."""

    packages = (
        "embatch",
        "openvino",
        "nncf",
        "tokenizers",
        "numpy",
        "pyarrow",
        "torch",
        "sentence-transformers",
    )

    def __init__(self) -> None:
        self._embedder: Embedder | None = None
        self._details: dict[str, Any] = {}
        self._how: dict[str, Any] = {}

    @property
    def embedder(self) -> Embedder:
        """The embedder that `load` opened."""
        assert self._embedder is not None, "load comes first"
        return self._embedder

    def load(self, options: dict[str, Any]) -> None:
        """Open an embedder."""
        self._embedder = Embedder(**{"cache": None, "profiles": False, **options})

    def tune(self, **how: Any) -> dict[str, Any]:
        """How the next passes form batches, and what the backend says of its limits.

        Args:
            how: `budget=N` padded tokens, `count=N` texts sorted by length, `in_order=N` texts in the order given,
                `cold=True` a new search each pass, `documents=True` a new `BatchTuner` each pass; nothing: the
                embedder's own tuner, which stays warm.
        """
        self._how = how
        limits = self.embedder.backend.limits
        return {
            "budgets": limits.budgets,
            "first_budget": limits.first_budget,
            "streams": self.embedder.backend.streams,
        }

    def embed(self, texts: list[str]) -> FloatArray:
        """All texts in one call."""
        if "in_order" in self._how:
            self._details = {}
            return self._in_order(texts, self._how["in_order"])
        tuner = self._tuner(texts)
        result = self.embedder.embed(texts, tuner=tuner)
        report = result.report
        self._details = {
            "precision": self.embedder.spec.precision,
            "budget": report.budget,
            "embedded": report.embedded,
            "tokens": report.tokens,
            "padding": round(report.padding, 4),
            "truncated": report.truncated,
            "batches": report.batches,
        }
        if isinstance(tuner, SharedTuner):
            self._details |= {"budget": tuner.budget, "settled": tuner.settled}
        vectors: FloatArray = result.vectors
        return vectors

    def query(self, text: str) -> FloatArray:
        """One text by the call that is made for it."""
        return self.embedder.embed_query(text)

    def details(self) -> dict[str, Any]:
        """Budget, tokens, padding and rows computed, from the run's report."""
        return self._details

    def _tuner(self, texts: list[str]) -> Tuner | None:
        if "count" in self._how:
            return FixedCount(self._how["count"])
        if not self._how:
            return None
        limits = self.embedder.backend.limits
        if "documents" in self._how:
            longest = self.embedder.spec.max_tokens
            return CountTuner(BatchTuner(), texts, None, limits=limits, max_tokens=longest, lock=Lock())
        low, high = limits.budgets
        fixed = self._how.get("budget")
        return SharedTuner(BudgetTuner(low=low, high=high, first=limits.first_budget, fixed=fixed))

    def _in_order(self, texts: list[str], count: int) -> FloatArray:
        """Fixed batches in the order given, without planning: as many side by side as the backend has streams."""
        backend = self.embedder.backend
        payloads = backend.tokenize(texts).payloads
        starts = range(0, len(texts), count)
        with ThreadPoolExecutor(backend.streams) as pool:
            parts = pool.map(lambda start: backend.embed(payloads[start : start + count]), starts)
            return np.concatenate(list(parts))


if __name__ == "__main__":
    runner = Embatch()
    serve(runner, tune=runner.tune)
