"""A model behind an API as an Embedder's host: runs that need no file of their own to be safe.

A run that may submit jobs keeps a ledger and a journal in the user's folder, under a name made of what is asked for:
the same call, made again after a crash, finds its jobs and its vectors. What only calls can do stays in memory.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embatch.engine.window import check_text, text_digest
from embatch.errors import OutputError
from embatch.storage.cache import MemoryStore
from embatch.storage.folders import user_folder
from embatch.storage.journal import RunJournal
from embatch.storage.layered import Layered
from embatch.storage.ledger import Ledger, ledger_path
from embatch.storage.runs import default_registry
from embatch.types import BadItem, Report

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from embatch.engine.lanes.pipeline import LanePipeline
    from embatch.frontends.remote import LaneSettings, RemoteModel
    from embatch.remote import EmbedWork
    from embatch.seen_lanes import RunObserver
    from embatch.types import Block, FloatArray, Item, ModelSpec, Overlong, VectorStore

_log = logging.getLogger(__name__)

_SAVE_S = 30.0  # between two savings of what single texts have taught: they must not wait for the disk

STREAMED_ROWS = 50_000
"""Rows of an open-ended stream that are driven together: a job's worth."""


class RemoteHost:
    """A model behind an API.

    Args:
        backend: the model; closed with the host.
        dimensions: of the vectors; None for all that the model has.
        overlong: what happens to texts longer than the model takes.
    """

    def __init__(self, backend: RemoteModel, *, dimensions: int | None, overlong: Overlong) -> None:
        self.backend = backend
        self._asked = dimensions
        self._overlong: Overlong = overlong
        self.dimensions = self.spec_for(None).dimensions

    @property
    def budget(self) -> int:
        """Tokens that one call may hold."""
        limits = self.backend.caps.limits(self.backend.facts.call)
        return limits.tokens or (limits.items or 1) * limits.item_tokens

    def spec_for(self, task: str | None) -> ModelSpec:
        """The spec of vectors made for a task.

        Raises:
            UsageError: the model knows no such task.
        """
        return replace(self.backend.spec_of(self.work_for(task)), overlong=self._overlong)

    def work_for(self, task: str | None) -> EmbedWork:
        """What is asked of the provider for each text."""
        return self.backend.work_for(task, self._asked)

    def pipeline(
        self,
        task: str | None,
        *,
        store: VectorStore | None,
        ledger: Ledger | None = None,
        settings: LaneSettings | None = None,
        rows_at_once: int | None = None,
        collect: bool = False,
        observer: RunObserver | None = None,
    ) -> LanePipeline:
        """A run whose ledger and store are the caller's, or in memory."""
        spec = self.spec_for(task)
        if ledger is None:
            ledger = Ledger.open(None, fingerprint=spec.fingerprint, about={"model": spec.model})
        return self.backend.pipeline(
            spec,
            self.work_for(task),
            ledger=ledger,
            store=store or MemoryStore(),
            settings=settings,
            rows_at_once=rows_at_once,
            collect=collect,
            observer=observer,
        )

    def run(
        self,
        task: str | None,
        rows: Sequence[Item | BadItem],
        *,
        store: VectorStore | None,
        settings: LaneSettings | None = None,
        collect: bool = False,
    ) -> SafeRun:
        """A run over rows that are at hand."""
        return SafeRun(self, task, rows, store=store, settings=settings, collect=collect)

    def query(self, text: str) -> FloatArray | None:
        """Not a way of its own: one text is one call through the lanes, with their pacing."""
        del text
        return None  # the answer is: ask `run`

    def keep(self, report: Report) -> None:
        """Say what a run has saved, and keep what was learned for the next process."""
        lanes = report.lanes
        many = lanes is not None and lanes.call_items + lanes.job_items > 1
        if lanes is not None and many:
            self.backend.conclude(lanes)
        self.backend.save(least_s=0.0 if many else _SAVE_S)

    def close(self) -> None:
        """Close the provider."""
        self.backend.close()


class SafeRun:
    """One call's run: in memory if it can only make calls, else with files that survive the process.

    Attributes:
        pipeline: the run's pipeline, once it runs; its report is the run's.
    """

    def __init__(
        self,
        host: RemoteHost,
        task: str | None,
        rows: Sequence[Item | BadItem],
        *,
        store: VectorStore | None,
        settings: LaneSettings | None,
        collect: bool,
    ) -> None:
        self._host = host
        self._task = task
        self._rows = rows
        self._store = store
        self._settings = settings or host.backend.settings
        self._collect = collect
        self.pipeline: LanePipeline | None = None

    @property
    def report(self) -> Report:
        """What the run did."""
        return self.pipeline.report if self.pipeline is not None else Report()

    def blocks(self) -> Generator[Block]:
        """The finished rows, in order.

        Raises:
            EmbatchError: as `LanePipeline.run`; what was paid for is kept if the run has files.
        """
        ledger, journal = self._open()
        store: VectorStore | None = self._store
        if journal is not None:
            store = journal if store is None else Layered(store, journal)
        whole = False
        try:
            self.pipeline = self._host.pipeline(
                self._task,
                store=store,
                ledger=ledger,
                settings=self._settings,
                collect=self._collect,
            )
            yield from self.pipeline.run(self._rows)
            whole = True
        finally:
            self._end(ledger, journal, whole=whole)

    def _open(self) -> tuple[Ledger | None, RunJournal | None]:
        """Files for a run that may submit jobs."""
        facts, settings = self._host.backend.facts, self._settings
        one_call = len(self._rows) < 2 and settings.strategy != "batch" and settings.threshold is None
        if settings.strategy == "individual" or facts.job is None or one_call or not self._rows:
            return None, None
        spec = self._host.spec_for(self._task)
        try:
            return open_run(
                user_folder() / "runs" / _name(spec, self._host.backend.provider.account, self._rows),
                spec,
                rows=len(self._rows),
                base_url=self._host.backend.base_url,
            )
        except OutputError as error:
            _log.warning("this run cannot be resumed if it is killed: %s", error)
            return None, None

    def _end(self, ledger: Ledger | None, journal: RunJournal | None, *, whole: bool) -> None:
        if ledger is None or journal is None:
            return
        lanes = self.pipeline.report.lanes if self.pipeline is not None else None
        if self.pipeline is not None and self.pipeline.stopped_by is not None:
            whole = False  # handed over with failures, but it can go on
        default_registry().end(
            ledger.run_id, "done" if whole else "stopped", lanes.to_dict() if lanes else {}
        )
        if whole:
            ledger.finish()
            journal.finish()
        else:
            ledger.close()
            journal.close()


def open_run(
    output: Path, spec: ModelSpec, *, rows: int | None = None, base_url: str | None = None
) -> tuple[Ledger, RunJournal]:
    """Ledger and journal of a run that makes `output`, which need not be a file, noted in the registry.

    Raises:
        OutputError: they cannot be opened; nothing is left open then.
    """
    ledger = open_ledger(output, spec, command=[], rows=rows, base_url=base_url)
    try:
        journal = RunJournal.open(output, spec=spec, settings={}, signature=None)
    except BaseException:
        ledger.close()
        raise
    return ledger, journal


def open_ledger(
    output: Path,
    spec: ModelSpec,
    *,
    command: list[str],
    rows: int | None = None,
    fresh: bool = False,
    **about: Any,
) -> Ledger:
    """The ledger of a run that makes `output`, noted in the registry.

    With `fresh`, what an interrupted run left is forgotten, unless jobs of it are still under way.

    Raises:
        OutputError: it cannot be opened.
    """
    path = ledger_path(output)
    told = {
        "model": spec.model,
        "fingerprint": spec.fingerprint,
        "spec": json.loads(spec.to_json()),
        "rows": rows,
        **about,
    }
    ledger = Ledger.open(path, fingerprint=spec.fingerprint, about=told)
    if fresh and not ledger.jobs(done=False):
        ledger.finish()
        ledger = Ledger.open(path, fingerprint=spec.fingerprint, about=told)
    default_registry().start(
        ledger.run_id,
        model=spec.model,
        ledger=str(path),
        output=str(output),
        command=command,
        folder=str(Path.cwd()),
    )
    return ledger


def _name(spec: ModelSpec, account: str, rows: Iterable[Item | BadItem]) -> str:
    """The same for the same texts, in any order, under the same spec and account."""
    digest = hashlib.blake2b(f"{spec.fingerprint} {account}".encode(), digest_size=8)
    texts = (row.text for row in rows if not isinstance(row, BadItem) and check_text(row.text) is None)
    for text in sorted({text_digest(text) for text in texts}):
        digest.update(text)
    return f"call-{digest.hexdigest()}"
