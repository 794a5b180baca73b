"""One run of the engine for a processor: over a service, a provider's model, or a model on this machine.

Between the rows and the asynchronous front: blocks of finished rows, counts while they are made, and a way to stop.
Each kind wires engine parts together and forms no batches. Memory is bounded by portions: rows that are handed to one
pipeline, one portion after the other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from embatch.decisions.latency import Beliefs, Prior
from embatch.decisions.planning import Budget
from embatch.engine.lanes.run import LaneRun
from embatch.errors import InterruptedRunError
from embatch.frontends.hosts import LocalHost
from embatch.frontends.processor.prices import price_of
from embatch.frontends.processor.recent import RecentStore
from embatch.frontends.processor.records import Spent
from embatch.frontends.processor.services import ServiceProvider, cancelled
from embatch.frontends.remote import LaneSettings, RemoteModel
from embatch.frontends.remote_host import STREAMED_ROWS, RemoteHost
from embatch.providers.work import work_spec
from embatch.storage.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from embatch.engine.lanes.clock import Clock
    from embatch.engine.lanes.pipeline import LanePipeline
    from embatch.engine.pipeline import Pipeline
    from embatch.engine.tuners import Tuner
    from embatch.frontends.embedder import Embedder
    from embatch.frontends.processor.intake import Rows
    from embatch.frontends.remote_host import SafeRun
    from embatch.remote import EmbedWork
    from embatch.types import BatchRecord, Block, ModelSpec, Report

_PORTION_ROWS, _PORTION_ROUNDS = 4096, 20


class Drive(Protocol):
    """A run."""

    @property
    def completed(self) -> int:
        """Rows that have ended, handed over or not."""
        ...

    @property
    def failed(self) -> int:
        """Rows known to have failed before they were handed over; 0 where that is not known."""
        ...

    @property
    def batches(self) -> int:
        """Calls or batches so far."""
        ...

    def blocks(self, rows: Rows) -> Iterator[Block]:
        """Finished rows in order. Blocking: for a thread of its own."""
        ...

    def stop(self) -> None:
        """End it soon. In the loop's thread; may be called again and again."""
        ...

    async def ended(self) -> None:
        """Leave nothing behind in the loop."""
        ...

    def spent(self) -> Spent:
        """What it has used so far."""
        ...


class ServiceModel(RemoteModel):
    """A service where a provider's model is expected: its dimensions are known by its first answer, without a probe.

    Args:
        provider: the service.
        settings: how many calls at once.
        attempts: fruitless calls of a text before it is tried apart from its neighbours.
        clock: the time to live by.
        full: whether every call is as large as it may be; else as large as pays.
    """

    def __init__(
        self,
        provider: ServiceProvider,
        *,
        settings: LaneSettings,
        attempts: int,
        clock: Clock,
        full: bool,
    ) -> None:
        super().__init__(provider, settings=settings, clock=clock)
        self._attempts = attempts
        if full:  # a call's time is believed not to depend on its size: then the fewest calls are the best
            self.beliefs = Beliefs(Prior(item_s=0.0, ktoken_s=0.0))

    def spec_of(self, work: EmbedWork) -> ModelSpec:
        """The spec; 0 dimensions before the first answer."""
        known = self.facts.dimensions
        return replace(work_spec(replace(self.facts, dimensions=known or 1), work), dimensions=known)

    def run_for(self, *arguments: object, **named: object) -> LaneRun:
        """A run with the patience that was asked for."""
        run = super().run_for(*arguments, **named)  # type: ignore[arg-type]  # handed on as they came
        return LaneRun(replace(run.parts, attempts=self._attempts))


class ServiceDrive:
    """A run over an embedding service.

    Args:
        provider: the service.
        batch_size: texts of a call at most; None: as many as pays.
        concurrent: calls at once at most.
        max_retries: as the processor has it.
        price: dollars per million tokens, if the caller knows.
        clock: the time to live by.
    """

    def __init__(
        self,
        provider: ServiceProvider,
        *,
        batch_size: int | None,
        concurrent: int,
        max_retries: int,
        price: float | None,
        clock: Clock,
    ) -> None:
        settings = LaneSettings(strategy="individual", parallel=concurrent)
        self._model = ServiceModel(
            provider, settings=settings, attempts=max_retries + 1, clock=clock, full=batch_size is not None
        )
        self._provider = provider
        self._price = price
        most = provider.facts.call.items or 1
        self._portion = max(_PORTION_ROWS, _PORTION_ROUNDS * most * concurrent)
        self._store = RecentStore(self._portion)
        self._pipeline: LanePipeline | None = None
        self._reports: list[Report] = []  # of the portions
        self._before = 0
        self._stopped = False

    @property
    def completed(self) -> int:
        """Rows that have ended, handed over or not."""
        return self._before + (self._pipeline.rows_done if self._pipeline is not None else 0)

    @property
    def failed(self) -> int:
        """Texts that were given up."""
        return self._provider.verdicts.failed

    @property
    def batches(self) -> int:
        """Calls so far."""
        return sum(report.lanes.calls for report in self._reports if report.lanes is not None)

    def blocks(self, rows: Rows) -> Iterator[Block]:
        """Finished rows in order."""
        while not self._stopped and rows.more():
            yield from self._portioned(rows)

    def stop(self) -> None:
        """Cancel the calls that are under way, and send no more."""
        self._stopped = True
        self._provider.stop()
        if self._pipeline is not None:
            self._pipeline.stop(cancelled())

    async def ended(self) -> None:
        """Wait for calls that were given up."""
        await self._provider.ended()

    def spent(self) -> Spent:
        """What the service counted; estimates where it did not."""
        lanes = [report.lanes for report in self._reports if report.lanes is not None]
        tokens = sum(one.call_tokens for one in lanes)
        price = self._price if self._price is not None else price_of(self._provider.model)
        return Spent(
            tokens=tokens,
            estimated_tokens=sum(one.estimated_tokens for one in lanes),
            dollars=None if price is None else tokens * price / 1e6,
            usage=dict(self._provider.usage),
            model=self._provider.model or self._provider.facts.model,
            repeated=sum(report.duplicates + report.cached for report in self._reports),
        )

    def _portioned(self, rows: Rows) -> Iterator[Block]:
        ledger = Ledger.open(None, fingerprint="", about={})
        try:
            host = RemoteHost(self._model, dimensions=None, overlong="error")
            pipeline = host.pipeline(None, store=self._store, ledger=ledger, collect=True)
            self._pipeline = pipeline
            self._reports.append(pipeline.report)
            if self._stopped:
                return
            for block in pipeline.run(rows.portion(self._portion)):
                self._learn(block)
                yield _moved(block, self._before)
            self._pipeline, self._before = None, self._before + pipeline.rows_read
        finally:
            ledger.close()

    def _learn(self, block: Block) -> None:
        """How many dimensions there are, for the portions to come."""
        if not self._model.facts.dimensions and len(block.failures) < len(block.items):
            self._provider.facts = replace(self._provider.facts, dimensions=block.vectors.shape[1])


class LocalDrive:
    """A run over a model on this machine.

    Args:
        embedder: the open model.
        batch_size: texts of a batch at most, within the budget of tokens that the engine finds; None: the budget alone.
        notify: called after each batch, in any thread.
    """

    failed = 0

    def __init__(self, embedder: Embedder, *, batch_size: int | None, notify: Callable[[], None]) -> None:
        host = embedder.host
        assert isinstance(host, LocalHost)
        task, store = embedder.task, embedder.store_for(embedder.spec)
        self._embedder = embedder
        self._tuner = Bounded(host.tuner, batch_size, notify)
        self._pipeline: Pipeline = host.pipeline(task, store=store, tuner=self._tuner)

    @property
    def completed(self) -> int:
        """Rows that have ended, handed over or not."""
        return min(self._pipeline.rows_done, self._pipeline.rows_read)

    @property
    def batches(self) -> int:
        """Batches so far."""
        return self._pipeline.report.batches

    def blocks(self, rows: Rows) -> Iterator[Block]:
        """Finished rows in order."""
        try:
            yield from self._pipeline.run(rows.portion(None))
        except InterruptedRunError:
            return
        self._embedder.keep_profile(self._pipeline.report)

    def stop(self) -> None:
        """End before the next batch."""
        self._tuner.stopped = True

    async def ended(self) -> None:
        """Nothing is in the loop."""

    def spent(self) -> Spent:
        """Tokens that were computed; nothing is paid."""
        report = self._pipeline.report
        return Spent(
            tokens=report.tokens,
            dollars=0.0,
            model=self._embedder.spec.model,
            repeated=report.duplicates,
            cached=report.cached,
        )


class Bounded:
    """A tuner whose batches hold no more than so many texts, and which can end a run."""

    def __init__(self, tuner: Tuner, items: int | None, notify: Callable[[], None]) -> None:
        self._tuner = tuner
        self._items = items
        self._notify = notify
        self.stopped = False

    @property
    def budget(self) -> int:
        """The token budget in use."""
        return self._tuner.budget

    @property
    def learned(self) -> bool:
        """Whether that comes from measurement and is worth keeping."""
        return self._tuner.learned

    def next_budget(self) -> Budget:
        """What the next batch may hold."""
        if self.stopped:
            raise InterruptedRunError("the run was cancelled")
        budget = self._tuner.next_budget()
        return budget if self._items is None else Budget(tokens=budget.tokens, items=self._items)

    def record(self, batch: BatchRecord) -> None:
        """Take what a batch did."""
        self._tuner.record(batch)
        self._notify()

    def pressure(self, used: float) -> None:
        """Take how full the memory is."""
        self._tuner.pressure(used)


class ProviderDrive:
    """A run over a provider's model: its Embedder's lanes, goals and cache; jobs survive the process.

    Rows whose number is known are driven together, since a large pile is cheaper as a job; others by the job's worth.
    """

    failed = 0

    def __init__(self, embedder: Embedder) -> None:
        host = embedder.host
        assert isinstance(host, RemoteHost)
        self._host = host
        self._task, self._store = embedder.task, embedder.store_for(embedder.spec)
        self._run: SafeRun | None = None
        self._reports: list[Report] = []
        self._before = 0
        self._stopped = False

    @property
    def completed(self) -> int:
        """Rows that have ended, handed over or not."""
        pipeline = self._run.pipeline if self._run is not None else None
        return self._before + (pipeline.rows_done if pipeline is not None else 0)

    @property
    def batches(self) -> int:
        """Calls and jobs so far."""
        now = [self._run.report] if self._run is not None else []
        lanes = [report.lanes for report in [*self._reports, *now] if report.lanes is not None]
        return sum(one.calls + one.jobs for one in lanes)

    def blocks(self, rows: Rows) -> Iterator[Block]:
        """Finished rows in order."""
        most = None if rows.total is not None else STREAMED_ROWS
        while not self._stopped and rows.more():
            portion = list(rows.portion(most))
            self._run = run = self._host.run(self._task, portion, store=self._store, collect=True)
            for block in run.blocks():
                yield _moved(block, self._before)
            self._host.keep(run.report)
            self._reports.append(run.report)
            self._run, self._before = None, self._before + len(portion)

    def stop(self) -> None:
        """Send nothing more. Jobs under way stay: the same chunks, processed again, take their results."""
        self._stopped = True
        if self._run is not None and self._run.pipeline is not None:
            self._run.pipeline.stop(cancelled())

    async def ended(self) -> None:
        """Nothing is in the loop."""

    def spent(self) -> Spent:
        """Tokens and dollars as billed."""
        reports = [*self._reports, *([self._run.report] if self._run is not None else [])]
        lanes = [report.lanes for report in reports if report.lanes is not None]
        priced = all(one.priced for one in lanes)
        return Spent(
            tokens=sum(one.call_tokens + one.job_tokens for one in lanes),
            estimated_tokens=sum(one.estimated_tokens for one in lanes),
            dollars=sum(one.dollars for one in lanes) if priced else None,
            model=self._host.backend.facts.model,
            repeated=sum(report.duplicates for report in reports),
            cached=sum(report.cached for report in reports),
        )


def _moved(block: Block, rows: int) -> Block:
    """A portion's block as one of the whole run."""
    failures = [replace(failure, row=failure.row + rows) for failure in block.failures]
    return replace(block, first_row=block.first_row + rows, failures=failures)
