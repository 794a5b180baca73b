"""The Python API: `Embedder`, a model kept open.

It wires a backend, a tuner and the pipeline together, for texts that are at hand or arrive one by one. It reads and
writes no files but the optional cache and the learned budgets.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from embatch.decisions.tuning import BudgetTuner
from embatch.decisions.vectors import quantize
from embatch.engine.pipeline import Pipeline
from embatch.engine.tuners import FixedCount, SharedTuner
from embatch.engine.window import as_items, check_text, finish_vectors
from embatch.errors import BadVectorError, ItemsFailedError, TooLongError, UsageError
from embatch.types import BadItem, Item, ItemFailure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    import numpy.typing as npt

    from embatch.engine.tuners import Tuner
    from embatch.types import (
        Backend,
        Block,
        FloatArray,
        ModelSpec,
        OnError,
        Output,
        Overlong,
        Precision,
        Report,
        VectorStore,
    )

    OnProgress = Callable[[str, int, int | None], None]

BackendName = Literal["auto", "openvino", "torch", "hashing"]

_PROMPTS = {"document": ("document", "passage", "corpus"), "query": ("query", "question", "search_query")}
"""Names under which models keep the two prompts that everybody means."""


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """What a call of `Embedder.embed` gives back. Row `i` belongs to text `i`."""

    vectors: npt.NDArray[Any]
    """`(n, dim)`, float32 unless another `output` was asked for. A failed row is NaN (zeros in int8 and binary)."""
    errors: list[ItemFailure]
    """The rows without a vector, in order; empty with `on_error="raise"`."""
    report: Report


class Embedder:
    """A model kept open. Thread-safe; a context manager.

    Args:
        model: an alias such as `minilm`, a folder, a name such as `owner/name`, or `hashing`.
        precision: what the model computes in; `auto` is the fastest that keeps cosine ≥ 0.9999 to fp32.
        backend: `openvino`, `torch`, `hashing`; `auto` takes the first that runs the model.
        device: for torch: `cpu`, `cuda`, `cuda:1`, `mps`.
        task: which of the model's prompts documents get: `document` (default), `query`, or another that it has.
        dimensions: cut vectors to this many components and normalise again (Matryoshka models).
        overlong: what happens to texts longer than the model takes.
        output: what vectors are handed back as.
        on_error: raise ItemsFailedError at the first failures, or collect them in the result.
        cache: a file (made if missing) or store that keeps vectors between calls and runs.
        cache_limit: bytes that a cache file is brought down to on closing, its oldest vectors first.
        budget_tokens: fix the token budget of a batch instead of tuning it.
        batch_size: fix the number of texts in a batch instead of tuning a budget.
        document_type: names the kind of texts: budgets are learned and kept per kind.
        profiles: keep learned budgets between processes.
        streams: batches computed side by side; None chooses from the processor.
        threads: threads of all streams together; None is one for each core.
        calibration: texts like those to embed, to calibrate `precision="int8"` on; a shipped sample by default.
        offline: never ask the network for model files.
        on_progress: called with (file name, bytes done, bytes in all) while model files are fetched.
    """

    def __init__(  # noqa: PLR0913  # one argument for each choice that a user has
        self,
        model: str = "minilm",
        *,
        precision: Precision = "auto",
        backend: BackendName | Backend = "auto",
        device: str | None = None,
        task: str | None = None,
        dimensions: int | None = None,
        overlong: Overlong = "truncate",
        output: Output = "float32",
        on_error: OnError = "raise",
        cache: str | Path | VectorStore | None = None,
        cache_limit: int | None = None,
        budget_tokens: int | None = None,
        batch_size: int | None = None,
        document_type: str = "any",
        profiles: bool = True,
        streams: int | None = None,
        threads: int | None = None,
        calibration: Sequence[str] | None = None,
        offline: bool = False,
        on_progress: OnProgress | None = None,
    ) -> None:
        _one_of("overlong", overlong, ("truncate", "pool", "error"))
        _one_of("output", output, ("float32", "float16", "int8", "binary"))
        _one_of("on_error", on_error, ("raise", "collect"))
        _positive(
            budget_tokens=budget_tokens, batch_size=batch_size, dimensions=dimensions, cache_limit=cache_limit
        )
        self._output = output
        self._on_error = on_error
        if isinstance(backend, str):
            from embatch.backends.registry import open_backend

            self.backend: Backend = open_backend(
                model,
                backend=backend,
                precision=precision,
                device=device,
                streams=streams,
                threads=threads,
                calibration=calibration,
                offline=offline,
                on_progress=on_progress,
            )
        else:
            self.backend = backend
        self._overlong = overlong
        self._dimensions = self._checked_dimensions(dimensions)
        self._task = task
        self._batch_size = batch_size
        self._document_type = document_type
        self._profiles = profiles and budget_tokens is None and batch_size is None
        self._kept_budget: int | None = None  # the profile that is on disk
        self._tuner = self._make_tuner(budget_tokens)
        self._stores: dict[str, VectorStore] = {}
        self._cache = cache
        self._cache_limit = cache_limit
        self._lock = threading.Lock()
        self.spec_for(task)  # an unknown task is an error now, not at the first call

    # --- what it is -------------------------------------------------------------------------------------------

    @property
    def dimensions(self) -> int:
        """Components of a vector."""
        return self._dimensions

    @property
    def spec(self) -> ModelSpec:
        """What changes a document's vector."""
        return self.spec_for(self._task)

    @property
    def budget(self) -> int:
        """The token budget that batches are formed under now."""
        return self._tuner.budget

    def spec_for(self, task: str | None) -> ModelSpec:
        """The spec of vectors made for a task: `document`, `query`, or another prompt of the model.

        Raises:
            UsageError: the model has no such prompt.
        """
        return replace(
            self.backend.spec,
            dimensions=self._dimensions,
            overlong=self._overlong,
            prompt=_prompt(self.backend, task or "document"),
        )

    # --- embedding --------------------------------------------------------------------------------------------

    def embed(
        self,
        texts: Iterable[str],
        *,
        keys: Sequence[str] | None = None,
        task: str | None = None,
        on_error: OnError | None = None,
        tuner: Tuner | None = None,
    ) -> EmbedResult:
        """Vectors of all texts, in their order.

        Args:
            texts: any number of strings. Equal ones are computed once.
            keys: name the texts in errors; their positions otherwise.
            task: as for the class, for this call.
            on_error: as for the class, for this call.
            tuner: decides the batches of this call instead of the embedder's own.

        Raises:
            ItemsFailedError: some texts have no vector, and failures are to be raised. Texts that are empty or no
                strings are found before anything is computed.
        """
        rows = self._listed(texts, keys)
        strict = _one_of("on_error", on_error or self._on_error, ("raise", "collect")) == "raise"
        if strict:
            _raise_bad_texts(rows)
        spec = self.spec_for(task or self._task)
        vectors: FloatArray = np.empty((len(rows), self._dimensions), np.float32)
        pipeline = self._pipeline(spec, tuner=tuner, remember=None, recall=lambda earlier: vectors[earlier])
        errors: list[ItemFailure] = []
        for block in pipeline.run(rows):
            vectors[block.first_row : block.first_row + len(block.items)] = block.vectors
            errors.extend(block.failures)
            if strict and errors:
                raise _items_failed(errors, len(rows))
        self.keep_profile(pipeline.report)
        return EmbedResult(self._converted(vectors, errors), errors, pipeline.report)

    def embed_query(self, text: str) -> npt.NDArray[Any]:
        """The vector `(dim,)` of one text, with the model's query prompt: the shortest way, without a batch.

        Raises:
            ItemError: the text cannot be embedded.
        """
        error = check_text(text)
        if error is not None:
            raise error
        spec = self.spec_for("query")
        tokenized = self.backend.tokenize([text], prompt=spec.prompt)
        if tokenized.truncated[0] and self._overlong != "truncate":
            if self._overlong == "error":
                raise TooLongError(f"the text is longer than the {spec.max_tokens} tokens of {spec.model}")
            pooled: npt.NDArray[Any] = self.embed([text], task="query", on_error="raise").vectors[0]
            return pooled
        vectors = finish_vectors(self.backend.embed(tokenized.payloads), spec)
        if not np.isfinite(vectors).all():
            raise BadVectorError(f"{spec.model} answered NaN or infinity for this text")
        answer: npt.NDArray[Any] = quantize(vectors, self._output)[0]
        return answer

    def stream(self, texts: Iterable[str | Item | BadItem], *, task: str | None = None) -> Iterator[Block]:
        """Blocks of finished rows, in order, from any number of texts in bounded memory.

        Failures are in their block, whatever `on_error` says; vectors are float32. Close the iterator, or use it up.

        Args:
            texts: strings, or Items with keys of their own; read ahead by a few thousand rows at most.
            task: as for the class, for this call.
        """
        pipeline = self.pipeline(task=task)
        yield from pipeline.run(_as_rows(texts))
        self.keep_profile(pipeline.report)

    def pipeline(self, *, task: str | None = None, store: VectorStore | None = None) -> Pipeline:
        """A pipeline over this model, for callers that want its report and progress while it runs."""
        return self._pipeline(self.spec_for(task or self._task), store=store)

    # --- the same, from async code ----------------------------------------------------------------------------

    async def aembed(
        self, texts: Iterable[str], *, task: str | None = None, on_error: OnError | None = None
    ) -> EmbedResult:
        """`embed`, in a thread of its own."""
        return await asyncio.to_thread(self.embed, texts, task=task, on_error=on_error)

    async def aembed_query(self, text: str) -> npt.NDArray[Any]:
        """`embed_query`, in a thread of its own."""
        return await asyncio.to_thread(self.embed_query, text)

    async def astream(
        self, texts: Iterable[str | Item | BadItem], *, task: str | None = None
    ) -> AsyncIterator[Block]:
        """`stream`, with the loop free while a block is computed."""
        blocks = self.stream(texts, task=task)
        try:
            while (block := await asyncio.to_thread(next, blocks, None)) is not None:
                yield block
        finally:
            await asyncio.to_thread(blocks.close)  # type: ignore[attr-defined]  # a generator

    # --- closing ----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Give back the model's memory and close the cache. Closing twice is allowed."""
        self.backend.close()
        with self._lock:
            for store in self._stores.values():
                if store is not self._cache:
                    self._close_own(store)
            self._stores.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- inside -----------------------------------------------------------------------------------------------

    def _pipeline(
        self,
        spec: ModelSpec,
        *,
        store: VectorStore | None = None,
        tuner: Tuner | None = None,
        **options: Any,
    ) -> Pipeline:
        if tuner is None:
            tuner = FixedCount(self._batch_size) if self._batch_size else self._tuner
        return Pipeline(self.backend, spec, tuner, store=store or self._store(spec), **options)

    def _store(self, spec: ModelSpec) -> VectorStore | None:
        if self._cache is None:
            return None
        with self._lock:
            if spec.fingerprint not in self._stores:
                self._stores[spec.fingerprint] = self._open_store(spec)
            return self._stores[spec.fingerprint]

    def _open_store(self, spec: ModelSpec) -> VectorStore:
        from pathlib import Path

        from embatch.storage.cache import VectorCache

        if isinstance(self._cache, str | Path):
            return VectorCache(Path(self._cache), fingerprint=spec.fingerprint, dimensions=spec.dimensions)
        if self._cache is None:
            raise UsageError("no cache was given")
        return self._cache

    def _close_own(self, store: VectorStore) -> None:
        from embatch.storage.cache import VectorCache

        if self._cache_limit is not None and isinstance(store, VectorCache):
            store.prune(self._cache_limit)
        store.close()

    def _make_tuner(self, budget_tokens: int | None) -> SharedTuner:
        limits = self.backend.limits
        low, high = limits.budgets
        profile = None
        if self._profiles:
            from embatch.storage.profiles import default_profiles

            profile = self._kept_budget = default_profiles().load(self._profile_key())
        first = limits.first_budget
        return SharedTuner(BudgetTuner(low=low, high=high, first=first, profile=profile, fixed=budget_tokens))

    def keep_profile(self, report: Report) -> None:
        """Keep the learned budget for the next process, if one was learned."""
        budget = self._tuner.budget
        if self._profiles and self._tuner.learned and report.device_seconds and budget != self._kept_budget:
            from embatch.storage.profiles import default_profiles

            self._kept_budget = budget
            rate = report.tokens / report.device_seconds * self.backend.streams
            default_profiles().save(self._profile_key(), budget, rate)

    def _profile_key(self) -> str:
        return f"{self.backend.spec.fingerprint} {self.backend.device} {self._document_type}"

    def _checked_dimensions(self, dimensions: int | None) -> int:
        most = self.backend.spec.dimensions
        if dimensions is not None and dimensions > most:
            raise UsageError(f"{self.backend.spec.model} has {most} dimensions, fewer than {dimensions}")
        return dimensions or most

    def _converted(self, vectors: FloatArray, errors: list[ItemFailure]) -> npt.NDArray[Any]:
        if errors and self._output in {"int8", "binary"}:
            vectors[[failure.row for failure in errors]] = 0.0
        return quantize(vectors, self._output)

    @staticmethod
    def _listed(texts: Iterable[str], keys: Sequence[str] | None) -> list[Item | BadItem]:
        if isinstance(texts, str | bytes):
            raise UsageError(
                "embed takes a list of texts, not one text",
                hint="Write embed([text]), or embed_query(text) for a query.",
            )
        if not isinstance(texts, Iterable):
            raise UsageError(f"embed takes a list of texts, not a value of type {type(texts).__name__}")
        listed = list(texts)
        if keys is not None and len(keys) != len(listed):
            raise UsageError(f"there are {len(listed)} texts but {len(keys)} keys")
        return list(as_items(listed, keys=keys))


def _as_rows(texts: Iterable[str | Item | BadItem]) -> Iterator[Item | BadItem]:
    for row, text in enumerate(texts):
        yield text if isinstance(text, Item | BadItem) else Item(str(row), text)


def _raise_bad_texts(rows: list[Item | BadItem]) -> None:
    failures = []
    for row, item in enumerate(rows):
        error = item.error if isinstance(item, BadItem) else check_text(item.text)
        if error is not None:
            failures.append(ItemFailure(row=row, key=item.key, error=error, source=item.source))
    if failures:
        raise _items_failed(failures, len(rows))


def _items_failed(failures: list[ItemFailure], total: int) -> ItemsFailedError:
    first = failures[0]
    return ItemsFailedError(
        f"{len(failures)} of {total} texts have no vector; the first is number {first.row} "
        f"(key {first.key!r}): {first.error}",
        failures,
    )


def _prompt(backend: Backend, task: str) -> str:
    for name in _PROMPTS.get(task, (task,)):
        if name in backend.prompts:
            return backend.prompts[name]
    if task in _PROMPTS:
        return ""
    known = ", ".join(sorted({*_PROMPTS, *backend.prompts}))
    raise UsageError(f"{backend.spec.model} has no prompt for task {task!r}, only for {known}")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise UsageError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
    return value


def _positive(**numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise UsageError(f"{name} must be at least 1, not {number}")
