"""The remote pipeline: rows in, blocks of finished vectors out, in the order of the input.

What `embatch.engine.pipeline` is for a model on this machine. It works in three passes, since the best lane depends on
how much there is: rows are read in windows and what must be computed is written into the ledger; the run drives it
through the lanes; the windows come back, filled from the store. Windows wait in a temporary file, so that memory does
not grow with the number of texts.
"""

from __future__ import annotations

import pickle
import tempfile
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from embatch.decisions.lanes.words import count
from embatch.engine.telling import Teller
from embatch.engine.window import WindowMaker, finish_vectors, text_digest
from embatch.errors import EmbatchError, GoalError, NotSentError, ProviderError
from embatch.remote import Generated
from embatch.types import Block, CostRule, Report

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from typing import BinaryIO

    from embatch.engine.lanes.ledger import LaneLedger
    from embatch.engine.lanes.run import LaneRun, Put, Result
    from embatch.engine.window import Window
    from embatch.remote import Unit
    from embatch.seen_lanes import RunObserver
    from embatch.types import Backend, BadItem, FloatArray, Item, LaneReport, ModelSpec, VectorStore

    MakeRun = Callable[[Put], LaneRun]

WINDOW_ITEMS = 4096
_IN_MEMORY = 8  # windows that wait in memory; more go to a file
_KEPT_FAILURES = 1000


@dataclass(slots=True)
class _Waiting:
    """A window between the passes."""

    window: Window
    unit_digests: list[bytes]
    """Of its units: whole texts by their own digest, pieces of a text by theirs."""
    cached: int
    """Slots whose vector was stored before the run."""
    repeated: int
    """Units that an earlier window has as well."""


class LanePipeline:
    """One run over one provider.

    Args:
        model: the provider's model as a backend: counts tokens, splits texts.
        spec: what comes out.
        ledger: of this run. The pipeline does not close it.
        store: vectors by content: where results are kept as they come. The pipeline does not close it.
        make_run: makes the run that drives what the ledger holds, keeping results through the function it is given.
        lanes: what the run counts.
        rows_at_once: rows that are driven together; None: all of them.
        collect: name texts that could not be sent as failures, instead of raising.
        observer: is told of windows and failures; of calls and jobs it is told by the run.
    """

    def __init__(  # noqa: PLR0913  # what a run over a provider is wired from
        self,
        model: Backend,
        spec: ModelSpec,
        *,
        ledger: LaneLedger,
        store: VectorStore,
        make_run: MakeRun,
        lanes: LaneReport,
        rows_at_once: int | None = None,
        collect: bool = False,
        observer: RunObserver | None = None,
    ) -> None:
        self._teller = Teller(observer, CostRule.PACKED)
        self.report = Report(lanes=lanes)
        self.read_all = False
        self._model = model
        self._spec = spec
        self._ledger = ledger
        self._store = store
        self._make_run = make_run
        self._rows_at_once = rows_at_once
        self._collect = collect
        self._maker = WindowMaker(model, spec, self.report, window_items=WINDOW_ITEMS, remember=0)
        self._run: LaneRun | None = None
        self._stopped: ProviderError | None = None
        self._handed_over = 0
        self._settled = 0  # rows known to need no request: stored already, or without usable text
        self.stopped_by: GoalError | ProviderError | None = None
        """With `collect`: what ended the run before everything was sent."""

    @property
    def rows_done(self) -> int:
        """Rows handed over, and those that have their result: for progress."""
        under_way = self._run.done if self._run is not None else 0
        return min(self.rows_read, max(self._handed_over, self._settled + under_way))

    @property
    def rows_read(self) -> int:
        """Rows taken from the source so far."""
        return self._maker.rows

    @property
    def left_s(self) -> float | None:
        """Seconds until the end, as the strategy expects them; None while nothing is driven."""
        return left_s(self._run)

    @property
    def note(self) -> str:
        """What holds the run up, or calls and jobs under way; and dollars; in a few words."""
        lanes = self.report.lanes
        return "" if lanes is None else note(self._run, lanes)

    def run(self, rows: Iterable[Item | BadItem]) -> Generator[Block]:
        """Embed all rows.

        Yields:
            Blocks in input order, without gaps. A failed row is in its block, with a NaN vector and a failure.

        Raises:
            ProviderError: nothing can succeed any more: a wrong key, a day's quota, a provider that stays away.
            GoalError: the budget is used up.
            EmbatchError: what `rows` raised. Whatever was paid for is in the store by then.
        """
        started = time.perf_counter()
        source = iter(rows)
        while not self.read_all:
            with _Windows() as windows:
                self._read(source, windows)
                self._drive()
                for waiting in windows:
                    block = self._finish(waiting)
                    handed_over = time.perf_counter()
                    self.report.seconds = handed_over - started
                    yield block
                    self._teller.handed_over(block, time.perf_counter() - handed_over)
                self._run, self._settled = None, self._handed_over
        self.report.seconds = time.perf_counter() - started

    def stop(self, error: ProviderError) -> None:
        """End the run with this error, as if the provider had given it. From any thread; what is done is kept."""
        self._stopped = error
        if self._run is not None:
            self._run.give_up(error)

    # --- the first pass ---------------------------------------------------------------------------------------

    def _read(self, source: Iterator[Item | BadItem], windows: _Windows) -> None:
        first = self._maker.rows
        while True:
            room = None if self._rows_at_once is None else self._rows_at_once - (self._maker.rows - first)
            if room is not None and room <= 0:
                return
            started = time.perf_counter()
            window = self._maker.read(source)
            if window is None:
                self.read_all = True
                return
            windows.add(self._admit(window))
            self._teller.window(window, time.perf_counter() - started)
            if window.last:
                self.read_all = True
                return

    def _admit(self, window: Window) -> _Waiting:
        """Write what must be computed into the ledger."""
        stored = self._store.get(window.digests)
        missing = [slot for slot, digest in enumerate(window.digests) if digest not in stored]
        self._maker.tokenize(window, missing)
        pooled = {unit for units in window.pieces.values() for unit in units}
        digests = [
            text_digest(str(window.payloads[unit])) if unit in pooled else window.digests[slot]
            for unit, slot in enumerate(window.unit_slots)
        ]
        lengths = window.lengths.tolist()
        there = self._store.get([digests[unit] for unit in pooled]) if pooled else {}
        units = [
            (digest, str(text), tokens)
            for digest, text, tokens in zip(digests, window.payloads, lengths, strict=True)
            if digest not in there
        ]
        repeated = len(units) - self._ledger.add(units)
        window.payloads = ()
        window.vectors = np.empty((0, self._spec.dimensions), np.float32)
        cached = len(window.digests) - len(missing)
        sent = len(window.digests) - cached - len(window.slot_errors)
        self._settled += len(window.slots) - max(0, sent - repeated)
        return _Waiting(window, digests, cached, repeated)

    # --- the second pass --------------------------------------------------------------------------------------

    def _drive(self) -> None:
        self._run = self._make_run(self._put)
        if self._stopped is not None:
            self._run.give_up(self._stopped)
        if not self._ledger.waiting().items and not self._ledger.jobs(done=False):
            return
        lanes = self.report.lanes
        assert lanes is not None
        try:
            self._run.run()
        except (GoalError, ProviderError) as error:
            if not self._collect:
                raise
            self.stopped_by = error
        finally:
            if not self._spec.dimensions:  # not known before; still 0 if nothing was answered: any will do
                self._spec = replace(self._spec, dimensions=self._run.dimensions or 1)
            self.report.batches = lanes.calls + lanes.jobs
            self.report.tokens = lanes.call_tokens + lanes.job_tokens
            self.report.padded_tokens = self.report.tokens
            self.report.splits = lanes.isolated

    def _put(self, units: Sequence[Unit], results: Sequence[Result]) -> None:
        vectors: list[FloatArray] = []
        for result in results:
            assert not isinstance(result, Generated)
            vectors.append(result)
        self._store.put([unit.digest for unit in units], np.stack(vectors))

    # --- the third pass ---------------------------------------------------------------------------------------

    def _finish(self, waiting: _Waiting) -> Block:
        window = waiting.window
        window.vectors = np.full((len(window.digests), self._spec.dimensions), np.nan, np.float32)
        stored = self._store.get(window.digests)
        for slot, digest in enumerate(window.digests):
            vector = stored.get(digest)
            if vector is not None:
                window.vectors[slot] = vector
        if window.pieces:
            self._average(waiting)
        missing = [
            unit
            for unit, slot in enumerate(window.unit_slots)
            if np.isnan(window.vectors[slot, :1]).any() and slot not in window.slot_errors
        ]
        if missing:
            self._name_failures(waiting, missing)
        block = window.block()
        self._count(waiting, block)
        self._teller.failures(block.failures)
        return block

    def _average(self, waiting: _Waiting) -> None:
        """Texts of several pieces: the mean of their vectors, weighted by tokens, kept under the text's own digest."""
        window, digests = waiting.window, waiting.unit_digests
        stored = self._store.get(digests)
        dimensions = self._spec.dimensions
        units = np.full((len(digests), dimensions), np.nan, np.float32)
        for unit, digest in enumerate(digests):
            if digest in stored:
                units[unit] = stored[digest]
        window.unit_vectors = units
        slots, means = window.average_pieces(normalize=self._spec.normalize)
        vectors = finish_vectors(means, self._spec)
        window.vectors[slots] = vectors
        whole = [i for i, slot in enumerate(slots) if np.isfinite(vectors[i]).all() and slot in window.pieces]
        self._store.put([window.digests[slots[i]] for i in whole], vectors[whole])

    def _name_failures(self, waiting: _Waiting, missing: list[int]) -> None:
        window = waiting.window
        errors = self._ledger.errors([waiting.unit_digests[unit] for unit in missing])
        for unit in missing:
            error = errors.get(waiting.unit_digests[unit])
            if error is None and self.stopped_by is None:
                raise EmbatchError(
                    f"row {window.first_row + window.slots.index(window.unit_slots[unit])} has neither a vector "
                    "nor an error: this is a fault of embatch, nothing was written",
                    hint="Run the same command again: what was paid for is kept.",
                )
            window.fail_unit(unit, error or self._not_sent())

    def _not_sent(self) -> NotSentError:
        error = NotSentError(str(self.stopped_by))
        error.__cause__ = self.stopped_by
        return error

    def _count(self, waiting: _Waiting, block: Block) -> None:
        report, window = self.report, waiting.window
        report.items += len(block.items)
        self._handed_over = report.items
        report.failed += len(block.failures)
        report.failures.extend(block.failures[: max(0, _KEPT_FAILURES - len(report.failures))])
        computed = len(set(window.unit_slots) - set(window.slot_errors))
        report.cached += waiting.cached
        repeated = min(computed, waiting.repeated)
        report.embedded += computed - repeated
        good = [slot for slot in window.slots if slot >= 0 and slot not in window.slot_errors]
        report.duplicates += repeated + len(good) - len(set(good))
        report.truncated += sum(slot in window.truncated for slot in window.slots)
        report.pooled += sum(slot in window.pieces for slot in window.slots)


def left_s(run: LaneRun | None) -> float | None:
    """Seconds until a run's end, as its strategy expects them; None while nothing is driven or nobody answers."""
    return None if run is None or run.absence.kind is not None else run.left_s


def note(run: LaneRun | None, lanes: LaneReport) -> str:
    """What holds a run up, or its calls and jobs under way; and dollars; in a few words."""
    jobs, held_up = (0, "") if run is None else (run.jobs_under_way, run.waits_for)
    words = [held_up] if held_up else []
    words += [count(lanes.calls, "call")] if lanes.calls and not held_up else []
    words += [f"{count(jobs, 'job')} under way"] if jobs else []
    return ", ".join([*words, f"${lanes.dollars:.4f}"]) if lanes.priced else ", ".join(words)


class _Windows:
    """Windows that wait, in the order in which they came: some in memory, many in a temporary file."""

    def __init__(self) -> None:
        self._held: list[_Waiting] = []
        self._file: BinaryIO | None = None
        self._filed = 0

    def add(self, waiting: _Waiting) -> None:
        """Keep one."""
        if len(self._held) < _IN_MEMORY and self._file is None:
            self._held.append(waiting)
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="embatch-windows-")  # noqa: SIM115  # closed on leaving
        pickle.dump(waiting, self._file, protocol=pickle.HIGHEST_PROTOCOL)
        self._filed += 1

    def __iter__(self) -> Iterator[_Waiting]:
        while self._held:
            yield self._held.pop(0)
        if self._file is not None:
            self._file.seek(0)
            for _ in range(self._filed):
                yield pickle.load(self._file)  # noqa: S301  # written by this process, to a file without a name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
