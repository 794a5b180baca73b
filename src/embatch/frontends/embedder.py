"""The Python API: `Embedder`, a model kept open.

It wires a backend, a tuner and the pipeline together, for texts that are at hand or arrive one by one. It reads and
writes no files but the optional cache and the learned budgets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from embatch.decisions.vectors import quantize
from embatch.engine.window import as_items, check_text, finish_vectors
from embatch.errors import BadVectorError, UsageError
from embatch.frontends.arguments import as_rows, items_failed, one_of, positive, raise_bad_texts
from embatch.frontends.caches import Caches
from embatch.frontends.hosts import LocalHost
from embatch.frontends.opening import LocalOptions, RemoteOptions, open_host

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    import numpy.typing as npt

    from embatch.engine.tuners import Tuner
    from embatch.frontends.hosts import AnyPipeline
    from embatch.frontends.remote import LaneSettings
    from embatch.frontends.remote_host import RemoteHost
    from embatch.remote import StrategyName
    from embatch.seen_lanes import RunObserver
    from embatch.storage.ledger import Ledger
    from embatch.types import (
        Backend,
        BadItem,
        Block,
        FloatArray,
        Item,
        ItemFailure,
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
        model: an alias such as `minilm`, a folder, a name such as `owner/name`, or `hashing`; or a provider's model,
            such as `gemini:gemini-embedding-001`, `openai:text-embedding-3-small` or `compatible:NAME`.
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
        strategy: for a provider's model: `individual` (calls), `batch` (jobs), `hybrid`, or `auto` (the default).
        deadline: seconds from a call's start within which all its texts should be done.
        budget: dollars that one call must not go over.
        hour_worth: dollars that an hour of waiting is worth, when `auto` weighs time against money.
        base_url: of the provider's API, if it is not the provider's own; needed for `compatible:NAME`.
        tier: of the account at the provider, such as `free` or `2`: decides its quotas; that of the facts otherwise.
        api_key: of the provider; from the environment otherwise.
        client: the provider's SDK client, configured, to be used instead of one of embatch's own.
        lanes: all settings of the lanes at once, instead of strategy and goals.
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
        strategy: StrategyName | None = None,
        deadline: float | None = None,
        budget: float | None = None,
        hour_worth: float | None = None,
        base_url: str | None = None,
        tier: str | None = None,
        api_key: str | None = None,
        client: object | None = None,
        lanes: LaneSettings | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        one_of("overlong", overlong, ("truncate", "pool", "error"))
        one_of("output", output, ("float32", "float16", "int8", "binary"))
        one_of("on_error", on_error, ("raise", "collect"))
        positive(
            budget_tokens=budget_tokens, batch_size=batch_size, dimensions=dimensions, cache_limit=cache_limit
        )
        self._output = output
        self._on_error = on_error
        self._host = open_host(
            model,
            backend,
            local=LocalOptions(
                precision=precision,
                device=device,
                streams=streams,
                threads=threads,
                calibration=calibration,
                offline=offline,
                budget_tokens=budget_tokens,
                batch_size=batch_size,
            ),
            remote=RemoteOptions(
                strategy=strategy,
                deadline=deadline,
                budget=budget,
                hour_worth=hour_worth,
                base_url=base_url,
                tier=tier,
                api_key=api_key,
                client=client,
                lanes=lanes,
            ),
            dimensions=dimensions,
            overlong=overlong,
            document_type=document_type,
            profiles=profiles,
            on_progress=on_progress,
        )
        self._overlong = overlong
        self._task = task
        self._caches = Caches(cache, cache_limit)
        self.spec_for(task)  # an unknown task is an error now, not at the first call

    # --- what it is -------------------------------------------------------------------------------------------

    @property
    def backend(self) -> Backend:
        """The model itself."""
        return self._host.backend

    @property
    def host(self) -> LocalHost | RemoteHost:
        """Where the model lives."""
        return self._host

    @property
    def task(self) -> str | None:
        """Which prompt documents get, unless a call says otherwise."""
        return self._task

    @property
    def on_error(self) -> OnError:
        """Whether failures are raised or collected, unless a call says otherwise."""
        return self._on_error

    @property
    def output(self) -> Output:
        """What vectors are handed back as."""
        return self._output

    @property
    def has_cache(self) -> bool:
        """Whether vectors are kept between calls."""
        return self._caches.exists

    @property
    def dimensions(self) -> int:
        """Components of a vector."""
        return self._host.dimensions

    @property
    def spec(self) -> ModelSpec:
        """What changes a document's vector."""
        return self.spec_for(self._task)

    @property
    def budget(self) -> int:
        """The token budget that batches are formed under now; for a provider's model, what one call may hold."""
        return self._host.budget

    def spec_for(self, task: str | None) -> ModelSpec:
        """The spec of vectors made for a task: `document`, `query`, or another prompt of the model.

        Raises:
            UsageError: the model has no such prompt.
        """
        return self._host.spec_for(task)

    # --- embedding --------------------------------------------------------------------------------------------

    def embed(
        self,
        texts: Iterable[str],
        *,
        keys: Sequence[str] | None = None,
        task: str | None = None,
        on_error: OnError | None = None,
        tuner: Tuner | None = None,
        lanes: LaneSettings | None = None,
    ) -> EmbedResult:
        """Vectors of all texts, in their order.

        Args:
            texts: any number of strings. Equal ones are computed once.
            keys: name the texts in errors; their positions otherwise.
            task: as for the class, for this call.
            on_error: as for the class, for this call.
            tuner: decides the batches of this call instead of the embedder's own.
            lanes: for a provider's model, how this call may use the lanes.

        Raises:
            ItemsFailedError: some texts have no vector, and failures are to be raised. Texts that are empty or no
                strings are found before anything is computed.
        """
        rows = self._listed(texts, keys)
        strict = one_of("on_error", on_error or self._on_error, ("raise", "collect")) == "raise"
        if strict:
            raise_bad_texts(rows)
        task = task or self._task
        vectors: FloatArray = np.empty((len(rows), self.dimensions), np.float32)
        errors: list[ItemFailure] = []
        run, report = self._run(
            rows, task, tuner, lambda earlier: vectors[earlier], strict=strict, lanes=lanes
        )
        with closing(run):  # or a traceback that is kept would keep files locked
            for block in run:
                vectors[block.first_row : block.first_row + len(block.items)] = block.vectors
                errors.extend(block.failures)
                if strict and errors:
                    raise items_failed(errors, len(rows))
        self.keep_profile(report())
        return EmbedResult(self._converted(vectors, errors), errors, report())

    def embed_query(self, text: str) -> npt.NDArray[Any]:
        """The vector `(dim,)` of one text, with the model's query prompt: the shortest way, without a batch.

        Raises:
            ItemError: the text cannot be embedded.
        """
        error = check_text(text)
        if error is not None:
            raise error
        raw = self._host.query(text)
        if raw is None:
            result = self.embed([text], task="query", on_error="collect")
            if result.errors:
                raise result.errors[0].error
            answer: npt.NDArray[Any] = result.vectors[0]
            return answer
        spec = self.spec_for("query")
        vectors = finish_vectors(raw, spec)
        if not np.isfinite(vectors).all():
            raise BadVectorError(f"{spec.model} answered NaN or infinity for this text")
        query: npt.NDArray[Any] = quantize(vectors, self._output)[0]
        return query

    def stream(self, texts: Iterable[str | Item | BadItem], *, task: str | None = None) -> Iterator[Block]:
        """Blocks of finished rows, in order, from any number of texts in bounded memory.

        Failures are in their block, whatever `on_error` says; vectors are float32. Close the iterator, or use it up.

        Args:
            texts: strings, or Items with keys of their own; read ahead by a few thousand rows at most.
            task: as for the class, for this call.
        """
        pipeline = self._open_ended(task)
        yield from pipeline.run(as_rows(texts))
        self.keep_profile(pipeline.report)

    def pipeline(
        self,
        *,
        task: str | None = None,
        store: VectorStore | None = None,
        ledger: Ledger | None = None,
        rows_at_once: int | None = None,
        observer: RunObserver | None = None,
    ) -> AnyPipeline:
        """A run of this model, for callers that want its report and progress while it runs.

        Args:
            task: as for the class.
            store: vectors that are known, and where new ones are kept; the caller's own.
            ledger: for a provider's model, what makes the run survive its process; the caller's own.
            rows_at_once: for a provider's model, how many rows are driven together; None is all of them.
            observer: is told of what happens in the run.
        """
        task = task or self._task
        store = store or self.store_for(self.spec_for(task))
        if isinstance(self._host, LocalHost):
            return self._host.pipeline(task, store=store, observer=observer)
        return self._host.pipeline(
            task, store=store, ledger=ledger, rows_at_once=rows_at_once, observer=observer
        )

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
        self._host.close()
        self._caches.close()

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

    def _run(
        self,
        rows: list[Item | BadItem],
        task: str | None,
        tuner: Tuner | None,
        recall: Callable[[list[int]], FloatArray],
        *,
        strict: bool,
        lanes: LaneSettings | None,
    ) -> tuple[Generator[Block], Callable[[], Report]]:
        """A call's blocks, and its report once they are used up."""
        store = self.store_for(self.spec_for(task))
        if isinstance(self._host, LocalHost):
            if lanes is not None:
                raise UsageError("lanes are for a provider's model; this one runs on this machine")
            pipeline = self._host.pipeline(task, store=store, tuner=tuner, remember=None, recall=recall)
            return pipeline.run(rows), lambda: pipeline.report
        if tuner is not None:
            raise UsageError("a tuner is for a model on this machine; this one is a provider's")
        run = self._host.run(task, rows, store=store, settings=lanes, collect=not strict)
        return run.blocks(), lambda: run.report

    def _open_ended(self, task: str | None) -> AnyPipeline:
        task = task or self._task
        store = self.store_for(self.spec_for(task))
        if isinstance(self._host, LocalHost):
            return self._host.pipeline(task, store=store)
        from embatch.frontends.remote_host import STREAMED_ROWS

        return self._host.pipeline(task, store=store, rows_at_once=STREAMED_ROWS, collect=True)

    def store_for(self, spec: ModelSpec) -> VectorStore | None:
        """The cache of vectors under a spec, opened; None without one. Used from one thread at a time."""
        return self._caches.store_for(spec)

    def keep_profile(self, report: Report) -> None:
        """Keep what a run has learned for the next process: a budget, or how a provider behaves."""
        self._host.keep(report)

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
