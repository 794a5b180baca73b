"""Prompts, from the caller's list to answers in its order, by runs of the engine.

What `embedding` is for vectors. A run that may submit jobs keeps its ledger in the user's folder, under a name made of
what is asked for: the same call, made again, finds its jobs and its answers.
"""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING

from embatch.engine.window import check_text, text_digest
from embatch.errors import OutputError
from embatch.frontends.generation import GenerateRun, answer_spec, check_generation
from embatch.frontends.remote_host import open_ledger
from embatch.frontends.smart import runs
from embatch.frontends.smart.outlook import look_ahead
from embatch.frontends.smart.requests import BatchPromptResult, generate_work, grouped
from embatch.frontends.streaming import stream_answer
from embatch.providers.work import estimate_tokens
from embatch.remote import Generated
from embatch.storage.folders import user_folder
from embatch.storage.ledger import Ledger
from embatch.storage.runs import default_registry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from embatch.errors import EmbatchError
    from embatch.frontends.generation import GeneratingModel
    from embatch.frontends.remote import LaneSettings
    from embatch.frontends.smart.metrics import BatchingMetrics
    from embatch.frontends.smart.models import Models
    from embatch.frontends.smart.requests import BatchPromptRequest
    from embatch.frontends.smart.rules import Asked, Rules
    from embatch.remote import GenerateWork
    from embatch.types import ModelSpec

_log = logging.getLogger(__name__)


def answer_all(
    requests: Sequence[BatchPromptRequest],
    models: Models,
    default_model: str,
    rules: Rules,
    asked: Asked,
    metrics: BatchingMetrics,
) -> list[BatchPromptResult]:
    """Results in the order of the requests.

    Raises:
        UsageError: a request asks what makes no sense, or a model that makes vectors. Nothing was sent then.
        StillRunningError: a job takes longer than may be waited.
        ProviderError: nothing could be sent at all, such as for a wrong key.
        GoalError: the budget does not allow anything.
    """
    groups = grouped(requests, lambda one: generate_work(one, default_model))
    for work in groups:
        check_generation(models.generating(work.model).facts, work)
    group_runs = [
        PromptGroup(
            models.generating(work.model), work, [requests[i] for i in positions], rules, asked, metrics
        )
        for work, positions in groups.items()
    ]
    return runs.run_groups(groups.values(), group_runs)


def stream_one(
    request: BatchPromptRequest,
    model: GeneratingModel,
    work: GenerateWork,
    lanes: LaneSettings,
    metrics: BatchingMetrics,
) -> Iterator[str]:
    """Pieces of one answer.

    Raises:
        EmbatchError: see `stream_answer`.
    """
    outlook = look_ahead(model, 1, estimate_tokens(model.facts, str(request.prompt)), lanes.goal)
    yield from stream_answer(
        model,
        work,
        request.prompt,
        settings=lanes,
        on_end=lambda report: runs.count(metrics, 1, report, outlook, model),
    )


class PromptGroup:
    """A run over prompts that want the same of one model."""

    def __init__(
        self,
        model: GeneratingModel,
        work: GenerateWork,
        requests: Sequence[BatchPromptRequest],
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
        self._ledger: Ledger | None = None
        self._run: GenerateRun | None = None

    def go(self) -> list[BatchPromptResult]:
        """Results, one a request; the run's ledger stays until `end`."""
        model = self._model
        prompts = {one.prompt for one in self._requests if check_text(one.prompt) is None}
        system = estimate_tokens(model.facts, self._work.system) if self._work.system else 0
        tokens = sum(system + estimate_tokens(model.facts, prompt) for prompt in prompts)
        lanes, outlook = runs.decide(self._rules, self._asked, model, len(prompts), tokens)
        self._ledger = self._open(prompts, lanes)
        self._run = run = GenerateRun(model, self._work, ledger=self._ledger, settings=lanes, collect=True)
        whole = False
        try:
            results = [
                _result(self._requests[row].tag, answer)
                for row, answer in run.run((i, one.prompt) for i, one in enumerate(self._requests))
            ]
            self.stopped_by = run.stopped_by
            whole = True
        finally:
            runs.count(self._metrics, len(self._requests), run.report, outlook, model)
            if not whole:
                self.end(whole=False)
        return results

    def end(self, *, whole: bool) -> None:
        """Drop the ledger, or keep it for the next time. Ending twice is allowed."""
        ledger, self._ledger = self._ledger, None
        if ledger is None:
            return
        if ledger.path is not None:
            summary = self._run.report.to_dict() if self._run is not None else {}
            default_registry().end(ledger.run_id, "done" if whole else "stopped", summary)
        if whole:
            ledger.finish()
        else:
            ledger.close()

    def _open(self, prompts: Iterable[str], lanes: LaneSettings) -> Ledger:
        """In memory for what only calls can do: it costs no more to ask that again."""
        spec = answer_spec(self._model, self._work)
        may_job = lanes.strategy != "individual" and self._model.facts.job is not None
        if may_job:
            output = user_folder() / "runs" / _name(spec, prompts)
            try:
                return open_ledger(output, spec, command=[], rows=len(self._requests))
            except OutputError as error:
                _log.warning("this run cannot be resumed if it is killed: %s", error)
        return Ledger.open(None, fingerprint=spec.fingerprint, about={"model": spec.model})


def _name(spec: ModelSpec, prompts: Iterable[str]) -> str:
    """The same for the same prompts, in any order, under the same settings."""
    digest = hashlib.blake2b(spec.fingerprint.encode(), digest_size=8)
    for prompt in sorted(text_digest(prompt) for prompt in prompts):
        digest.update(prompt)
    return f"prompts-{digest.hexdigest()}"


def _result(tag: str | None, answer: Generated | EmbatchError) -> BatchPromptResult:
    if not isinstance(answer, Generated):
        return BatchPromptResult(tag, None, str(answer), exception=answer)
    return BatchPromptResult(
        tag,
        answer.text,
        finish_reason=answer.finish_reason,
        input_tokens=answer.input_tokens,
        output_tokens=answer.output_tokens,
    )
