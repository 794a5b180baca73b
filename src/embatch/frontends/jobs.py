"""Whole jobs, from sources to a finished file: what `embatch embed` and `embatch plan` carry out.

A job wires sources, splitting, the pipeline, the run's journal and a sink together, and knows no terminal: whoever runs
it looks at `progress()` and reads the `Outcome`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from embatch.decisions.chunking import split_items
from embatch.decisions.progress import Meter, Progress
from embatch.errors import InterruptedRunError
from embatch.frontends.hosts import LocalHost
from embatch.storage.finished import forget_finished, keep_finished, look_finished
from embatch.storage.journal import RunJournal, journal_path
from embatch.storage.layered import Layered
from embatch.storage.ledger import ledger_path
from embatch.storage.sinks import ErrorFile, open_sink

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from embatch.frontends.embedder import Embedder
    from embatch.frontends.hosts import AnyPipeline
    from embatch.seen_lanes import RunObserver
    from embatch.storage.cache import VectorCache
    from embatch.storage.ledger import Ledger
    from embatch.storage.sources import Sources
    from embatch.types import (
        Backend,
        BadItem,
        Item,
        ModelSpec,
        Output,
        Report,
        VectorStore,
    )


_SPECIAL_TOKENS = 4  # no tokenizer of an encoder puts more around a text


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRule:
    """How texts longer than the model become several items."""

    overlap_tokens: int = 32


@dataclass(slots=True, kw_only=True)
class Outcome:
    """How a job ended."""

    report: Report
    output: Path
    errors: Path | None
    """The file that names the rows without a vector; None if there are none."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Files passed over on purpose, by reason."""


class EmbedJob:
    """Embed sources into one file, so that a killed run loses nothing.

    Args:
        embedder: the model.
        sources: what to read.
        output: the file to make; its ending chooses the format.
        vectors_as: what a number is stored as.
        with_text: store the text beside its vector.
        split: split texts longer than the model; None leaves them to the embedder's rule for overlong texts.
        cache: a store that outlives the run, beside the run's own journal. The job closes it.
        cache_limit: bytes that the cache is brought down to when the run has ended, its oldest vectors first.
        fresh: forget what an interrupted run left.
        command: arguments that go on with the run, for `embatch runs resume`.
        observer: is told of what happens in the run.
    """

    def __init__(  # noqa: PLR0913  # one argument for each choice that a user has
        self,
        embedder: Embedder,
        sources: Sources,
        output: Path,
        *,
        vectors_as: Output = "float32",
        with_text: bool = False,
        split: SplitRule | None = None,
        cache: VectorCache | None = None,
        cache_limit: int | None = None,
        fresh: bool = False,
        command: Sequence[str] = (),
        observer: RunObserver | None = None,
    ) -> None:
        self._cache = cache
        self._cache_limit = cache_limit
        self._command = list(command)
        self._embedder = embedder
        self._sources = sources
        self._output = output
        self._with_text = with_text
        self._vectors_as = vectors_as
        self._split = split
        self._settings: dict[str, object] = {
            "output": vectors_as,
            "with_text": with_text,
            "split": split is not None,
        }
        self._request = request_of(embedder, sources, vectors_as=vectors_as, with_text=with_text, split=split)
        self._finished = None if fresh or not self._request else look_finished(output, self._request)
        self._journal: RunJournal | None = None
        self._ledger: Ledger | None = None
        store: VectorStore | None = None
        if self._finished is None:
            forget_finished(output)
            self._journal = self._open(fresh=fresh)
            store = self._journal if cache is None else Layered(cache, self._journal)
        self._pipeline: AnyPipeline = embedder.pipeline(store=store, ledger=self._ledger, observer=observer)
        self._meter = Meter(time.monotonic())
        self._whole = False

    def _open(self, *, fresh: bool) -> RunJournal:
        # The ledger first: it refuses another model's run while jobs of the last one are under way, and the journal
        # would have dropped that one's vectors by then.
        self._ledger = self._open_ledger(fresh=fresh)
        try:
            return RunJournal.open(
                self._output,
                spec=self._embedder.spec,
                settings=self._settings,
                signature=self._sources.signature(),
                fresh=fresh,
            )
        except BaseException:
            if self._ledger is not None:
                self._ledger.close()
            raise

    @property
    def finished(self) -> bool:
        """Whether the same was asked of a provider before and is there already: nothing will be sent."""
        return self._finished is not None

    @property
    def stored(self) -> int:
        """Vectors that an interrupted run left, and that are not computed again."""
        return 0 if self._journal is None else self._journal.stored

    @property
    def changes(self) -> list[str]:
        """What differs from the interrupted run, in words."""
        return [] if self._journal is None else list(self._journal.changes)

    @property
    def report(self) -> Report:
        """What was done so far."""
        return self._pipeline.report

    def progress(self) -> Progress:
        """How far the job is; may be called from another thread."""
        pipeline = self._pipeline
        return self._meter.look(
            time.monotonic(),
            completed=pipeline.rows_done,
            failed=pipeline.report.failed,
            tokens=pipeline.report.tokens,
            total=self._total(),
            left_s=pipeline.left_s,
            note=pipeline.note,
        )

    def run(self) -> Outcome:
        """Carry it out.

        Raises:
            InterruptedRunError: Ctrl-C or SIGTERM; the same job goes on where it was.
            EmbatchError: whatever ended it early; vectors computed so far are in the journal.
        """
        try:
            return self._run() if self._finished is None else self._tell_finished(self._finished)
        except KeyboardInterrupt as error:
            done = self._pipeline.rows_done
            raise self._interrupted(done) from error
        finally:
            self._end()
            if self._journal is not None:
                self._journal.close()
            self._close_cache()

    def _open_ledger(self, *, fresh: bool) -> Ledger | None:
        """For a provider's model: what makes the run survive its process."""
        host = self._embedder.host
        if isinstance(host, LocalHost):
            return None
        from embatch.frontends.remote_host import open_ledger

        return open_ledger(
            self._output,
            self._embedder.spec,
            command=self._command,
            fresh=fresh,
            base_url=host.backend.base_url,
        )

    def _end(self) -> None:
        if self._ledger is None:
            return
        from embatch.storage.runs import default_registry

        self._embedder.keep_profile(self._pipeline.report)
        lanes = self._pipeline.report.lanes
        state = "done" if self._whole else "stopped"
        default_registry().end(self._ledger.run_id, state, lanes.to_dict() if lanes else {})
        if self._whole:
            self._ledger.finish()
        else:
            self._ledger.close()

    def _interrupted(self, done: int) -> InterruptedRunError:
        jobs = [] if self._ledger is None else self._ledger.jobs(done=False)
        if self._ledger is None or not jobs:
            return InterruptedRunError(f"Interrupted after {done:,} rows; what was embedded is kept.")
        items = sum(job.items for job in jobs)
        return InterruptedRunError(
            f"Interrupted; {len(jobs)} paid job(s) with {items:,} texts go on at the provider.",
            hint="Run the same command again to take their results: it submits nothing twice. Or give them up with "
            f"`embatch runs cancel {self._ledger.run_id}`.",
        )

    def _close_cache(self) -> None:
        if self._cache is None:
            return
        try:
            if self._cache_limit is not None:
                self._cache.prune(self._cache_limit)
        finally:
            self._cache.close()

    def _run(self) -> Outcome:
        spec = self._embedder.spec
        errors = ErrorFile(self._output)
        rows = split_rows(self._sources, self._embedder, self._split)
        with (
            open_sink(self._output, spec=spec, output=self._vectors_as, with_text=self._with_text) as sink,
            errors,
        ):
            for block in self._pipeline.run(rows):
                sink.write(block)
                errors.write(block.failures)
            sink.commit()
            errors.commit()
        report = self._pipeline.report
        skipped = dict(self._sources.skipped_counts)
        report.skipped = sum(skipped.values())
        if self._request is not None:  # before the journal goes: from here on a kill finds one of them
            keep_finished(
                self._output,
                self._request,
                {"items": report.items, "failed": report.failed, "skipped": skipped},
            )
        assert self._journal is not None
        self._journal.finish()
        self._whole = True
        self._embedder.keep_profile(report)
        return self._outcome(skipped)

    def _outcome(self, skipped: dict[str, int]) -> Outcome:
        report = self._pipeline.report
        errors = ErrorFile(self._output).path if report.failed else None
        return Outcome(report=report, output=self._output, errors=errors, skipped=skipped)

    # --- what was made before ---------------------------------------------------------------------------------

    def _tell_finished(self, told: dict[str, Any]) -> Outcome:
        """The outcome of the run that made the output; what it may have left when it was killed at its end goes."""
        if ledger_path(self._output).exists():
            self._ledger = self._open_ledger(fresh=False)
        if journal_path(self._output).exists():
            RunJournal.open(
                self._output, spec=self._embedder.spec, settings=self._settings, signature=None
            ).finish()
        self._whole = True
        report = self._pipeline.report
        report.items, report.failed = int(told["items"]), int(told["failed"])
        report.cached = report.items - report.failed
        skipped = {str(reason): int(number) for reason, number in told["skipped"].items()}
        report.skipped = sum(skipped.values())
        return self._outcome(skipped)

    def _total(self) -> int | None:
        """Rows in all: exact once everything is read, before that extrapolated from the bytes read."""
        read = self._pipeline.rows_read
        if self._pipeline.read_all:
            return read
        done, total = self._sources.bytes_done, self._sources.bytes_total
        return int(read * max(1.0, total / done)) if total and done else None


def request_of(
    embedder: Embedder,
    sources: Sources,
    *,
    vectors_as: Output = "float32",
    with_text: bool = False,
    split: SplitRule | None = None,
) -> dict[str, object] | None:
    """All that an output depends on; None where nothing is paid for, or the inputs cannot be known beforehand."""
    host, signature = embedder.host, sources.signature()
    if signature is None or isinstance(host, LocalHost):
        return None
    return {
        "inputs": signature,
        "spec": embedder.spec.to_json(),
        "base_url": host.backend.base_url,
        "output": vectors_as,
        "with_text": with_text,
        "overlap": None if split is None else split.overlap_tokens,
    }


def split_rows(
    rows: Iterable[Item | BadItem], embedder: Embedder, rule: SplitRule | None
) -> Iterator[Item | BadItem]:
    """The rows, with texts longer than the model split into several items if there is a rule for it."""
    return split_by(rows, embedder.backend, embedder.spec, rule)


def split_by(
    rows: Iterable[Item | BadItem], backend: Backend, spec: ModelSpec, rule: SplitRule | None
) -> Iterator[Item | BadItem]:
    """The same by a model that no embedder holds."""
    if rule is None:
        return iter(rows)

    def count(texts: Sequence[str]) -> Sequence[int]:
        # One more than was kept marks a text as too long; how much too long does not matter for splitting.
        tokenized = backend.tokenize(texts, prompt=spec.prompt)
        lengths: list[int] = (tokenized.lengths + tokenized.truncated).tolist()
        return lengths

    room = spec.max_tokens - len(spec.prompt.encode()) - _SPECIAL_TOKENS

    def may_exceed(text: str) -> bool:
        # A token is at least one character, or one byte of it where a tokenizer falls back to bytes.
        return len(text) * (1 if text.isascii() else 4) > room

    return split_items(
        rows,
        max_tokens=spec.max_tokens,
        overlap_tokens=min(rule.overlap_tokens, spec.max_tokens // 4),
        count=count,
        may_exceed=may_exceed,
    )


def open_cache(path: Path | None, spec: ModelSpec) -> VectorCache | None:
    """The long-lived cache at `path`, for vectors of this spec; None without a path."""
    if path is None:
        return None
    from embatch.storage.cache import VectorCache

    return VectorCache(path, fingerprint=spec.fingerprint, dimensions=spec.dimensions)
