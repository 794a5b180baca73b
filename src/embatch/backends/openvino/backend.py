"""The default backend: encoders as OpenVINO graphs on the processor, one stream to a core.

It turns batches of token ids into vectors: *plan → batches → backend → sink*. Tokenising, the graph and the choice
of precision live beside it; here are the compiled model, its requests, and the life from start to close. It forms
no batches and retries nothing.
"""

from __future__ import annotations

import gc
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import openvino

from embatch._version import __version__
from embatch.backends.layout import read_layout
from embatch.backends.openvino import device
from embatch.backends.openvino.batches import pad
from embatch.backends.openvino.failures import running
from embatch.backends.openvino.graphs import build_model
from embatch.backends.openvino.selfcheck import is_exact_enough
from embatch.backends.tokenizing import TextTokenizer
from embatch.errors import BackendClosedError, BackendError, UsageError
from embatch.types import CostRule, Limits, ModelSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embatch.backends.layout import Layout
    from embatch.backends.resolve import ModelFiles
    from embatch.types import FloatArray, IntArray, Precision, Tokenized

_LIMITS = Limits(cost=CostRule.PADDED, budgets=(64, 32_768), first_budget=1024)


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
    ) -> None:
        """Read and compile the model in `files`.

        Args:
            files: the model's folder, and the name and revision that its vectors are known by.
            precision: what it computes in; `auto` takes the fastest that keeps cosine 0.9999 to fp32 here.
            streams: calls of `embed` side by side; one for each usable core unless given.
            threads: threads of all streams together; one for each stream unless given.

        Raises:
            CorruptModelError: a file is missing or broken.
            UnsupportedModelError: a model that OpenVINO cannot be made to run from these files.
            UsageError: a precision that this processor lacks, or streams and threads that make no sense.
        """
        self.streams, self._threads = _streams_and_threads(streams, threads)
        layout = read_layout(files.path)
        self._tokenizer = TextTokenizer(layout)
        with running("starting"):
            core = openvino.Core()
            self.device = device.describe(core, streams=self.streams, threads=self._threads)
        model, precision = self._model(core, files, layout, precision)
        self.spec = _spec(files, layout, precision)
        self.limits = _LIMITS
        self.prompts: Mapping[str, str] = {**(files.known.prompts if files.known else {}), **layout.prompts}
        with running("compiling the model"):
            options = device.compile_options(precision, streams=self.streams, threads=self._threads)
            self._compiled = core.compile_model(model, "CPU", options)
            # None among the requests says that the backend is closed.
            self._requests: SimpleQueue[Any] = SimpleQueue()
            for _ in range(self.streams):
                self._requests.put(self._compiled.create_infer_request())
        self._closing = threading.Lock()
        self._closed = False

    def tokenize(self, texts: Sequence[str], *, prompt: str = "") -> Tokenized:
        """Ids of each text as int32 arrays `(tokens,)`, cut to the model's limit, special tokens kept."""
        return self._tokenizer.tokenize(texts, prompt=prompt)

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
        if not payloads:
            return np.empty((0, self.spec.dimensions), dtype=np.float32)
        ids, mask = pad(cast("Sequence[Any]", payloads), self._tokenizer.pad_id)
        request = self._requests.get()
        if request is None:
            self._requests.put(None)
            raise BackendClosedError(f"The backend of {self.spec.model} is closed")
        try:
            with running(f"embedding {ids.shape[0]} texts of up to {ids.shape[1]} tokens"):
                vectors = _infer(request, ids, mask)
        finally:
            self._requests.put(request)
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
        with self._closing:
            if self._closed:
                return
            self._closed = True
            for _ in range(self.streams):
                self._requests.get()
            self._requests.put(None)
            self._compiled = None
            gc.collect(0)

    def _model(
        self, core: Any, files: ModelFiles, layout: Layout, precision: Precision
    ) -> tuple[Any, Precision]:
        """The graph to compile, and the precision to compile it in."""
        if precision == "int8":
            from embatch.backends.openvino.quantize import quantized_model

            path = quantized_model(files, layout, self._tokenizer)
            with running(f"reading {path}"):
                return core.read_model(path), precision
        device.check_precision(core, precision)
        model = build_model(layout)
        if precision != "auto":
            return model, precision
        native = device.native_precision(core)
        with running(f"comparing {native} with fp32"):
            processor = device.processor_name(core)
            versions = f"openvino {openvino.__version__}, embatch {__version__}"
            subject = f"{files.name} {files.revision}, {native}, {processor}, {versions}"
            exact = native == "fp32" or is_exact_enough(core, model, self._tokenizer, native, subject=subject)
        return model, native if exact else "fp32"


def _infer(request: Any, ids: IntArray, mask: IntArray) -> FloatArray:
    """Run one request on memory that OpenVINO owns, and copy the answer out of it."""
    for number, array in enumerate((ids, mask)):
        tensor = request.get_input_tensor(number)
        tensor.shape = array.shape
        tensor.data[:] = array
    request.infer()
    return np.array(request.get_output_tensor(0).data)


def _streams_and_threads(streams: int | None, threads: int | None) -> tuple[int, int]:
    for name, value in (("streams", streams), ("threads", threads)):
        if value is not None and value < 1:
            raise UsageError(f"{name}={value} makes no sense: it must be at least 1")
    if streams is None:
        streams = min(device.usable_cores(), threads or device.usable_cores())
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
