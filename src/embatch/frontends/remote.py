"""Wiring for models behind an API: a provider, what is learned about it, and runs through its lanes.

A `RemoteModel` stands where a backend stands for a model on this machine, so that sources, splitting, windows, journal,
cache and sinks are the same for both. It keeps the pacer and the beliefs between runs of one process, and, where it
may, between processes.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

import numpy as np

from embatch.decisions.costs import Terms, outlook, savings
from embatch.decisions.lanes.watch import Bounds, Watch
from embatch.decisions.latency import Beliefs
from embatch.decisions.pacing import Learned, Pacer
from embatch.decisions.packing_calls import Caps, LearnedCaps, TokenRatio
from embatch.decisions.strategy import Strategy
from embatch.engine.lanes.clock import Clock
from embatch.engine.lanes.pipeline import LanePipeline
from embatch.engine.lanes.run import LaneParts, LaneRun
from embatch.engine.lanes.telling import tell_outlook
from embatch.errors import ProviderError, UsageError
from embatch.frontends.lane_checks import check_budget, check_jobs, check_settings
from embatch.providers.registry import open_provider
from embatch.providers.work import check_work, estimate_tokens, resolve_task, work_spec
from embatch.remote import URGENT, EmbedWork, GenerateWork, Goal
from embatch.types import CostRule, LaneReport, Limits, Tokenized

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from embatch.engine.lanes.run import Put
    from embatch.remote import ModelFacts, Provider, StrategyName, Work
    from embatch.seen_lanes import RunObserver
    from embatch.storage.learned import LearnedFacts
    from embatch.storage.ledger import Ledger
    from embatch.types import FloatArray, ModelSpec, VectorStore

_log = logging.getLogger(__name__)
_CUT_MARGIN = 0.9  # of the limit: what is cut by an estimate must fit by the provider's own count
_PROBE_TIMEOUT_S = 60.0
_PARALLEL = 64  # calls at once, unless fewer are asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSettings:
    """How a run may use the lanes.

    Args:
        strategy: which lanes.
        threshold: with `auto`, a fixed rule: fewer items than this go by calls, others as a job. None decides by cost.
        goal: deadline, budget, and what an hour of waiting is worth.
        parallel: calls at once at most.
        head: with `hybrid`, how many items at least go at once; None is `URGENT`.
        max_job_items: items of a job at most.
        poll_s: seconds between two looks at a job. None: the older the job, the longer.
        patience_s: seconds after which a run that is not done ends with `StillRunningError`, its jobs left as they are.
            None waits as long as it takes.
    """

    strategy: StrategyName = "auto"
    threshold: int | None = None
    goal: Goal = dataclasses.field(default_factory=Goal)
    parallel: int | None = None
    head: int | None = None
    max_job_items: int | None = None
    poll_s: float | None = None
    patience_s: float | None = None

    def __post_init__(self) -> None:
        check_settings(self)


class RemoteModel:
    """A provider's model where a backend is expected: it counts and splits texts, and makes runs.

    Thread-safe; any number of runs may go on at once, over the same quotas.

    Args:
        provider: an open provider; closed with the model.
        settings: how runs use the lanes, unless they say otherwise.
        learned: where what is learned is kept between processes; None keeps it for this one only.
        clock: the time to live by; only rehearsals give another.
        base_url: what the provider was opened with, for those who go on with a run.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        settings: LaneSettings | None = None,
        learned: LearnedFacts | None = None,
        clock: Clock | None = None,
        base_url: str | None = None,
    ) -> None:
        self.base_url = base_url
        self.provider = provider
        self.settings = settings or LaneSettings()
        check_budget(provider.facts, self.settings.goal)
        check_jobs(provider.facts, self.settings.strategy)
        self.clock = clock or Clock()
        self.caps = LearnedCaps(day=_today())
        self.ratio = TokenRatio()
        self.device = f"{provider.name} API"
        self.streams = 1
        self.prompts: Mapping[str, str] = {}
        self._learned = learned
        self._parallel = self.settings.parallel or _PARALLEL
        self._key = f"{provider.name}:{provider.facts.model} {provider.account}"
        self._lock = threading.Lock()
        self._saved_at = -math.inf
        self.deciding = threading.RLock()
        """Held while pacer and beliefs are used: several runs may share them."""
        self._dimensions = provider.facts.dimensions
        self.pacer = self._new_pacer(None)
        self.beliefs = Beliefs.of(provider.facts.provider)
        self._load()
        self.spec = self.spec_for(None, None)
        self.limits = Limits(items=provider.facts.call.items, cost=CostRule.PACKED)

    @classmethod
    def open(
        cls,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        client: object | None = None,
        facts_file: Path | None = None,
        tier: str | None = None,
        settings: LaneSettings | None = None,
        keep_learned: bool = True,
    ) -> RemoteModel:
        """Open `gemini:NAME`, `openai:NAME` or `compatible:NAME`.

        Raises:
            MissingExtraError: the provider's SDK is not installed.
            ProviderError: no key was given.
        """
        from embatch.storage.learned import default_learned

        provider = open_provider(
            model, base_url=base_url, api_key=api_key, client=client, facts_file=facts_file, tier=tier
        )
        learned = default_learned() if keep_learned else None
        try:
            return cls(provider, settings=settings, learned=learned, base_url=base_url)
        except BaseException:
            provider.close()
            raise

    # --- the model --------------------------------------------------------------------------------------------

    @property
    def facts(self) -> ModelFacts:
        """What is known of the model."""
        return self.provider.facts

    def work_for(self, task: str | None, dimensions: int | None) -> EmbedWork:
        """What is asked for each text.

        Raises:
            UsageError: the model knows no such task, or has no such number of dimensions.
        """
        prices = self.facts.prices
        if prices is not None and prices.output_individual > 0:
            raise UsageError(
                f"{self.facts.provider}:{self.facts.model} answers prompts and makes no vectors",
                hint="Use `embatch generate`, or an embedding model.",
            )
        type_, prompt = resolve_task(self.facts, task or "document")
        full = dimensions is None or dimensions == self.facts.dimensions
        work = EmbedWork(
            model=self.facts.model, dimensions=None if full else dimensions, task=type_, prompt=prompt
        )
        check_work(self.facts, work)
        return work

    def spec_for(self, task: str | None, dimensions: int | None) -> ModelSpec:
        """The spec of vectors made for a task."""
        return self.spec_of(self.work_for(task, dimensions))

    def spec_of(self, work: EmbedWork) -> ModelSpec:
        """The spec of vectors made by some work."""
        if not self._dimensions and work.dimensions is None:
            self._dimensions = self._probe(work)
        facts = self.facts
        return work_spec(replace(facts, dimensions=facts.dimensions or self._dimensions or 0), work)

    def tokenize(self, texts: Sequence[str], *, prompt: str = "") -> Tokenized:
        """Estimated tokens of each text; texts that are too long are cut where the provider would refuse them."""
        facts = self.facts
        most = facts.call.item_tokens
        extra = estimate_tokens(facts, prompt) if prompt else 0
        estimates = np.array([estimate_tokens(facts, text) + extra for text in texts], np.int32)
        truncated = np.array([self.ratio.correct(int(n)) > most for n in estimates], np.bool_)
        payloads: list[str] = list(texts)
        for i in np.flatnonzero(truncated).tolist():
            if not facts.truncates:
                payloads[i] = self._cut(texts[i], int(estimates[i]))
        return Tokenized(payloads, np.minimum(estimates, most).astype(np.int32), truncated)

    def split(self, text: str, *, prompt: str = "") -> list[str]:
        """Consecutive pieces of `text`, each within the model's limit by estimate; joined: the text."""
        pieces, rest = [], text
        while rest:
            tokens = int(self.tokenize([rest], prompt=prompt).lengths[0])
            estimate = estimate_tokens(self.facts, rest)
            if self.ratio.correct(max(tokens, estimate)) <= self.facts.call.item_tokens:
                pieces.append(rest)
                break
            piece = self._cut(rest, estimate)
            pieces.append(piece)
            rest = rest[len(piece) :]
        return pieces

    def embed(self, payloads: Sequence[object]) -> FloatArray:
        """Not how a provider is asked: runs go through `pipeline`."""
        del payloads
        raise UsageError("a provider's model is used through its pipeline, not batch by batch")

    def memory_used(self) -> float:
        """A provider's memory is not ours."""
        return 0.0

    def close(self) -> None:
        """Keep what was learned, and close the provider. Closing twice is allowed."""
        self.save()
        self.provider.close()

    # --- runs -------------------------------------------------------------------------------------------------

    def pipeline(
        self,
        spec: ModelSpec,
        work: EmbedWork,
        *,
        ledger: Ledger,
        store: VectorStore,
        settings: LaneSettings | None = None,
        rows_at_once: int | None = None,
        collect: bool = False,
        observer: RunObserver | None = None,
    ) -> LanePipeline:
        """A run that embeds rows; see `LanePipeline`."""
        chosen = settings or self.settings
        report = self.new_report(chosen, ledger)
        return LanePipeline(
            self,
            spec,
            ledger=ledger,
            store=store,
            make_run=lambda put: self.run_for(
                work,
                put,
                ledger=ledger,
                settings=chosen,
                report=report,
                dimensions=spec.dimensions,
                cut=spec.overlong != "error",
                observer=observer,
            ),
            lanes=report,
            rows_at_once=rows_at_once,
            collect=collect,
            observer=observer,
        )

    def terms(self, goal: Goal | None = None) -> Terms:
        """What an outlook over this model rests on now."""
        return Terms(
            facts=self.facts,
            goal=goal or self.settings.goal,
            beliefs=self.beliefs,
            pacer=self.pacer,
            call_limits=lambda: self.caps.limits(self.facts.call),
            now=self.clock.now(),
        )

    def expect(
        self, report: LaneReport, settings: LaneSettings, ledger: Ledger, observer: RunObserver | None = None
    ) -> None:
        """Write down what is to be expected of a run, so that its report can be held against it."""
        waiting = ledger.waiting()
        if waiting.items <= 1:
            return
        with self.deciding:
            found = outlook(
                self.terms(settings.goal),
                waiting.items,
                self.ratio.correct(waiting.tokens),
                head=URGENT if settings.head is None else settings.head,
            )
        one = next((one for one in found if one.strategy == settings.strategy), found[0])
        report.expected_seconds = one.seconds_p50
        answers = self.facts.prices is not None and self.facts.prices.output_individual > 0
        if not answers:  # these are paid by their length
            report.expected_dollars = one.dollars
        if observer is not None:
            tell_outlook(observer, found, priced=not answers)

    def conclude(self, report: LaneReport) -> None:
        """Fill in what a run has saved against only jobs, and only calls."""
        with self.deciding:
            saved = savings(self.terms(), report, report.call_items + report.job_items)
        report.saved_seconds, report.saved_dollars = saved.seconds, saved.dollars

    def new_report(self, settings: LaneSettings, ledger: Ledger) -> LaneReport:
        """An empty report of a run."""
        return LaneReport(
            strategy=settings.strategy,
            run_id=ledger.run_id,
            priced=self.facts.prices is not None,
            earlier_dollars=ledger.spent(),
        )

    def run_for(
        self,
        work: Work,
        put: Put,
        *,
        ledger: Ledger,
        settings: LaneSettings,
        report: LaneReport,
        dimensions: int | None = None,
        cut: bool = False,
        observer: RunObserver | None = None,
    ) -> LaneRun:
        """A run over what the ledger holds; with `cut`, a text refused as too long is cut instead of failing."""
        if settings.parallel is not None and settings.parallel != self._parallel:
            self._parallel = settings.parallel
            self.pacer = self._new_pacer(self.pacer.learned())
        if self.pacer.stopped is not None:  # by an earlier run: credit, key or day may be another one by now
            self.pacer = self._new_pacer(self.pacer.learned())
        goal = settings.goal
        check_budget(self.facts, goal)
        check_jobs(self.facts, settings.strategy)
        if goal.budget is not None and (spent := ledger.spent()):
            goal = replace(goal, budget=max(0.0, goal.budget - spent))
        self.expect(report, settings, ledger, observer)
        facts = self.facts
        if isinstance(work, GenerateWork) and work.max_output_tokens is not None:
            facts = replace(facts, output_tokens=work.max_output_tokens)
        strategy = Strategy(
            settings.strategy,
            goal,
            facts,
            self.pacer,
            self.beliefs,
            now=self.clock.now(),
            threshold=settings.threshold,
            call_limits=lambda: self.caps.limits(self.facts.call),
            head=URGENT if settings.head is None else settings.head,
            max_job_items=settings.max_job_items,
        )
        watched = Watch(
            strategy,
            Bounds(poll_s=settings.poll_s, patience_s=settings.patience_s),
            now=self.clock.now(),
            jobs=lambda: [job.ref.id for job in ledger.jobs(done=False) if job.ref is not None],
        )
        return LaneRun(
            LaneParts(
                provider=self.provider,
                work=work,
                ledger=ledger,
                strategy=cast("Strategy", watched),  # the same two methods
                caps=self.caps,
                ratio=self.ratio,
                clock=self.clock,
                report=report,
                put=put,
                dimensions=dimensions,
                cut=cut,
                deciding=self.deciding,
                observer=observer,
            )
        )

    # --- what is learned --------------------------------------------------------------------------------------

    def save(self, *, least_s: float = 0.0) -> None:
        """Keep what was learned for the next process, unless that was done in the last `least_s` seconds."""
        if self._learned is None:
            return
        with self._lock:
            now = time.monotonic()
            if now - self._saved_at < least_s:
                return
            self._saved_at = now
            with self.deciding:
                learned = {
                    "pacer": dataclasses.asdict(self.pacer.learned()),
                    "beliefs": self.beliefs.to_dict(self.clock.now()),
                    "ratio": [self.ratio.ratio, self.ratio.seen],
                    "caps": dataclasses.asdict(self.caps.caps),
                    "at": self.clock.wall(),
                    "dimensions": self._dimensions,
                }
            self._learned.save(self._key, learned)

    def _load(self) -> None:
        kept = self._learned.load(self._key) if self._learned is not None else {}
        try:
            if "pacer" in kept:
                self.pacer = self._new_pacer(Learned(**kept["pacer"]))
            if "beliefs" in kept:
                self.beliefs = Beliefs.from_dict(
                    kept["beliefs"],
                    provider=self.facts.provider,
                    now=self.clock.now(),
                    away_s=max(0.0, self.clock.wall() - float(kept.get("at", 0.0))),
                )
            if "ratio" in kept:
                self.ratio = TokenRatio(*kept["ratio"])
            if "caps" in kept:
                self.caps = LearnedCaps(Caps(**kept["caps"]), day=_today())
            self._dimensions = self._dimensions or int(kept.get("dimensions") or 0)
        except (TypeError, ValueError, KeyError, UsageError) as error:
            _log.debug("what was learned could not be used: %s", error)

    def _new_pacer(self, learned: Learned | None) -> Pacer:
        return Pacer(self.facts.rates, now=self.clock.now(), parallel=self._parallel, learned=learned)

    def _probe(self, work: EmbedWork) -> int:
        """How many dimensions a model has that nothing is known of: one text is embedded to see."""
        answer = self.provider.call(["embatch"], work, timeout_s=_PROBE_TIMEOUT_S).results[0]
        if isinstance(answer, ProviderError):
            raise answer
        assert isinstance(answer, np.ndarray)
        return int(answer.shape[0])

    def _cut(self, text: str, estimate: int) -> str:
        share = _CUT_MARGIN * self.facts.call.item_tokens / max(1, self.ratio.correct(estimate))
        return text[: max(1, int(len(text) * share))]


def _today() -> str:
    return datetime.now(UTC).date().isoformat()
