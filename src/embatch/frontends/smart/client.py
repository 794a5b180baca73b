"""The clients: one that chooses between calls and batch jobs, one that only submits jobs, one whose threshold learns.

They hold a user's `google.genai.Client`, what was set and what was counted; everything else is the engine's: packing,
pacing, retries, jobs that survive a crash, answers joined by key.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from embatch.engine.lanes.clock import Clock
from embatch.errors import UsageError
from embatch.frontends.smart import embedding, prompts
from embatch.frontends.smart.metrics import BatchingMetrics
from embatch.frontends.smart.models import Models
from embatch.frontends.smart.outlook import break_even
from embatch.frontends.smart.requests import (
    embedding_requests,
    generate_work,
    model_name,
    prompt_requests,
)
from embatch.frontends.smart.rules import Asked, Rules
from embatch.frontends.smart.settings import as_settings
from embatch.providers.work import estimate_tokens
from embatch.remote import Goal
from embatch.storage.learned import default_learned

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from pathlib import Path
    from types import TracebackType

    from embatch.frontends.smart.requests import (
        BatchPromptRequest,
        BatchPromptResult,
        EmbeddingRequest,
        EmbeddingResult,
    )
    from embatch.frontends.smart.rules import Threshold
    from embatch.frontends.smart.settings import BatchingSettings, Settings
    from embatch.remote import Provider, StrategyName

_USUAL_TOKENS = 100.0  # of a text, before any was seen
_FOLLOW = 0.1  # weight of one call in the mean length of texts
_LOOKED_AT = 100  # texts of a call, for that


class SmartGeminiClient:
    """Sends few requests by calls and many as a batch job. Thread-safe; a context manager.

    Calls are packed, up to a hundred texts each. Requests that differ in model, task or dimensions go in runs of their
    own, side by side, and the threshold holds for each of these. A call that may submit jobs survives its process: made
    again with the same texts, it takes the results of its jobs.

    Args:
        client: a configured `google.genai.Client`; it stays open.
        default_model: for requests that name none, such as `gemini-embedding-001`.
        batch_threshold: fewer requests than this go by calls, others as a job; `auto` decides by cost.
        max_individual_parallel: calls at once.
        max_parallel: the same.
        strategy: `auto` goes by the threshold; `individual`, `batch` and `hybrid` (a few at once, the rest as a job)
            do as they are called.
        prefer_individual_for: purposes whose requests always go by calls.
        poll_interval: seconds between two looks at a job; None looks less often as it gets older.
        timeout: seconds that one call may take; None waits for its jobs as long as they take.
        deadline: seconds within which a call should be done, when cost decides.
        budget: dollars that one call must not go over.
        hour_worth: dollars that an hour of waiting is worth, when cost decides; 0.01 unless set, 0.10 with a deadline.
        keep_learned: keep what is learned of the provider for the next process.
        provider: opens a model's provider by its name, in place of the client: for tests without an API.
        clock: the time to live by; only rehearsals give another.
    """

    def __init__(  # noqa: PLR0913  # one argument for each choice that a user has
        self,
        client: object,
        default_model: str,
        batch_threshold: Threshold = 10,
        max_individual_parallel: int = 5,
        *,
        max_parallel: int | None = None,
        strategy: StrategyName = "auto",
        prefer_individual_for: Iterable[str] = (),
        poll_interval: float | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        budget: float | None = None,
        hour_worth: float | None = None,
        keep_learned: bool = True,
        provider: Callable[[str], Provider] | None = None,
        clock: Clock | None = None,
    ) -> None:
        goal = Goal(deadline_s=deadline, budget=budget)
        self._rules = Rules(
            strategy=strategy,
            threshold=batch_threshold,
            parallel=max_individual_parallel if max_parallel is None else max_parallel,
            prefer_individual_for=frozenset(prefer_individual_for),
            poll_s=poll_interval,
            patience_s=timeout,
            goal=goal if hour_worth is None else replace(goal, hour_worth=hour_worth),
        )
        self._model = model_name(default_model)
        self._metrics = BatchingMetrics()
        self._item_tokens = _USUAL_TOKENS
        self._clock = clock or Clock()
        self._models = Models(
            client,
            settings=self._rules.plain(),
            provider=provider,
            learned=default_learned() if keep_learned else None,
            clock=self._clock,
        )

    @classmethod
    def from_settings(
        cls,
        client: object,
        settings: BatchingSettings | Settings | Path | str | None = None,
        *,
        default_model: str | None = None,
        provider: Callable[[str], Provider] | None = None,
        clock: Clock | None = None,
    ) -> Self:
        """A client as a settings file wants it.

        Args:
            client: as for the class.
            settings: loaded, or the path of the file; None looks for `embatch.yaml` and `mkdocs.yml` here.
            default_model: instead of the settings' own; needed where these name none.
            provider: as for the class.
            clock: as for the class.

        Raises:
            UsageError: the file is wrong, or no model is named.
        """
        loaded = as_settings(settings)
        model = default_model or loaded.model
        if model is None:
            raise UsageError("the settings name no model", hint="Give default_model, or set it in the file.")
        batching = loaded.batching
        return cls(
            client,
            model,
            batching.batch_threshold,
            batching.max_parallel_individual,
            strategy=batching.strategy,
            prefer_individual_for=batching.prefer_individual_for,
            deadline=loaded.deadline,
            budget=loaded.budget,
            hour_worth=loaded.hour_worth,
            provider=provider,
            clock=clock,
        )

    # --- what it is -------------------------------------------------------------------------------------------

    @property
    def metrics(self) -> BatchingMetrics:
        """What was done so far."""
        return self._metrics

    @property
    def batch_threshold(self) -> int | None:
        """So many requests go as a job now; None if jobs do not pay for any number."""
        threshold = self._rules_now().threshold
        if threshold != "auto":
            return threshold
        return break_even(self._models.opened(self._model), self._item_tokens, self._rules.goal)

    # --- vectors ----------------------------------------------------------------------------------------------

    def embed_content(
        self,
        requests: Iterable[EmbeddingRequest | str],
        *,
        force_batch: bool = False,
        force_individual: bool = False,
        purpose: str | None = None,
    ) -> list[EmbeddingResult]:
        """Vectors, in the order of the requests. What fails has its `error`, the others their `embedding`.

        Args:
            requests: texts, with what is wanted of each.
            force_batch: submit a batch job, whatever the number.
            force_individual: send calls, whatever the number.
            purpose: what it is for; see `prefer_individual_for`.

        Raises:
            ValueError: both lanes were asked for.
            UsageError: a request asks what its model cannot do. Nothing was sent then.
            StillRunningError: `timeout` is over; the same call again takes the results of the jobs.
            ProviderError: nothing at all could be had, such as for a wrong key.
            GoalError: the budget does not allow anything.
        """
        asked = Asked(batch=force_batch, individual=force_individual, purpose=purpose)
        return self._embed(embedding_requests(requests), asked)

    async def aembed_content(
        self,
        requests: Iterable[EmbeddingRequest | str],
        *,
        force_batch: bool = False,
        force_individual: bool = False,
        purpose: str | None = None,
    ) -> list[EmbeddingResult]:
        """`embed_content`, in a thread of its own."""
        asked = Asked(batch=force_batch, individual=force_individual, purpose=purpose)
        return await asyncio.to_thread(self._embed, embedding_requests(requests), asked)

    def _embed(self, requests: list[EmbeddingRequest], asked: Asked) -> list[EmbeddingResult]:
        if not requests:
            return []
        self._saw(requests)
        return embedding.embed_all(
            requests, self._models, self._model, self._rules_now(), asked, self._metrics
        )

    # --- answers ----------------------------------------------------------------------------------------------

    def generate_content(
        self,
        prompts_: str | BatchPromptRequest | Iterable[str | BatchPromptRequest],
        *,
        force_batch: bool = False,
        force_individual: bool = False,
        purpose: str | None = None,
    ) -> list[BatchPromptResult]:
        """Answers, in the order of the prompts; equal ones are asked once. What fails has its `error`.

        Args:
            prompts_: one prompt, or any number.
            force_batch: as in `embed_content`, as for the next two.
            force_individual: see there.
            purpose: see there.

        Raises:
            ValueError: as `embed_content`, as the others.
            UsageError: the model makes vectors; name one that answers, in the request or as `default_model`.
            StillRunningError: see there.
            ProviderError: see there.
            GoalError: see there.
        """
        asked = Asked(batch=force_batch, individual=force_individual, purpose=purpose)
        return self._generate(prompt_requests(prompts_), asked)

    async def agenerate_content(
        self,
        prompts_: str | BatchPromptRequest | Iterable[str | BatchPromptRequest],
        *,
        force_batch: bool = False,
        force_individual: bool = False,
        purpose: str | None = None,
    ) -> list[BatchPromptResult]:
        """`generate_content`, in a thread of its own."""
        asked = Asked(batch=force_batch, individual=force_individual, purpose=purpose)
        return await asyncio.to_thread(self._generate, prompt_requests(prompts_), asked)

    def _generate(self, requests: list[BatchPromptRequest], asked: Asked) -> list[BatchPromptResult]:
        if not requests:
            return []
        return prompts.answer_all(
            requests, self._models, self._model, self._rules_now(), asked, self._metrics
        )

    def generate_content_stream(self, prompt: str | BatchPromptRequest) -> Iterator[str]:
        """Pieces of one answer as they come. Close the iterator, or use it up.

        A client that only submits jobs waits for the answer and gives it in one piece: jobs have no pieces.

        Raises:
            EmbatchError: there is no answer, or it broke off.
        """
        (request,) = prompt_requests(prompt)
        rules = self._rules_now()
        work = generate_work(request, self._model)
        model = self._models.generating(work.model)
        lanes, _ = rules.lanes(1, Asked(), has_jobs=model.facts.job is not None)
        if lanes.strategy != "batch":
            yield from prompts.stream_one(request, model, work, lanes, self._metrics)
            return
        (result,) = self._generate([request], Asked())
        if result.exception is not None:
            raise result.exception
        yield result.text or ""

    async def agenerate_content_stream(self, prompt: str | BatchPromptRequest) -> AsyncIterator[str]:
        """`generate_content_stream`, with the loop free between pieces."""
        pieces = self.generate_content_stream(prompt)
        try:
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                yield piece
        finally:
            await asyncio.to_thread(pieces.close)  # type: ignore[attr-defined]  # a generator

    # --- closing ----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Keep what was learned, and log a summary; the genai client stays open. Closing twice is allowed."""
        if self._models.close() and self._metrics.total_requests:
            self._metrics.log_summary()

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

    def _rules_now(self) -> Rules:
        return self._rules

    def _saw(self, requests: list[EmbeddingRequest]) -> None:
        """How long texts are decides how many of them a job pays for."""
        facts = self._models.embedding(self._model).facts
        lengths = [estimate_tokens(facts, str(one.text)) for one in requests[:_LOOKED_AT]]
        if lengths:
            self._item_tokens += _FOLLOW * (sum(lengths) / len(lengths) - self._item_tokens)


class GeminiBatchClient(SmartGeminiClient):
    """Always submits a batch job.

    Args:
        client: as for `SmartGeminiClient`.
        default_model: see there.
        poll_interval: seconds between two looks at a job.
        timeout: seconds that one call may take. After that a `StillRunningError` names the jobs; they go on, and the
            same call, made again in this process or another, takes their results and submits nothing twice.
        keep_learned: as for `SmartGeminiClient`, as for the next two.
        provider: see there.
        clock: see there.
    """

    def __init__(
        self,
        client: object,
        default_model: str,
        poll_interval: float = 5.0,
        timeout: float = 900.0,
        *,
        keep_learned: bool = True,
        provider: Callable[[str], Provider] | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(
            client,
            default_model,
            strategy="batch",
            poll_interval=poll_interval,
            timeout=timeout,
            keep_learned=keep_learned,
            provider=provider,
            clock=clock,
        )


class AdaptiveSmartClient(SmartGeminiClient):
    """Begins with the threshold that it is given, and goes by what it has seen of calls and jobs from then on.

    The threshold is the number of texts for which a job saves more than waiting for it is worth (`hour_worth`), with
    latencies, quotas and lengths of texts as they were seen. It is left for that as soon as both lanes were used; with
    `auto` the decision is by cost from the beginning.
    """

    def _rules_now(self) -> Rules:
        seen = self._metrics.individual_calls > 0 and self._metrics.batch_items > 0
        return replace(self._rules, threshold="auto") if seen else self._rules
