"""fastembed on ONNX Runtime, with the same weights through its own door for custom models.

Options: `model` (folder with `model.onnx` and the tokenizer's files), `batch_size`, `threads`, `sort` (give it the
texts longest first, which a user may do and fastembed does not).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.workers.protocol import serve

if TYPE_CHECKING:
    from benchmarks.workers.protocol import FloatArray

NAME = "local/all-MiniLM-L6-v2"


class FastEmbed:
    """`TextEmbedding.embed` at its defaults unless an option says otherwise."""

    packages = ("fastembed", "onnxruntime", "tokenizers", "numpy")

    def load(self, options: dict[str, Any]) -> None:
        """Open the local export under a name of its own."""
        from fastembed import TextEmbedding
        from fastembed.common.model_description import ModelSource, PoolingType

        if NAME not in {model["model"] for model in TextEmbedding.list_supported_models()}:
            TextEmbedding.add_custom_model(
                model=NAME,
                pooling=PoolingType.MEAN,
                normalization=True,
                sources=ModelSource(hf=NAME),
                dim=384,
                model_file="model.onnx",
            )
        self._model = TextEmbedding(
            NAME, specific_model_path=options["model"], threads=options.get("threads"), local_files_only=True
        )
        self._batch_size = options.get("batch_size", 256)
        self._sort = options.get("sort", False)

    def embed(self, texts: list[str]) -> FloatArray:
        """All texts in one call of `embed`."""
        order = (
            np.argsort([-len(text) for text in texts], kind="stable") if self._sort else np.arange(len(texts))
        )
        found = self._model.embed([texts[i] for i in order], batch_size=self._batch_size)
        vectors = np.empty((len(texts), 384), dtype=np.float32)
        vectors[order] = np.stack(list(found))
        return vectors

    def query(self, text: str) -> FloatArray:
        """One text in one call."""
        return np.asarray(next(iter(self._model.embed([text]))), dtype=np.float32)

    def details(self) -> dict[str, Any]:
        """Nothing."""
        return {}


if __name__ == "__main__":
    serve(FastEmbed())
