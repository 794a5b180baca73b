"""CTranslate2's encoder, whose users bring tokenisation, batches and pooling themselves.

Options: `model` (converted folder), `tokenizer` (path), `max_tokens`, `batch_size`, `batch_tokens` (fill batches by
padded tokens instead), `streams` and `threads` (batches side by side, and threads for each), `compute_type`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.workers.protocol import serve

if TYPE_CHECKING:
    from benchmarks.workers.protocol import FloatArray


class CTranslate2:
    """Texts sorted by length, a fixed count a batch, mean over the tokens: what a careful user writes."""

    packages = ("ctranslate2", "tokenizers", "numpy")

    def load(self, options: dict[str, Any]) -> None:
        """Open the converted model and the tokenizer."""
        import ctranslate2
        from tokenizers import Tokenizer

        self._streams = options.get("streams", 1)
        self._encoder = ctranslate2.Encoder(
            options["model"],
            device="cpu",
            compute_type=options.get("compute_type", "int8"),
            inter_threads=self._streams,
            intra_threads=options.get("threads", 0),
        )
        self._tokenizer = Tokenizer.from_file(options["tokenizer"])
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(options["max_tokens"])
        self._batch_size = options.get("batch_size", 32)
        self._batch_tokens = options.get("batch_tokens")
        self._pool = ThreadPoolExecutor(self._streams)

    def embed(self, texts: list[str]) -> FloatArray:
        """Tokenise all, then one forward pass a batch, as many at once as there are streams."""
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        vectors = np.empty((len(texts), 384), dtype=np.float32)

        def compute(rows: list[int]) -> None:
            vectors[rows] = self._forward([ids[row] for row in rows])

        list(self._pool.map(compute, self._batches(ids)))
        return vectors

    def query(self, text: str) -> FloatArray:
        """One text, one forward pass."""
        row: FloatArray = self._forward([self._tokenizer.encode(text).ids])[0]
        return row

    def details(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def _batches(self, ids: list[list[int]]) -> list[list[int]]:
        order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
        batches: list[list[int]] = []
        start = 0
        while start < len(order):
            count = self._batch_size
            if self._batch_tokens is not None:
                count = max(1, self._batch_tokens // len(ids[order[start]]))
            batches.append(order[start : start + count])
            start += count
        return batches

    def _forward(self, ids: list[list[int]]) -> FloatArray:
        output = self._encoder.forward_batch(ids)
        hidden = np.array(output.last_hidden_state)
        lengths = np.array([len(row) for row in ids])
        mask = (np.arange(hidden.shape[1]) < lengths[:, None]).astype(np.float32)
        pooled = np.einsum("blh,bl->bh", hidden, mask)
        unit: FloatArray = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return unit


if __name__ == "__main__":
    serve(CTranslate2())
