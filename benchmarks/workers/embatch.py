"""embatch itself, behind the same loop as its peers, in a process of its own.

Options are those of `embatch.Embedder`; learned budgets and vectors are kept nowhere, so that a round profits from nothing
but the warm process.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.workers.protocol import serve
from embatch import Embedder

if TYPE_CHECKING:
    from benchmarks.workers.protocol import FloatArray


class Embatch:
    """One `Embedder`, kept open.

    Options:
        in_input_order: a count. Fixed batches of so many texts in the order given, without the engine, as many
            side by side as the backend has streams: what planning is measured against.
    """

    packages = ("embatch", "openvino", "tokenizers", "numpy", "pyarrow", "torch", "sentence-transformers")

    def __init__(self) -> None:
        self._embedder: Embedder | None = None
        self._details: dict[str, Any] = {}

    def load(self, options: dict[str, Any]) -> None:
        """Open an embedder, closing the one before."""
        if self._embedder is not None:
            self._embedder.close()
        options = dict(options)
        self._count = options.pop("in_input_order", None)
        self._embedder = Embedder(**{"cache": None, "profiles": False, **options})

    def embed(self, texts: list[str]) -> FloatArray:
        """All texts in one call."""
        assert self._embedder is not None
        if self._count is not None:
            self._details = {}
            return self._embed_by_count(self._embedder, texts, self._count)
        result = self._embedder.embed(texts)
        report = result.report
        self._details = {
            "budget": report.budget,
            "embedded": report.embedded,
            "tokens": report.tokens,
            "padding": round(report.padding, 4),
            "truncated": report.truncated,
            "batches": report.batches,
        }
        vectors: FloatArray = result.vectors
        return vectors

    def query(self, text: str) -> FloatArray:
        """One text by the call that is made for it."""
        assert self._embedder is not None
        return self._embedder.embed_query(text)

    def details(self) -> dict[str, Any]:
        """Budget, tokens, padding and rows computed, from the run's report."""
        return self._details

    @staticmethod
    def _embed_by_count(embedder: Embedder, texts: list[str], count: int) -> FloatArray:
        backend = embedder.backend
        payloads = backend.tokenize(texts).payloads
        with ThreadPoolExecutor(backend.streams) as pool:
            starts = range(0, len(texts), count)
            return np.concatenate(
                list(pool.map(lambda start: backend.embed(payloads[start : start + count]), starts))
            )


if __name__ == "__main__":
    serve(Embatch())
