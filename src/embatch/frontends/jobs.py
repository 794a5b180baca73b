"""Whole jobs, from sources to a finished file: what `embatch embed` and `embatch plan` carry out.

A job wires sources, splitting, the pipeline, the run's journal and a sink together, and knows no terminal: whoever runs
it looks at `progress()` and reads the `Outcome`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from embatch.decisions.chunking import split_items
from embatch.decisions.progress import Meter, Progress
from embatch.errors import InterruptedRunError
from embatch.frontends.hosts import LocalHost
from embatch.storage.journal import RunJournal
from embatch.storage.layered import Layered
from embatch.storage.sinks import ErrorFile, open_sink

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from embatch.frontends.embedder import Embedder
    from embatch.frontends.hosts import AnyPipeline
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
    ) -> None:
        self._cache = cache
        self._cache_limit = cache_limit
        self._embedder = embedder
        self._sources = sources
        self._output = output
        self._with_text = with_text
        self._vectors_as = vectors_as
        self._split = split
        spec = embedder.spec
        settings: dict[str, object] = {
            "output": vectors_as,
            "with_text": with_text,
            "split": split is not None,
        }
        # The ledger first: it refuses another model's run while jobs of the last one are under way, and the journal
        # would have dropped that one's vectors by then.
        self._ledger = self._open_ledger(command, fresh=fresh)
        try:
            self._journal = RunJournal.open(
                output, spec=spec, settings=settings, signature=sources.signature(), fresh=fresh
            )
        except BaseException:
            if self._ledger is not None:
                self._ledger.close()
            raise
        store: VectorStore = self._journal if cache is None else Layered(cache, self._journal)
        self._pipeline: AnyPipeline = embedder.pipeline(store=store, ledger=self._ledger)
        self._meter = Meter(time.monotonic())
        self._whole = False

    @property
    def stored(self) -> int:
        """Vectors that an interrupted run left, and that are not computed again."""
        return self._journal.stored

    @property
    def changes(self) -> list[str]:
        """What differs from the interrupted run, in words."""
        return list(self._journal.changes)

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
            return self._run()
        except KeyboardInterrupt as error:
            done = self._pipeline.rows_done
            raise self._interrupted(done) from error
        finally:
            self._end()
            self._journal.close()
            self._close_cache()

    def _open_ledger(self, command: Sequence[str], *, fresh: bool) -> Ledger | None:
        """For a provider's model: what makes the run survive its process."""
        host = self._embedder.host
        if isinstance(host, LocalHost):
            return None
        from embatch.frontends.remote_host import open_ledger

        return open_ledger(
            self._output,
            self._embedder.spec,
            command=list(command),
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
        self._journal.finish()
        self._whole = True
        self._embedder.keep_profile(self._pipeline.report)
        report = self._pipeline.report
        skipped = dict(self._sources.skipped_counts)
        report.skipped = sum(skipped.values())
        return Outcome(
            report=report,
            output=self._output,
            errors=errors.path if report.failed else None,
            skipped=skipped,
        )

    def _total(self) -> int | None:
        """Rows in all: exact once everything is read, before that extrapolated from the bytes read."""
        read = self._pipeline.rows_read
        if self._pipeline.read_all:
            return read
        done, total = self._sources.bytes_done, self._sources.bytes_total
        return int(read * max(1.0, total / done)) if total and done else None


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
