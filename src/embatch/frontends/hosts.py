"""Where an Embedder's model lives: what the two kinds of models have in common, and the one on this machine.

A host makes specs and pipelines; the Embedder over it knows nothing of batches, budgets, lanes or quotas.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from embatch.decisions.tuning import BudgetTuner
from embatch.engine.pipeline import Pipeline
from embatch.engine.tuners import FixedCount, SharedTuner
from embatch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from embatch.engine.tuners import Tuner
    from embatch.remote import Goal
    from embatch.types import (
        Backend,
        BadItem,
        Block,
        FloatArray,
        Item,
        ModelSpec,
        Overlong,
        Report,
        VectorStore,
    )

PROMPTS = {"document": ("document", "passage", "corpus"), "query": ("query", "question", "search_query")}
"""Names under which models keep the two prompts that everybody means."""

_EACH_OF_ASKS = 8
"""Batches of each budget whose mean counts, where batches are of many asks: one differs from the next by more than
budgets near the best do, in its texts and in what else the machine does."""


class AnyPipeline(Protocol):
    """One run, on this machine or through a provider."""

    report: Report

    @property
    def rows_done(self) -> int:
        """Rows that have their result, handed over or not: for progress."""
        ...

    @property
    def rows_read(self) -> int:
        """Rows taken from the source so far."""
        ...

    @property
    def read_all(self) -> bool:
        """Whether the source has ended, so that `rows_read` is the total."""
        ...

    @property
    def left_s(self) -> float | None:
        """Seconds left, where that is known better than from the rate of rows."""
        ...

    @property
    def note(self) -> str:
        """What else is worth a look while it runs; may be empty."""
        ...

    def run(self, rows: Iterable[Item | BadItem]) -> Iterator[Block]:
        """Embed all rows, in their order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """What one call may want otherwise than its Embedder: only lanes have such wishes."""

    strategy: str | None = None
    goal: Goal | None = None


class LocalHost:
    """A model on this machine.

    Args:
        backend: the model; closed with the host.
        dimensions: of the vectors; None for all that the model has.
        overlong: what happens to texts longer than the model takes.
        batch_size: fixes the number of texts in a batch.
        budget_tokens: fixes the token budget of a batch.
        document_type: names the kind of texts: budgets are learned and kept per kind.
        profiles: keep learned budgets between processes.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        dimensions: int | None,
        overlong: Overlong,
        batch_size: int | None,
        budget_tokens: int | None,
        document_type: str,
        profiles: bool,
    ) -> None:
        self.backend = backend
        self.dimensions = self._checked(dimensions)
        self._overlong: Overlong = overlong
        self._batch_size = batch_size
        self._document_type = document_type
        self._profiles = profiles and budget_tokens is None and batch_size is None
        self._budget_tokens = budget_tokens
        self._kept_budget = self._profile()  # what is on disk
        self.tuner = self._make_tuner(self._kept_budget)

    @property
    def budget(self) -> int:
        """The token budget that batches are formed under now."""
        return self.tuner.budget

    def spec_for(self, task: str | None) -> ModelSpec:
        """The spec of vectors made for a task.

        Raises:
            UsageError: the model has no such prompt.
        """
        return replace(
            self.backend.spec,
            dimensions=self.dimensions,
            overlong=self._overlong,
            prompt=_prompt(self.backend, task or "document"),
        )

    def pipeline(
        self, task: str | None, *, store: VectorStore | None, tuner: Tuner | None = None, **options: Any
    ) -> Pipeline:
        """A run of the model."""
        return Pipeline(self.backend, self.spec_for(task), tuner or self.new_tuner(), store=store, **options)

    def new_tuner(self, *, asks: bool = False) -> Tuner:
        """What decides batches, unless a run brings its own: a fixed count of its own, or the tuner of all runs.

        Args:
            asks: it is for batches of many asks, which differ more from one to the next than those of a run: a tuner of
                its own, that goes on from what runs have learned.
        """
        if self._batch_size:
            return FixedCount(self._batch_size)
        if not asks:
            return self.tuner
        learned = self.tuner.budget if self.tuner.learned else None
        return self._make_tuner(learned, each=_EACH_OF_ASKS)

    def query(self, text: str) -> FloatArray | None:
        """The backend's vector `(1, dim)` of one query; None if the text is too long to be embedded as it is."""
        spec = self.spec_for("query")
        tokenized = self.backend.tokenize([text], prompt=spec.prompt)
        if tokenized.truncated[0] and self._overlong != "truncate":
            return None
        return self.backend.embed(tokenized.payloads)

    def keep(self, report: Report, *, tuner: Tuner | None = None) -> None:
        """Keep the learned budget for the next process, if one was learned: by a tuner for asks, or by that of runs."""
        tuner = self.tuner if tuner is None else tuner
        budget = tuner.budget
        if self._profiles and tuner.learned and report.device_seconds and budget != self._kept_budget:
            from embatch.storage.profiles import default_profiles

            self._kept_budget = budget
            rate = report.tokens / report.device_seconds * self.backend.streams
            default_profiles().save(self._profile_key(), budget, rate)

    def close(self) -> None:
        """Give back the model's memory."""
        self.backend.close()

    def _profile(self) -> int | None:
        if not self._profiles:
            return None
        from embatch.storage.profiles import default_profiles

        return default_profiles().load(self._profile_key())

    def _make_tuner(self, learned: int | None, *, each: int = 1) -> SharedTuner:
        limits, fixed = self.backend.limits, self._budget_tokens
        low, high = limits.budgets
        first = limits.first_budget
        return SharedTuner(
            BudgetTuner(low=low, high=high, first=first, profile=learned, fixed=fixed, each=each)
        )

    def _profile_key(self) -> str:
        return f"{self.backend.spec.fingerprint} {self.backend.device} {self._document_type}"

    def _checked(self, dimensions: int | None) -> int:
        most = self.backend.spec.dimensions
        if dimensions is not None and dimensions > most:
            raise UsageError(f"{self.backend.spec.model} has {most} dimensions, fewer than {dimensions}")
        return dimensions or most


def refuse(reason: str, names: Sequence[str]) -> None:
    """Raise if options were given that do nothing here.

    Raises:
        UsageError: naming them.
    """
    if names:
        listed = ", ".join(names)
        raise UsageError(f"{listed}: {reason}", hint="Leave out what does nothing here.")


def _prompt(backend: Backend, task: str) -> str:
    for name in PROMPTS.get(task, (task,)):
        if name in backend.prompts:
            return backend.prompts[name]
    if task in PROMPTS:
        return ""
    known = ", ".join(sorted({*PROMPTS, *backend.prompts}))
    raise UsageError(f"{backend.spec.model} has no prompt for task {task!r}, only for {known}")
