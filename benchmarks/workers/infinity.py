"""infinity's engine in process (no HTTP), with PyTorch underneath.

Options: `model` (folder), `batch_size`, and any other argument of `EngineArgs` under `engine`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.workers.protocol import serve

if TYPE_CHECKING:
    from benchmarks.workers.protocol import FloatArray


class Infinity:
    """`AsyncEmbeddingEngine.embed` at its defaults unless an option says otherwise."""

    packages = ("infinity-emb", "sentence-transformers", "transformers", "torch", "tokenizers", "numpy")

    def load(self, options: dict[str, Any]) -> None:
        """Start the engine and its threads in one event loop that lives as long as the worker."""
        from infinity_emb import AsyncEmbeddingEngine, EngineArgs

        arguments = EngineArgs(
            model_name_or_path=options["model"],
            engine="torch",
            device="cpu",
            batch_size=options.get("batch_size", 32),
            **options.get("engine", {}),
        )
        self._loop = asyncio.new_event_loop()
        self._engine = AsyncEmbeddingEngine.from_args(arguments)
        self._loop.run_until_complete(self._engine.astart())

    def embed(self, texts: list[str]) -> FloatArray:
        """All texts in one call; the engine forms the batches."""
        vectors, _ = self._loop.run_until_complete(self._engine.embed(sentences=texts))
        return np.stack(vectors).astype(np.float32, copy=False)

    def query(self, text: str) -> FloatArray:
        """One text in one call."""
        vectors, _ = self._loop.run_until_complete(self._engine.embed(sentences=[text]))
        return np.asarray(vectors[0], dtype=np.float32)

    def details(self) -> dict[str, Any]:
        """Nothing."""
        return {}


if __name__ == "__main__":
    serve(Infinity())
