"""`SentenceTransformerEmbedder` and `BatchTuner`: batch sizes that tune themselves, under the names of their users.

Thin: the embedder is an `Embedder` whose batches hold a number of documents, fixed or suggested by the tuner, and the
tuner is the pure decider with eyes for this machine's memory.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

from embatch.decisions import batch_tuner
from embatch.engine.memory import memory_used
from embatch.engine.tuners import CountTuner, FixedCount
from embatch.errors import ItemsFailedError, UsageError
from embatch.frontends.embedder import Embedder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from embatch.frontends.embedder import BackendName
    from embatch.types import Backend, FloatArray, Precision

FEATURE_FLAG = "ENABLE_BATCH_AUTO_TUNING"
"""Environment variable that turns the tuner on: `1`, `true`, `yes` or `on`, in any case."""


class BatchTuner(batch_tuner.BatchTuner):
    """Suggests how many documents to embed at once; see `embatch.decisions.batch_tuner.BatchTuner`.

    Memory is the fullest of the host's, the control group's and, where PyTorch uses one, the GPU's.
    """

    def __init__(
        self,
        initial_size: int = 32,
        min_size: int = 10,
        max_size: int = 500,
        memory_threshold: float = 80.0,
        history_size: int = 100,
        *,
        memory_percent: Callable[[], float] | None = None,
    ) -> None:
        super().__init__(
            initial_size,
            min_size,
            max_size,
            memory_threshold,
            history_size,
            memory_percent=memory_percent or machine_memory_percent,
        )


class SentenceTransformerEmbedder:
    """A sentence-transformers model behind `embed_text` and `embed_batch`. Thread-safe; a context manager.

    Args:
        model_name: as for `Embedder`: an alias, a folder, or owner/name.
        device: as for `Embedder`.
        batch_size: documents in one batch while the tuner is off.
        enable_batch_auto_tuning: let a `BatchTuner` choose the size; None asks the environment variable
            `ENABLE_BATCH_AUTO_TUNING`, which is off by default.
        batch_tuner: the tuner to use, with settings of its own; turns tuning on.
        precision: as for `Embedder`.
        backend: as for `Embedder`.
    """

    def __init__(
        self,
        model_name: str = "minilm",
        device: str | None = None,
        batch_size: int = 32,
        *,
        enable_batch_auto_tuning: bool | None = None,
        batch_tuner: BatchTuner | None = None,
        precision: Precision = "auto",
        backend: BackendName | Backend = "auto",
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, not {batch_size}")
        wanted = _flag() if enable_batch_auto_tuning is None else enable_batch_auto_tuning
        self.batch_tuner = batch_tuner or (BatchTuner() if wanted else None)
        self._batch_size = batch_size
        self._embedder = Embedder(
            model_name, device=device, precision=precision, backend=backend, profiles=False
        )
        self._lock = threading.Lock()

    @property
    def dimensions(self) -> int:
        """Components of a vector."""
        return self._embedder.dimensions

    @property
    def model_name(self) -> str:
        """The model's canonical name."""
        return self._embedder.spec.model

    def embed_text(self, text: str) -> FloatArray:
        """The vector `(d,)` float32 of one text.

        Raises:
            ItemError: the text cannot be embedded.
        """
        try:
            vector: FloatArray = self.embed_batch([text])[0]
        except ItemsFailedError as failed:
            raise failed.failures[0].error from None
        return vector

    def embed_batch(self, texts: Sequence[str], *, document_type: str | None = None) -> FloatArray:
        """The vectors `(n, d)` float32 of all texts, in their order; batches span documents.

        Args:
            texts: any number of strings.
            document_type: what kind they are, for the tuner's profiles.

        Raises:
            ItemsFailedError: some texts have no vector; it names them.
        """
        tuner: CountTuner | FixedCount = FixedCount(self._batch_size)
        if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
            return self._embedder.embed(texts).vectors  # which says what is wrong with it
        texts = list(texts)
        if self.batch_tuner is not None and all(isinstance(text, str) for text in texts):
            tuner = CountTuner(
                self.batch_tuner,
                texts,
                document_type,
                limits=self._embedder.backend.limits,
                max_tokens=self._embedder.spec.max_tokens,
                lock=self._lock,
            )
        vectors: FloatArray = self._embedder.embed(texts, tuner=tuner).vectors
        return vectors

    def close(self) -> None:
        """Give back the model's memory. Closing twice is allowed."""
        self._embedder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def machine_memory_percent() -> float:
    """How full the memory is, 0 to 100: the fullest of host, control group and the GPU that PyTorch uses."""
    return 100.0 * max(memory_used(), _gpu_memory_used())


def _gpu_memory_used() -> float:
    """Share of the current GPU's memory in use; 0 without one. Never imports PyTorch just to ask."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return 0.0
    free, total = torch.cuda.mem_get_info()
    return 1.0 - free / total if total else 0.0


def _flag() -> bool:
    return os.environ.get(FEATURE_FLAG, "").strip().lower() in {"1", "true", "yes", "on"}
