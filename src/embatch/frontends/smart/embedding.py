"""Requests for vectors, from the caller's list to results in its order, by runs of the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embatch.engine.window import as_items, check_text
from embatch.frontends.remote_host import RemoteHost, SafeRun
from embatch.frontends.smart import runs
from embatch.frontends.smart.requests import EmbeddingResult, grouped, model_name
from embatch.providers.work import check_work, estimate_tokens, resolve_task
from embatch.remote import EmbedWork

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from embatch.errors import EmbatchError
    from embatch.frontends.remote import RemoteModel
    from embatch.frontends.smart.metrics import BatchingMetrics
    from embatch.frontends.smart.models import Models
    from embatch.frontends.smart.requests import EmbeddingRequest
    from embatch.frontends.smart.rules import Asked, Rules
    from embatch.remote import ModelFacts
    from embatch.types import Block


class WorkHost(RemoteHost):
    """A host for one piece of work, whatever task is asked for: requests say themselves what they want."""

    def __init__(self, backend: RemoteModel, work: EmbedWork) -> None:
        self._work = work
        super().__init__(backend, dimensions=work.dimensions, overlong="truncate")

    def work_for(self, task: str | None) -> EmbedWork:
        """The work."""
        del task
        return self._work


def embed_all(
    requests: Sequence[EmbeddingRequest],
    models: Models,
    default_model: str,
    rules: Rules,
    asked: Asked,
    metrics: BatchingMetrics,
) -> list[EmbeddingResult]:
    """Results in the order of the requests.

    Raises:
        UsageError: a request asks what its model cannot do. Nothing was sent then.
        StillRunningError: a job takes longer than may be waited.
        ProviderError: nothing could be sent at all, such as for a wrong key.
        GoalError: the budget does not allow anything.
    """
    groups = grouped(requests, lambda one: _work(models, one, default_model))
    group_runs = [
        EmbedGroup(
            models.embedding(work.model), work, [requests[i] for i in positions], rules, asked, metrics
        )
        for work, positions in groups.items()
    ]
    return runs.run_groups(groups.values(), group_runs)


def check_requests(requests: Sequence[EmbeddingRequest], models: Models, default_model: str) -> None:
    """Refuse what the models cannot do, without sending anything.

    Raises:
        UsageError: naming it.
    """
    for request in requests:
        _work(models, request, default_model)


def _work(models: Models, request: EmbeddingRequest, default_model: str) -> EmbedWork:
    name = model_name(request.model or default_model)
    facts = models.embedding(name).facts
    task, prompt = _task(facts, request.task_type)
    dimensions = request.output_dimensionality
    full = dimensions is None or dimensions == facts.dimensions
    work = EmbedWork(model=name, dimensions=None if full else dimensions, task=task, prompt=prompt)
    check_work(facts, work)
    return work


def _task(facts: ModelFacts, task: str | None) -> tuple[str | None, str]:
    """Task type and prompt. What is not known of a model is not held against a request: the provider says."""
    if task is not None and not (facts.dimensions or facts.tasks or facts.prompts):
        return task.upper(), ""
    return resolve_task(facts, task)


class EmbedGroup:
    """A run over requests that want the same of one model."""

    def __init__(
        self,
        model: RemoteModel,
        work: EmbedWork,
        requests: Sequence[EmbeddingRequest],
        rules: Rules,
        asked: Asked,
        metrics: BatchingMetrics,
    ) -> None:
        self.requests = len(requests)
        self.stopped_by: EmbatchError | None = None
        self._requests = requests
        self._model = model
        self._work = work
        self._rules = rules
        self._asked = asked
        self._metrics = metrics
        self._run: SafeRun | None = None
        self._blocks: Iterator[Block] = iter(())
        """Of the run, once it goes."""

    def go(self) -> list[EmbeddingResult]:
        """Results, one a request; the run's files stay until `end`."""
        model = self._model
        texts = {one.text for one in self._requests if check_text(one.text) is None}
        tokens = sum(estimate_tokens(model.facts, text) for text in texts)
        lanes, outlook = runs.decide(self._rules, self._asked, model, len(texts), tokens)
        host = WorkHost(model, self._work)
        rows = list(as_items([one.text for one in self._requests]))
        self._run = run = host.run(None, rows, store=None, settings=lanes, collect=True)
        self._blocks = run.blocks()
        results: list[EmbeddingResult] = []
        try:
            while len(results) < len(rows):
                results += self._results(next(self._blocks), len(results))
        finally:
            runs.count(self._metrics, len(rows), run.report.lanes, outlook, model)
        self.stopped_by = run.pipeline.stopped_by if run.pipeline is not None else None
        return results

    def end(self, *, whole: bool) -> None:
        """A run that is asked for more than it has is over, and drops its files; one that is closed keeps them."""
        if whole:
            for _ in self._blocks:
                pass
        elif self._run is not None:
            self._blocks.close()  # type: ignore[attr-defined]  # a generator

    def _results(self, block: Block, first: int) -> list[EmbeddingResult]:
        failures = {failure.row - block.first_row: failure.error for failure in block.failures}
        results: list[EmbeddingResult] = []
        for row, vector in enumerate(block.vectors):
            tag, error = self._requests[first + row].tag, failures.get(row)
            if error is None:
                results.append(EmbeddingResult(tag, vector.tolist()))
            else:
                results.append(EmbeddingResult(tag, None, str(error), error))
        return results
