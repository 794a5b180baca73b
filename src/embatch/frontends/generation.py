"""Runs that answer prompts: what `remote` is for vectors, over the same lanes, ledger and pacing.

A `GenerateRun` takes (key, prompt) pairs and gives (key, answer) pairs in their order. Equal prompts are sent once;
what was answered lies in the ledger, so that a run that was killed pays for nothing twice. It makes no vectors, and
one answer that is wanted piece by piece is `streaming`'s.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from embatch.engine.lanes.pipeline import left_s, note
from embatch.engine.window import check_text, text_digest
from embatch.errors import EmbatchError, GoalError, NotSentError, ProviderError, UsageError
from embatch.frontends.remote import LaneSettings, RemoteModel
from embatch.providers.registry import open_provider
from embatch.providers.work import estimate_tokens
from embatch.remote import Generated
from embatch.storage.learned import default_learned
from embatch.types import ModelSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from embatch.engine.lanes.run import LaneRun, Result
    from embatch.remote import GenerateWork, ModelFacts, Provider, Unit
    from embatch.seen_lanes import RunObserver
    from embatch.storage.ledger import Ledger
    from embatch.types import LaneReport

Key = TypeVar("Key")
_PAGE = 1000  # prompts read, and answers handed over, at once
_ITEM_TOKENS = 1_048_576  # of a prompt, where a model's own limit is not known: the provider says


class GeneratingModel(RemoteModel):
    """A provider's model that answers prompts: one prompt a call, and no vectors.

    Args:
        provider: as `RemoteModel`, as for the other arguments.
    """

    def __init__(self, provider: Provider, **options: Any) -> None:
        facts = provider.facts
        if facts.dimensions or facts.tasks:
            raise UsageError(
                f"{facts.provider}:{facts.model} makes vectors, it answers no prompts",
                hint="Name a model that does, such as gemini:gemini-2.5-flash.",
            )
        if facts.call.items != 1:  # a model that the facts do not know
            tokens = max(facts.call.item_tokens, _ITEM_TOKENS)
            provider.facts = replace(facts, call=replace(facts.call, items=1, item_tokens=tokens))
        super().__init__(provider, **options)

    def spec_for(self, task: str | None, dimensions: int | None) -> ModelSpec:
        """What names the model where a spec is asked for; answers have no dimensions."""
        del task, dimensions
        return ModelSpec(
            model=f"{self.facts.provider}:{self.facts.model}",
            revision=self.facts.model,
            dimensions=0,
            max_tokens=self.facts.call.item_tokens,
            pooling="answer",
            normalize=False,
            precision="api",
        )


def open_generating(
    model: str,
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    client: object | None = None,
    tier: str | None = None,
    settings: LaneSettings | None = None,
    keep_learned: bool = True,
) -> GeneratingModel:
    """Open a model that answers prompts: `gemini:NAME`, `openai:NAME` or `compatible:NAME`.

    Raises:
        UsageError: there is no such provider, or the model makes vectors.
        MissingExtraError: the provider's SDK is not installed.
        ProviderError: no key was given.
    """
    provider = open_provider(model, base_url=base_url, api_key=api_key, client=client, tier=tier)
    try:
        return GeneratingModel(
            provider,
            settings=settings,
            learned=default_learned() if keep_learned else None,
            base_url=base_url,
        )
    except BaseException:
        provider.close()
        raise


def answer_spec(model: GeneratingModel, work: GenerateWork) -> ModelSpec:
    """Everything that changes an answer but chance, for ledgers and their names."""
    settings = json.dumps([work.temperature, work.max_output_tokens])
    return replace(model.spec_for(None, None), precision=f"api {settings}", prompt=work.system or "")


class GenerateRun:
    """One run over prompts.

    Args:
        model: open, and the caller's to close.
        work: what is asked for each prompt.
        ledger: keeps what was sent and answered. The caller closes it, or finishes it when the answers are safe.
        settings: how the run may use the lanes; the model's own if None.
        collect: name prompts that could not be sent in their places, instead of raising.
        observer: is told of calls, jobs, pauses and decisions.
    """

    def __init__(
        self,
        model: GeneratingModel,
        work: GenerateWork,
        *,
        ledger: Ledger,
        settings: LaneSettings | None = None,
        collect: bool = False,
        observer: RunObserver | None = None,
    ) -> None:
        self._observer = observer
        self._settings = settings or model.settings
        self.report: LaneReport = model.new_report(self._settings, ledger)
        self.stopped_by: GoalError | ProviderError | None = None
        """With `collect`: what ended the run before everything was sent."""
        self.rows_read = 0
        """Prompts taken so far."""
        self.read_all = False
        self.known = 0
        """Prompts that needed no request: answered before, or told to be bad."""
        self._model = model
        self._work = work
        self._ledger = ledger
        self._collect = collect
        self._run: LaneRun | None = None
        self._extra = estimate_tokens(model.facts, work.system) if work.system else 0

    @property
    def rows_done(self) -> int:
        """Prompts that have their answer or error: for progress, from any thread."""
        return min(self.rows_read, self.known + (self._run.done if self._run is not None else 0))

    @property
    def left_s(self) -> float | None:
        """Seconds until the end, as the strategy expects them; None while nothing is driven."""
        return left_s(self._run)

    @property
    def note(self) -> str:
        """What holds the run up, or calls and jobs under way; and dollars; in a few words."""
        return note(self._run, self.report)

    def run(
        self, prompts: Iterable[tuple[Key, str | EmbatchError]]
    ) -> Iterator[tuple[Key, Generated | EmbatchError]]:
        """Answer all prompts.

        Args:
            prompts: read once. An error in a prompt's place comes back in its answer's.

        Yields:
            Each key with its answer, or with the error that stands for it, in the order of the prompts.

        Raises:
            ProviderError: nothing can succeed any more: a wrong key, a day's quota, a provider that stays away.
            GoalError: the budget, or the time to wait, is used up. The same run over the same ledger goes on.
        """
        rows = list(self._admit(prompts))
        self.read_all = True
        self._drive()
        for start in range(0, len(rows), _PAGE):
            yield from self._answers(rows[start : start + _PAGE])

    # --- inside -----------------------------------------------------------------------------------------------

    def _admit(
        self, prompts: Iterable[tuple[Key, str | EmbatchError]]
    ) -> Iterator[tuple[Key, bytes | EmbatchError]]:
        """Write what must be answered into the ledger; each key with its prompt's digest, or its error."""
        source = iter(prompts)
        while page := list(islice(source, _PAGE)):
            texts: dict[bytes, str] = {}
            rows: list[tuple[Key, bytes | EmbatchError]] = []
            for key, text in page:
                error = text if isinstance(text, EmbatchError) else check_text(text)
                if error is None:
                    digest = text_digest(str(text))
                    texts[digest] = str(text)
                rows.append((key, digest if error is None else error))
            known = self._ledger.answers(list(texts))
            facts = self._model.facts
            new = self._ledger.add(
                (digest, text, estimate_tokens(facts, text) + self._extra)
                for digest, text in texts.items()
                if digest not in known
            )
            self.rows_read += len(page)
            self.known += len(page) - new
            yield from rows

    def _drive(self) -> None:
        if not self._ledger.waiting().items and not self._ledger.jobs(done=False):
            return
        self._run = self._model.run_for(
            self._work,
            self._put,
            ledger=self._ledger,
            settings=self._settings,
            report=self.report,
            observer=self._observer,
        )
        try:
            self._run.run()
        except (GoalError, ProviderError) as error:
            if not self._collect:
                raise
            self.stopped_by = error

    def _put(self, units: Sequence[Unit], results: Sequence[Result]) -> None:
        answers: list[tuple[bytes, str]] = []
        for unit, result in zip(units, results, strict=True):
            assert isinstance(result, Generated)
            answers.append((unit.digest, json.dumps(result)))
        self._ledger.put_answers(answers)

    def _answers(
        self, rows: Sequence[tuple[Key, bytes | EmbatchError]]
    ) -> Iterator[tuple[Key, Generated | EmbatchError]]:
        digests = [found for _, found in rows if isinstance(found, bytes)]
        answers = self._ledger.answers(digests)
        errors = self._ledger.errors([digest for digest in digests if digest not in answers])
        for key, found in rows:
            if isinstance(found, EmbatchError):
                yield key, found
            elif found in answers:
                yield key, Generated(*json.loads(answers[found]))
            else:
                yield key, errors.get(found) or self._not_sent(key)

    def _not_sent(self, key: object) -> EmbatchError:
        if self.stopped_by is None:
            raise EmbatchError(
                f"prompt {key!r} has neither an answer nor an error: this is a fault of embatch",
                hint="Run the same again: what was paid for is kept.",
            )
        error = NotSentError(str(self.stopped_by))
        error.__cause__ = self.stopped_by
        return error


def check_generation(facts: ModelFacts, work: GenerateWork) -> None:
    """Refuse settings that make no sense, before anything is sent.

    Raises:
        UsageError: naming the setting.
    """
    name = f"{facts.provider}:{facts.model}"
    if work.temperature is not None and not 0 <= work.temperature <= 2:
        raise UsageError(f"{name}: the temperature must lie between 0 and 2, not {work.temperature}")
    if work.max_output_tokens is not None and work.max_output_tokens < 1:
        raise UsageError(f"{name}: max_output_tokens must be at least 1, not {work.max_output_tokens}")
