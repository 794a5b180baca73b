"""sentence-transformers, with PyTorch or OpenVINO underneath: the yardstick, and the strongest peer.

Options: `model` (folder), `backend` (`torch`, `openvino`), `device`, `dtype` (`float32`, `bfloat16`, `float16`),
`batch_size`, `openvino` (properties of the device, such as `NUM_STREAMS`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.workers.protocol import serve

if TYPE_CHECKING:
    from benchmarks.workers.protocol import FloatArray


class SentenceTransformers:
    """`SentenceTransformer.encode` at its defaults unless an option says otherwise."""

    packages = (
        "sentence-transformers",
        "transformers",
        "torch",
        "optimum-intel",
        "openvino",
        "tokenizers",
        "numpy",
    )

    def load(self, options: dict[str, Any]) -> None:
        """Open the model on its device."""
        from sentence_transformers import SentenceTransformer

        arguments: dict[str, Any] = {}
        if "dtype" in options:
            arguments["torch_dtype"] = options["dtype"]
        if "openvino" in options:
            arguments["ov_config"] = options["openvino"]
        self._model = SentenceTransformer(
            options["model"],
            device=options.get("device", "cpu"),
            backend=options.get("backend", "torch"),
            model_kwargs=arguments,
        )
        self._batch_size = options.get("batch_size", 32)

    def embed(self, texts: list[str]) -> FloatArray:
        """All texts in one call of `encode`."""
        vectors = self._model.encode(texts, batch_size=self._batch_size, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)

    def query(self, text: str) -> FloatArray:
        """One text in one call of `encode`."""
        return np.asarray(self._model.encode(text, show_progress_bar=False), dtype=np.float32)

    def details(self) -> dict[str, Any]:
        """Nothing."""
        return {}


if __name__ == "__main__":
    serve(SentenceTransformers())
