"""The torch backend: any model that sentence-transformers can load, on CUDA, MPS or the processor.

It turns batches into vectors, *plan → batches → backend → sink*, with the modules of sentence-transformers and none of
its loops: no sorting, no batching by count, half precision on a GPU. Only safetensors are loaded, from local files, and
no code that comes with a model is run. Preparing texts is `torch_texts`'s matter.
"""

from __future__ import annotations

import importlib
import logging
import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from embatch.backends import torch_device
from embatch.backends.files import survey
from embatch.backends.layout import Layout, read_layout
from embatch.backends.sample import sample_texts
from embatch.backends.tokenizing import TextTokenizer
from embatch.backends.torch_texts import OwnTexts, SharedTexts, Texts
from embatch.errors import (
    BackendClosedError,
    BackendError,
    EmbatchError,
    MissingExtraError,
    OutOfMemoryError,
    UnsupportedModelError,
    UsageError,
)
from embatch.types import CostRule, Limits, ModelSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from embatch.backends.resolve import ModelFiles
    from embatch.types import FloatArray, Precision, Tokenized

_ON_GPU = Limits(cost=CostRule.PADDED, budgets=(1024, 1_048_576), first_budget=16_384)
_ON_CPU = Limits(cost=CostRule.PADDED, budgets=(64, 32_768), first_budget=1024)

_MEAN_COSINE, _LEAST_COSINE = 0.9999, 0.9995
"""What `precision="auto"` keeps to fp32: on average, and for every single text of the sample."""
_SAMPLE = 32

_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "alloc failed")
_log = logging.getLogger("embatch")


class TorchBackend:
    """A model under sentence-transformers. Implements `Backend`.

    Thread-safe: up to `streams` calls of `embed` run at once, further ones wait. Whoever makes it closes it.
    """

    def __init__(
        self,
        files: ModelFiles,
        *,
        precision: Precision = "auto",
        device: str | None = None,
        streams: int | None = None,
    ) -> None:
        """Load the model in `files`.

        Args:
            files: the model's folder, and the name and revision that its vectors are known by.
            precision: what it computes in; `auto`: fp32 on the processor; on a GPU the half precision that the model is
                stored in, else the first of bf16 and fp16 that keeps cosine 0.9999 to fp32.
            device: `cuda`, `cuda:1`, `mps` or `cpu`; unless given, the first of these that is there.
            streams: calls of `embed` side by side; 2 on CUDA, where the second prepares while the first computes,
                else 1.

        Raises:
            MissingExtraError: torch or sentence-transformers is not installed.
            UnsupportedModelError: weights as pickles, or a model that sentence-transformers cannot load.
            UsageError: a device or precision that this machine lacks.
        """
        if streams is not None and streams < 1:
            raise UsageError(f"streams={streams} makes no sense: it must be at least 1")
        self._torch = _library("torch")
        self._device = torch_device.choose(self._torch, device)
        torch_device.check_precision(self._torch, self._device, precision)
        self._on_gpu = self._device.type != "cpu"
        self.streams = streams or (2 if self._device.type == "cuda" else 1)
        self.device = torch_device.describe(self._torch, self._device)
        self.limits = _ON_GPU if self._on_gpu else _ON_CPU
        self._launching = threading.Lock()
        self._closing = threading.Lock()
        self._free = threading.BoundedSemaphore(self.streams)
        self._half: Any = None
        survey(files.path)
        layout = _layout(files.path)
        precision = self._stored_in(layout) if precision == "auto" else precision
        exact = precision == "auto"
        dtype = torch_device.dtype(self._torch, "fp32" if exact else precision)
        self._model = _load(files.path, self._device, dtype)
        self._texts: Texts | None = self._tokenizer(layout)
        self._normalized = type(self._model[-1]).__name__ == "Normalize"
        own = {name: text for name, text in self._model.prompts.items() if text}
        known = files.known.prompts if files.known else {}
        self.prompts: Mapping[str, str] = {**known, **own}
        chosen = self._fastest() if exact else self._compute_in(precision)
        self.spec = ModelSpec(
            model=files.name,
            revision=files.revision,
            dimensions=self._embed(self.tokenize(["a"]).payloads).shape[1],
            max_tokens=self._open().max_tokens,
            pooling="+".join(layout.pooling) if layout else "own",
            normalize=self._normalized,
            precision=chosen,
        )

    def tokenize(self, texts: Sequence[str], *, prompt: str = "") -> Tokenized:
        """What the model computes for each text, cut to its limit."""
        return self._open().tokenize(texts, prompt=prompt)

    def take_tokens(self, ids: Sequence[Sequence[int]]) -> Tokenized:
        """Token ids as payloads, special tokens added where they lack, cut to the model's limit.

        Raises:
            BadTokensError: ids that are not in the vocabulary, or a model with preprocessing of its own.
        """
        return self._open().take(ids)

    def split(self, text: str, *, prompt: str = "") -> list[str]:
        """Consecutive pieces of `text`, each within the limit with `prompt` before it; joined: the text."""
        return self._open().split(text, prompt=prompt)

    def embed(self, payloads: Sequence[object]) -> FloatArray:
        """Vectors of one batch, `(n, dim)` float32 in the order given; `(0, dim)` for an empty batch.

        Raises:
            BackendClosedError: after `close`.
            OutOfMemoryError: the batch does not fit; a smaller one may.
            BackendError: PyTorch failed, or answered in another shape than asked for.
        """
        if not payloads:
            return np.empty((0, self.spec.dimensions), np.float32)
        with self._free:
            vectors = self._embed(payloads)
        if vectors.shape != (len(payloads), self.spec.dimensions):
            raise BackendError(
                f"{self.spec.model} answered {vectors.shape}, not ({len(payloads)}, {self.spec.dimensions})"
            )
        return vectors

    def memory_used(self) -> float:
        """Share of the GPU's memory in use, by anyone; 0.0 on the processor."""
        return torch_device.memory_used(self._torch, self._device)

    def close(self) -> None:
        """Wait for calls under way, then give back the model's memory. Closing twice is allowed."""
        with self._closing:
            if self._texts is None:
                return
            for _ in range(self.streams):
                self._free.acquire()
            self._model = None
            self._texts = None
            torch_device.release(self._torch, self._device)
            for _ in range(self.streams):
                self._free.release()

    def _open(self) -> Texts:
        if self._texts is None:
            raise BackendClosedError("The torch backend is closed")
        return self._texts

    def _tokenizer(self, layout: Layout | None) -> Texts:
        """The tokeniser of embatch where the model is a transformer that takes plain ids, else the model's own."""
        first = self._model[0]
        takes_ids = type(first).__name__ == "Transformer" and "message" not in getattr(
            first, "modality_config", {}
        )
        if layout is not None and takes_ids:
            try:
                # Whole tiles for the GPU's matrix units; on the processor every padded token costs.
                return SharedTexts(self._torch, TextTokenizer(layout), pad_to=8 if self._on_gpu else 1)
            except UnsupportedModelError as error:
                _log.debug("%s; using the tokeniser of sentence-transformers", error)
        return OwnTexts(self._model)

    def _stored_in(self, layout: Layout | None) -> Precision:
        """The half precision that a model was published in, if the device prefers it; else `auto` stays open."""
        config = layout.config.fields if layout else {}
        stored = torch_device.precision(config.get("dtype") or config.get("torch_dtype"))
        return stored if stored in torch_device.fast_precisions(self._torch, self._device) else "auto"

    def _fastest(self) -> Precision:
        for half in torch_device.fast_precisions(self._torch, self._device):
            if self._is_exact_enough(half):
                return half
        return "fp32"

    def _is_exact_enough(self, precision: Precision) -> bool:
        """Whether the model in `precision` agrees with itself in fp32; it is left in `precision` only if so."""
        payloads = self.tokenize(sample_texts(_SAMPLE)).payloads
        exact = _unit(self._embed(payloads))
        weights = {name: value.cpu() for name, value in self._model[0].state_dict().items()}
        self._compute_in(precision)
        cosines = np.einsum("ij,ij->i", exact, _unit(self._embed(payloads)))
        cosines = np.where(np.isfinite(cosines), cosines, -1.0)
        _log.debug("%s to fp32: cosine %.6f, least %.6f", precision, cosines.mean(), cosines.min())
        if cosines.mean() >= _MEAN_COSINE and cosines.min() >= _LEAST_COSINE:
            return True
        self._compute_in("fp32")
        self._model[0].load_state_dict(weights)
        return False

    def _compute_in(self, precision: Precision) -> Precision:
        """The first module in `precision`; pooling and what follows stay in fp32, where they cost nothing."""
        if self._half is not None:
            self._half.remove()
            self._half = None
        self._model[0].to(torch_device.dtype(self._torch, precision))
        if precision != "fp32":
            self._half = self._model[0].register_forward_hook(_widened)
        return precision

    def _embed(self, payloads: Sequence[Any]) -> FloatArray:
        with _running(self._torch, self._device, f"embedding {len(payloads)} texts"):
            groups = [(rows, self._forward(features)) for rows, features in self._open().features(payloads)]
        if len(groups) == 1:
            return groups[0][1]
        vectors = np.empty((len(payloads), groups[0][1].shape[1]), np.float32)
        for rows, part in groups:
            vectors[list(rows)] = part
        return vectors

    def _forward(self, features: dict[str, Any]) -> FloatArray:
        torch = self._torch
        with torch.inference_mode():
            if self._device.type == "cuda":
                return self._forward_cuda(features)
            moved = {name: _moved(value, self._device) for name, value in features.items()}
            vectors: FloatArray = self._model(moved)["sentence_embedding"].float().cpu().numpy()
            return vectors

    def _forward_cuda(self, features: dict[str, Any]) -> FloatArray:
        """Launch a batch and wait for it alone.

        All batches use the device's one stream, and the lock keeps a batch's copy in, kernels, copy out and event
        together in it. So the event of a batch waits for nothing launched after it, while another thread may already
        launch the next batch: the device goes from one to the other without waiting for Python. PyTorch keeps pinned
        memory out of reuse until the copies from it are done.
        """
        torch = self._torch
        with torch.cuda.device(self._device):
            pinned = {
                name: value.pin_memory() if hasattr(value, "pin_memory") else value
                for name, value in features.items()
            }
            done = torch.cuda.Event()
            with self._launching:
                moved = {name: _moved(value, self._device) for name, value in pinned.items()}
                found = self._model(moved)["sentence_embedding"].float()
                host = torch.empty(found.shape, dtype=torch.float32, pin_memory=True)
                host.copy_(found, non_blocking=True)
                done.record()
            done.synchronize()
            vectors: FloatArray = host.numpy().copy()
            return vectors


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f"The torch backend needs {name}, which is not installed ({error})",
            hint='Run `pip install "embatch[torch]"`.',
        ) from error


def _layout(folder: Path) -> Layout | None:
    """The folder as embatch reads it; None if only sentence-transformers can."""
    try:
        return read_layout(folder)
    except UnsupportedModelError as error:
        _log.debug("%s; leaving it to sentence-transformers", error)
        return None


def _load(folder: Path, device: Any, dtype: Any) -> Any:
    torch, library = _library("torch"), _library("sentence_transformers")
    with _quiet():
        try:
            model = library.SentenceTransformer(
                str(folder),
                device=str(device),
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"dtype": dtype, "use_safetensors": True},
            )
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(f"{folder} does not fit into the memory of {device}") from error
        except (OSError, ValueError, RuntimeError, KeyError, ImportError, AttributeError, TypeError) as error:
            raise UnsupportedModelError(
                f"sentence-transformers cannot load {folder}: {_cause(error)}",
                hint="Models that bring their own code are not run; otherwise see the cause in the message.",
            ) from error
    return model.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Loading without progress bars, reports and warnings about versions; the settings are put back after it."""
    library = _library("transformers.utils.logging")
    verbosity, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        library.set_verbosity(verbosity)
        if bars:
            library.enable_progress_bar()


@contextmanager
def _running(torch: Any, device: Any, doing: str) -> Iterator[None]:
    """PyTorch's exceptions as embatch's; `doing` completes "PyTorch failed while …"."""
    try:
        yield
    except EmbatchError:
        raise
    except (RuntimeError, MemoryError, ValueError, TypeError, IndexError) as error:
        message = str(error).lower()
        if isinstance(error, MemoryError) or any(phrase in message for phrase in _NO_MEMORY):
            torch_device.release(torch, device)
            raise OutOfMemoryError(
                f"PyTorch ran out of memory on {device} while {doing}: {_cause(error)}"
            ) from error
        raise BackendError(f"PyTorch failed on {device} while {doing}: {_cause(error)}") from error


def _cause(error: BaseException) -> str:
    """The first line that says something; CUDA's advice on debugging follows it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _widened(_module: Any, _inputs: Any, features: dict[str, Any]) -> dict[str, Any]:
    """What a half-precision module hands on, in fp32."""
    for name in ("token_embeddings", "sentence_embedding"):
        if name in features:
            features[name] = features[name].float()
    return features


def _moved(value: Any, device: Any) -> Any:
    return value.to(device, non_blocking=True) if hasattr(value, "to") else value


def _unit(vectors: FloatArray) -> FloatArray:
    norms = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12))
    unit: FloatArray = vectors / norms
    return unit
