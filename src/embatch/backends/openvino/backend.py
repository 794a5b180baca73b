"""The default backend: encoders as OpenVINO graphs on the processor, one stream to a core.

It turns batches of token ids into vectors: *plan → batches → backend → sink*. Tokenising, the graph, the requests and
the measuring of precision live beside it; here they become one `Backend`. It forms no batches and retries nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import openvino

from embatch._version import __version__
from embatch.backends.cores import usable_cores
from embatch.backends.layout import read_layout
from embatch.backends.openvino import device
from embatch.backends.openvino.batches import pad
from embatch.backends.openvino.failures import reading, running
from embatch.backends.openvino.graphs import build_model, without_blank_keys
from embatch.backends.openvino.requests import FullLength, RequestPool, SingleTexts
from embatch.backends.openvino.selfcheck import is_exact_enough
from embatch.backends.tokenizing import TextTokenizer
from embatch.errors import BackendClosedError, BackendError, UsageError
from embatch.types import CostRule, Limits, ModelSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from embatch.backends.layout import Layout
    from embatch.backends.resolve import ModelFiles
    from embatch.types import FloatArray, IntArray, Precision, Tokenized

_LIMITS = Limits(cost=CostRule.PADDED, budgets=(64, 32_768), first_budget=1024)
_NO_LIMIT = 2**31 - 1
_COPIED = 1 << 29  # bytes of weights, as they are in the graph, up to which the longest batches get a copy


class OpenVINOBackend:
    """A model of sentence-transformers layout, compiled for this processor. Implements `Backend`.

    Thread-safe: up to `streams` calls of `embed` run at once, further ones wait. Whoever makes it closes it.
    """

    def __init__(
        self,
        files: ModelFiles,
        *,
        precision: Precision = "auto",
        streams: int | None = None,
        threads: int | None = None,
        calibration: Sequence[str] | None = None,
    ) -> None:
        """Read and compile the model in `files`.

        Args:
            files: the model's folder, and the name and revision that its vectors are known by.
            precision: what it computes in; `auto` takes the fastest that keeps cosine 0.9999 to fp32 here.
            streams: calls of `embed` side by side; one for each usable core unless given.
            threads: threads of all streams together; one for each stream unless given.
            calibration: texts like those to embed, for int8; a shipped sample unless given.

        Raises:
            CorruptModelError: a file is missing or broken.
            UnsupportedModelError: a model that OpenVINO cannot be made to run from these files.
            UsageError: a precision that this processor lacks, or streams and threads that make no sense.
        """
        self.streams, threads = _streams_and_threads(streams, threads)
        self._files, self._layout = files, read_layout(files.path)
        self._tokenizer = TextTokenizer(self._layout)
        with running("starting"):
            self._core = openvino.Core()
            self.device = device.describe(self._core, streams=self.streams, threads=threads)
        self._words = self._layout.config.integer("vocab_size", _NO_LIMIT)
        self._quantized = self._quantize(calibration) if precision == "int8" else None
        model = self._model()
        self._precision = self._chosen(precision, model)
        self.spec = _spec(self._files, self._layout, self._precision)
        self.limits = _LIMITS
        known = files.known.prompts if files.known else {}
        self.prompts: Mapping[str, str] = {**known, **self._layout.prompts}
        with running("compiling the model"):
            # What int8 leaves exact runs in what the processor is fastest in.
            rest = device.native_precision(self._core) if self._precision == "int8" else self._precision
            options = device.compile_options(rest, streams=self.streams, threads=threads)
            self._pool = RequestPool(
                self._core.compile_model(model, "CPU", options),
                self.streams,
                **self._variants(model, options, threads=threads, precision=rest),
            )
        self._closed = False

    def tokenize(self, texts: Sequence[str], *, prompt: str = "") -> Tokenized:
        """Ids of each text as int32 arrays `(tokens,)`, cut to the model's limit, special tokens kept."""
        return self._tokenizer.tokenize(texts, prompt=prompt)

    def take_tokens(self, ids: Sequence[Sequence[int]]) -> Tokenized:
        """Token ids as payloads, special tokens added where they lack, cut to the model's limit.

        Raises:
            BadTokensError: a list is empty, or has an id that is not in the vocabulary.
        """
        return self._tokenizer.take(ids)

    def count(self, texts: Sequence[str], *, prompt: str = "") -> IntArray:
        """`(n,)` int32: tokens that each text has in full, `prompt` and special tokens included."""
        return self._tokenizer.count(texts, prompt=prompt)

    def split(self, text: str, *, prompt: str = "") -> list[str]:
        """Consecutive pieces of `text`, each within the limit with `prompt` before it; joined: the text."""
        return self._tokenizer.split(text, prompt=prompt)

    def embed(self, payloads: Sequence[object]) -> FloatArray:
        """Vectors of one batch, `(n, dim)` float32 in the order given; `(0, dim)` for an empty batch.

        Raises:
            BackendClosedError: after `close`.
            OutOfMemoryError: the batch does not fit; a smaller one may.
            BackendError: OpenVINO failed, or answered in another shape than asked for.
        """
        if self._closed:
            raise BackendClosedError(f"The backend of {self.spec.model} is closed")
        if not payloads:
            return np.empty((0, self.spec.dimensions), dtype=np.float32)
        ids, mask = pad(cast("Sequence[Any]", payloads), self._tokenizer.pad_id, self._tokenizer.max_tokens)
        if ids.max() >= self._words:  # OpenVINO would read the memory behind the table
            raise BackendError(
                f"{self.spec.model} has {self._words} tokens, and none with the id {ids.max()}"
            )
        vectors = self._pool.run(ids, mask)
        if vectors.shape != (len(payloads), self.spec.dimensions) or vectors.dtype != np.float32:
            raise BackendError(
                f"{self.spec.model} answered {vectors.dtype} {vectors.shape}, "
                f"not float32 ({len(payloads)}, {self.spec.dimensions})"
            )
        return vectors

    def memory_used(self) -> float:
        """0.0: the processor has no memory of its own."""
        return 0.0

    def close(self) -> None:
        """Wait for calls under way, then give back the model's memory. Closing twice is allowed."""
        self._closed = True
        self._pool.close()

    def _model(self) -> Any:
        """The graph to compile."""
        if self._quantized is None:
            return build_model(self._layout)
        with reading(self._quantized):
            return self._core.read_model(self._quantized)

    def _variants(
        self, model: Any, options: dict[str, Any], *, threads: int, precision: Precision
    ) -> dict[str, Any]:
        """What `RequestPool` may compile later; nothing where a second copy of the weights is too large."""
        if sum(op.get_byte_size() for op in model.get_ops() if op.get_type_name() == "Constant") > _COPIED:
            return {}
        tokens = self._tokenizer.max_tokens

        def full_length() -> Any:
            variant = model.clone()
            variant.reshape({number: [-1, tokens] for number in range(len(variant.inputs))})
            return self._core.compile_model(variant, "CPU", options)

        def single_texts() -> Any:
            spread = device.compile_options(precision, streams=1, threads=threads)
            return self._core.compile_model(without_blank_keys(model), "CPU", spread)

        variants: dict[str, Any] = {"full_length": FullLength(tokens, full_length)}
        if self.streams > 1:  # otherwise the general model is spread already
            variants["single_texts"] = SingleTexts(single_texts)
        return variants

    def _quantize(self, calibration: Sequence[str] | None) -> Path:
        """The model's file in int8, made if it is not there; its calibration becomes part of the revision."""
        from embatch.backends.openvino import quantize

        texts = quantize.calibration_texts(calibration)
        path = quantize.quantized_model(self._files, self._layout, self._tokenizer, texts=texts)
        revision = f"{self._files.revision}+{quantize.calibration_digest(texts)}"
        self._files = replace(self._files, revision=revision)
        return path

    def _chosen(self, precision: Precision, model: Any) -> Precision:
        """The precision asked for, or the fastest that is exact enough.

        Raises:
            UsageError: a precision that this processor would only emulate.
        """
        if precision != "auto":
            device.check_precision(self._core, precision)
            return precision
        native = device.native_precision(self._core)
        processor = device.processor_name(self._core)
        versions = f"openvino {openvino.__version__}, embatch {__version__}"
        subject = f"{self._files.name} {self._files.revision}, {native}, {processor}, {versions}"
        with running(f"comparing {native} with fp32"):
            exact = is_exact_enough(self._core, model, self._tokenizer, native, subject=subject)
        return native if exact else "fp32"


def _streams_and_threads(streams: int | None, threads: int | None) -> tuple[int, int]:
    for name, value in (("streams", streams), ("threads", threads)):
        if value is not None and value < 1:
            raise UsageError(f"{name}={value} makes no sense: it must be at least 1")
    if streams is None:
        streams = min(usable_cores(), threads or usable_cores())
    threads = threads or streams
    if threads < streams:
        raise UsageError(
            f"threads={threads} cannot serve streams={streams}: each stream needs a thread of its own"
        )
    return streams, threads


def _spec(files: ModelFiles, layout: Layout, precision: Precision) -> ModelSpec:
    return ModelSpec(
        model=files.name,
        revision=files.revision,
        dimensions=layout.dimensions,
        max_tokens=layout.max_tokens,
        pooling="+".join(layout.pooling),
        normalize=layout.normalize,
        precision=precision,
    )
