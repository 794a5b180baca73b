"""Task vectors behind the same loop as everything else: each text is the title of a task.

Options: `mode` (`neural`, `tfidf`). The command `batches` says how many tasks the next passes compute at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.workers.protocol import serve
from embatch.tasks import TaskEmbedder

if TYPE_CHECKING:
    from benchmarks.workers.protocol import FloatArray


class Tasks:
    """`compute_embeddings_batch` and `compute_embedding` of one `TaskEmbedder`."""

    packages = ("embatch", "openvino", "tokenizers", "numpy", "pyarrow")

    def load(self, options: dict[str, Any]) -> None:
        """Open the model."""
        self._embedder = TaskEmbedder(options["mode"])
        self._size = 32
        self._embedder.compute_embedding("open it")

    def batches(self, size: int) -> dict[str, Any]:
        """How many tasks to compute at once from now on."""
        self._size = size
        return {}

    def embed(self, texts: list[str]) -> FloatArray:
        """All tasks in one call."""
        return self._embedder.compute_embeddings_batch([{"title": text} for text in texts], self._size)

    def query(self, text: str) -> FloatArray:
        """One task in one call."""
        return self._embedder.compute_embedding(text)

    def details(self) -> dict[str, Any]:
        """The batch size."""
        return {"batch": self._size}


if __name__ == "__main__":
    runner = Tasks()
    serve(runner, batches=runner.batches)
