"""The one pipeline: rows in, blocks of finished vectors out, in the order of the input.

Three kinds of threads overlap: one reads and tokenises windows, one per stream of the backend asks for batches and
computes them, and the caller's own takes finished blocks (and writes them, say). Every hand-over is bounded, every row
ends as a vector or as a named failure, and whatever ends the run early ends all threads. It chooses neither models nor
files: backend, store and rows are handed in.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from embatch.engine.earlier import Earlier
from embatch.engine.former import BatchFormer
from embatch.engine.memory import memory_used
from embatch.engine.outcomes import as_backend_error, checked, not_finite, padded_tokens, record_of
from embatch.engine.telling import Teller
from embatch.engine.window import WindowMaker, finish_vectors
from embatch.errors import (
    BackendClosedError,
    BackendError,
    EmbatchError,
    ItemError,
)
from embatch.types import BatchRecord, Block, Report

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from embatch.engine.former import Batch
    from embatch.engine.tuners import Tuner
    from embatch.engine.window import Window
    from embatch.seen_lanes import RunObserver
    from embatch.types import Backend, BadItem, FloatArray, Item, ModelSpec, VectorStore

    Recall = Callable[[list[int]], FloatArray]

WINDOW_ITEMS = 4096
REMEMBER_ROWS = 32_768
_IN_FLIGHT = 4  # windows between reading and handing over; bounds memory when the consumer is slow
_AHEAD = 2  # of these, windows that are ready for batches
_FLUSH_S = 0.25  # vectors wait no longer than this to be stored: what a kill may cost
_LOOK_S = 0.5  # between two looks at the memory
_KEPT_FAILURES = 1000


class Pipeline:
    """One run over one backend.

    Args:
        backend: computes.
        spec: what comes out: the backend's spec with prompt, dimensions and the rule for overlong texts.
        tuner: decides how large each batch may be, and learns from it.
        store: vectors by content that are already known, and where new ones are kept. The run does not close it.
        window_items: most rows that are sorted together.
        remember: how many rows back a repeated text is found when there is no store; None: however far.
        recall: gives the vectors of earlier rows, where the caller keeps them all (needed with `remember=None`).
        observer: is told of windows, batches and failures as they come.
    """

    def __init__(
        self,
        backend: Backend,
        spec: ModelSpec,
        tuner: Tuner,
        *,
        store: VectorStore | None = None,
        window_items: int = WINDOW_ITEMS,
        remember: int | None = REMEMBER_ROWS,
        recall: Recall | None = None,
        observer: RunObserver | None = None,
    ) -> None:
        self.report = Report()
        self._teller = Teller(observer, backend.limits.cost)
        self._backend = backend
        self._spec = spec
        self._tuner = tuner
        self._store = store
        self._store_lock = threading.Lock()
        if store is not None and recall is None:
            # What is handed over is in the store: only the windows in flight need remembering.
            remember = _IN_FLIGHT * window_items
        self._maker = WindowMaker(backend, spec, self.report, window_items=window_items, remember=remember)
        self._earlier = Earlier(remember, recall)
        self._former = BatchFormer(backend.limits, backend.streams, tuner.next_budget, self._next_window)
        self._ready: queue.Queue[Window | None] = queue.Queue(_AHEAD)
        self._room = threading.Semaphore(_IN_FLIGHT)
        self._changed = threading.Condition()
        # All below belongs to `_changed`.
        self._windows: deque[Window] = deque()
        self._read_all = False
        self._stopped = False
        self._source_error: BaseException | None = None
        self._engine_error: BaseException | None = None
        self._unsaved: list[tuple[list[bytes], FloatArray]] = []
        self._units_in_flight = 0
        self._looked_at = 0.0

    @property
    def rows_done(self) -> int:
        """Rows handed over, and those in windows not yet complete that have a vector: for progress."""
        return self.report.items + self._units_in_flight

    @property
    def rows_read(self) -> int:
        """Rows taken from the source so far."""
        return self._maker.rows

    @property
    def left_s(self) -> float | None:
        """Not known better than from the rate of rows."""
        return None

    @property
    def note(self) -> str:
        """Nothing beside rows and rates."""
        return ""

    @property
    def read_all(self) -> bool:
        """Whether the source has ended, so that `rows_read` is the total."""
        return self._read_all

    def run(self, rows: Iterable[Item | BadItem]) -> Generator[Block]:
        """Embed all rows.

        Yields:
            Blocks in input order, without gaps. A failed row is in its block, with a NaN vector and a failure.

        Raises:
            EmbatchError: what `rows` raised (after the blocks before it), or the engine as a whole failed. Vectors
                that were computed are in the store by then.
        """
        started = time.perf_counter()
        workers = [
            threading.Thread(target=self._read, args=(iter(rows),), name="embatch-read", daemon=True),
            *(
                threading.Thread(target=self._work, args=(i,), name=f"embatch-stream-{i}", daemon=True)
                for i in range(self._backend.streams)
            ),
        ]
        for worker in workers:
            worker.start()
        try:
            while (window := self._wait()) is not None:
                block = self._finish(window)
                handed_over = time.perf_counter()
                self.report.seconds = handed_over - started
                yield block
                self._room.release()
                self._teller.handed_over(block, time.perf_counter() - handed_over)
            if self._source_error is not None:
                raise self._source_error
        finally:
            self._stop()
            for worker in workers[1:]:
                worker.join()
            self._save()
            self.report.seconds = time.perf_counter() - started
            self.report.budget = self._tuner.budget

    # --- reading thread ---------------------------------------------------------------------------------------

    def _read(self, rows: Iterator[Item | BadItem]) -> None:
        try:
            while self._acquire_room():
                started = time.perf_counter()
                window = self._maker.read(rows)
                if window is None:
                    break
                self._maker.tokenize(window, self._look_up(window))
                self._teller.window(window, time.perf_counter() - started)
                with self._changed:
                    self._windows.append(window)
                    self._changed.notify_all()
                if window.pending:
                    self._put_ready(window)
        except BaseException as error:  # noqa: BLE001  # raised again in the caller's thread
            with self._changed:
                self._source_error = error
        finally:
            with self._changed:
                self._read_all = True
                self._changed.notify_all()
            self._put_ready(None)

    def _acquire_room(self) -> bool:
        while not self._stopped:
            if self._room.acquire(timeout=_FLUSH_S):
                return True
        return False

    def _put_ready(self, window: Window | None) -> None:
        while not self._stopped:
            try:
                self._ready.put(window, timeout=_FLUSH_S)
            except queue.Full:
                continue
            else:
                return

    def _look_up(self, window: Window) -> list[int]:
        """Fill slots whose vectors are stored; the slots that must be computed."""
        repeated = {slot for slot, _ in window.aliases}
        wanted = [slot for slot in range(len(window.digests)) if slot not in repeated]
        if self._store is None or not wanted:
            return wanted
        with self._store_lock:
            stored = self._store.get([window.digests[slot] for slot in wanted])
        if not stored:
            return wanted
        missing = []
        for slot in wanted:
            vector = stored.get(window.digests[slot])
            if vector is None:
                missing.append(slot)
            else:
                window.vectors[slot] = vector
        self.report.cached += len(wanted) - len(missing)
        return missing

    # --- stream threads ---------------------------------------------------------------------------------------

    def _next_window(self) -> Window | None:
        while not self._stopped:
            try:
                window = self._ready.get(timeout=_FLUSH_S)
            except queue.Empty:
                continue
            return window
        return None

    def _work(self, stream: int) -> None:
        try:
            while not self._stopped and (batch := self._former.take()) is not None:
                self._compute(batch, stream)
        except BaseException as error:  # noqa: BLE001  # raised again in the caller's thread
            with self._changed:
                self._engine_error = self._engine_error or error
                self._changed.notify_all()

    def _compute(self, batch: Batch, stream: int) -> None:
        started = time.perf_counter()
        try:
            vectors = checked(
                self._backend.embed(batch.payloads), len(batch.units), self._backend.spec.dimensions
            )
        except BackendClosedError:
            raise
        except Exception as error:  # a backend's own exception must not lose its rows
            if isinstance(error, EmbatchError) and not isinstance(error, BackendError):
                raise  # something else than the backend has failed
            failure = as_backend_error(error)
            record = record_of(batch, time.perf_counter() - started, failure)
            self._teller.batch(record, stream, error=type(failure).__name__)
            self._failed(batch, record, failure)
        else:
            self._former.succeeded()
            record = record_of(batch, time.perf_counter() - started)
            self._teller.batch(record, stream)
            self._record(record)
            self._take_vectors(batch, vectors)

    def _failed(self, batch: Batch, record: BatchRecord, error: BackendError) -> None:
        if record.out_of_memory:
            self._tuner.record(record)
        with self._changed:
            self.report.splits += len(batch.units) > 1
        self._fail_units(batch, self._former.failed(batch, error))

    def _record(self, record: BatchRecord) -> None:
        self._tuner.record(record)
        with self._changed:
            report = self.report
            report.batches += 1
            report.tokens += record.tokens
            report.padded_tokens += padded_tokens(record, self._backend.limits.cost)
            report.device_seconds += record.seconds
            look = time.perf_counter() - self._looked_at > _LOOK_S
            if look:
                self._looked_at = time.perf_counter()
        if look:
            used = max(memory_used(), self._backend.memory_used())
            self._teller.tuner(self._tuner.budget, used)
            self._tuner.pressure(used)

    def _take_vectors(self, batch: Batch, vectors: FloatArray) -> None:
        window, units = batch.window, batch.units
        if not np.isfinite(vectors).all():
            finite = np.isfinite(vectors).all(axis=-1)
            bad = [units[i] for i in np.flatnonzero(~finite).tolist()]
            units = [units[i] for i in np.flatnonzero(finite).tolist()]
            vectors = vectors[finite]
            self._blame(batch, bad)
        if not units:
            return
        if window.unit_vectors is None:
            vectors = finish_vectors(vectors, self._spec)
        window.set_units(units, vectors)
        with self._changed:
            if window.unit_vectors is None and self._store is not None:
                digests = [window.digests[window.unit_slots[unit]] for unit in units]
                self._unsaved.append((digests, vectors))
            self._done(window, len(units))

    def _blame(self, batch: Batch, bad: list[int]) -> None:
        """Units whose vectors are not finite: tried once more alone if they were in company."""
        if len(batch.units) > 1:
            self._former.retry(batch.window, bad)
            return
        error = not_finite(self._spec)
        self._fail_units(batch, [(unit, error) for unit in bad])

    def _fail_units(self, batch: Batch, failed: list[tuple[int, ItemError]]) -> None:
        if not failed:
            return
        with self._changed:
            for unit, error in failed:
                batch.window.fail_unit(unit, error)
            self._done(batch.window, len(failed))

    def _done(self, window: Window, units: int) -> None:
        window.pending -= units
        self._units_in_flight += units
        if window.pending == 0:
            self._changed.notify_all()

    # --- the caller's thread ----------------------------------------------------------------------------------

    def _wait(self) -> Window | None:
        """The next window in input order once it is complete; None after the last."""
        while True:
            with self._changed:
                self._changed.wait_for(self._something_to_do, timeout=_FLUSH_S)
                if self._engine_error is not None:
                    raise self._engine_error
                complete = bool(self._windows) and self._windows[0].pending == 0
                ended = self._read_all and not self._windows
                window = self._windows.popleft() if complete else None
            self._save()
            if window is not None or ended:
                return window

    def _something_to_do(self) -> bool:
        complete = bool(self._windows) and self._windows[0].pending == 0
        return complete or self._engine_error is not None or (self._read_all and not self._windows)

    def _save(self) -> None:
        """Put what was computed since the last time into the store, in one transaction."""
        with self._changed:
            unsaved, self._unsaved = self._unsaved, []
        if self._store is None or not unsaved:
            return
        digests = [digest for some, _ in unsaved for digest in some]
        with self._store_lock:
            self._store.put(digests, np.concatenate([vectors for _, vectors in unsaved]))

    def _finish(self, window: Window) -> Block:
        if window.unit_vectors is not None:
            self._average(window)
        for slot, row in window.aliases:
            error = self._earlier.errors.get(row)
            if error is not None:
                window.slot_errors[slot] = error
        good = [(slot, row) for slot, row in window.aliases if slot not in window.slot_errors]
        if good:
            window.vectors[[slot for slot, _ in good]] = self._earlier.vectors([row for _, row in good])
        block = window.block()
        self._earlier.add(block)
        self._count(window, block)
        self._teller.failures(block.failures)
        return block

    def _average(self, window: Window) -> None:
        slots, means = window.average_pieces(normalize=self._spec.normalize)
        if not slots:
            return
        vectors = finish_vectors(means, self._spec)
        window.vectors[slots] = vectors
        if self._store is not None:
            with self._changed:
                self._unsaved.append(([window.digests[slot] for slot in slots], vectors))
            self._save()

    def _count(self, window: Window, block: Block) -> None:
        report = self.report
        with self._changed:
            self._units_in_flight -= len(window.unit_slots)
            report.items += len(block.items)
            report.embedded += len(set(window.unit_slots) - set(window.slot_errors))
            report.failed += len(block.failures)
            report.failures.extend(block.failures[: max(0, _KEPT_FAILURES - len(report.failures))])
            distinct = len(window.digests) - len(window.aliases)
            report.duplicates += len(window.slots) - window.slots.count(-1) - distinct
            report.truncated += sum(slot in window.truncated for slot in window.slots)
            report.pooled += sum(slot in window.pieces for slot in window.slots)

    def _stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
