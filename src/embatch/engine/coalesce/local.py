"""Many callers, one backend: the coalescer for a model on this machine.

Asks wait in one bounded room. A stream of the backend that has become free makes ready what came in, and forms the next
batch from all that waits: there is no window to tune, an idle backend begins at once, and a busy one fills its batches.
Every ask that was let in is told of its end once, whatever breaks. It opens no model and closes none.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from embatch.decisions.admission import Queue, admit
from embatch.decisions.turns import Turns
from embatch.engine.coalesce.asks import Ended, Waiting
from embatch.engine.coalesce.computing import Halver, batch_seen
from embatch.engine.coalesce.counting import Counts
from embatch.engine.coalesce.keeping import Keeper
from embatch.engine.coalesce.opening import Opener
from embatch.engine.coalesce.room import Room
from embatch.engine.memory import memory_used
from embatch.engine.outcomes import padded_tokens, record_of
from embatch.engine.telling import Quiet
from embatch.engine.window import finish_vectors
from embatch.errors import (
    BackendClosedError,
    BackendError,
    EmbatchError,
    ExpiredError,
    OverloadedError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from embatch.decisions.admission import Refusal
    from embatch.engine.coalesce.computing import Computed
    from embatch.engine.coalesce.opening import Portion, StoreFor
    from embatch.engine.coalesce.room import Batch
    from embatch.engine.coalesce.units import Text, Unit
    from embatch.engine.tuners import Tuner
    from embatch.errors import ItemError
    from embatch.seen import Observer, Outcome
    from embatch.serving import Answer, Ask, Done, Priority, Snapshot
    from embatch.types import Backend, FloatArray, ModelSpec

    SpecFor = Callable[[Ask], ModelSpec]

_log = logging.getLogger(__name__)

_TICK_S = 0.1  # how late an ask may be told that its time is over
_LOOK_S = 0.5  # between two looks at the memory
_LINGER_S = 2.0  # so long after an ask it looks by itself: to be woken by the next one would hold that up
_CHARS_PER_TOKEN = 4


class LocalCoalescer:
    """Shares the batches of one backend between asks. See `serving.Coalescer`.

    Args:
        backend: computes; the caller's own.
        spec_for: what an ask's vectors are; the same object for equal specs. Raises UsageError for what there is not.
        tuner: decides how large a batch may be, and learns from it.
        queue: inputs of each kind that may wait.
        batch_share: least share of the work that jobs get while interactive asks keep coming.
        store_for: the vectors that are known under a spec, and where new ones are kept.
        observer: is told of batches and of the ends of asks.
    """

    def __init__(
        self,
        backend: Backend,
        spec_for: SpecFor,
        tuner: Tuner,
        *,
        queue: int,
        batch_share: float,
        store_for: StoreFor | None = None,
        observer: Observer | None = None,
    ) -> None:
        if queue < 1:
            raise UsageError(f"a queue needs room for at least 1 input, not {queue}")
        self._backend = backend
        self._spec_for = spec_for
        self._tuner = tuner
        self._bound = queue
        self._keeper = Keeper(store_for)
        self._observer = None if observer is None else Quiet(observer)
        self._opener = Opener(backend, store_for)
        self._halver = Halver()
        self._lock = threading.Lock()
        self._work_is_there = threading.Condition(self._lock)  # for streams
        self._asks_are_there = threading.Condition(self._lock)  # for the one that tends
        self._asks_are_gone = threading.Condition(self._lock)  # for closing
        # All below belongs to `_lock`.
        self._turns = Turns(batch_share=batch_share, streams=backend.streams)
        self._room = Room(backend.limits, backend.streams, self._turns)
        self._retries: deque[Batch] = deque()
        self._asks: set[Waiting] = set()  # that have not ended
        self._counts = Counts()
        self._closing = self._stopped = False
        self._resting = threading.Event()
        self._fatal: EmbatchError | None = None
        names = [f"embatch-stream-{stream}" for stream in range(backend.streams)]
        self._threads = [
            *(
                threading.Thread(target=self._work, args=(at,), name=name, daemon=True)
                for at, name in enumerate(names)
            ),
            threading.Thread(target=self._tend, name="embatch-tend", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    # --- the door ---------------------------------------------------------------------------------------------

    def submit(self, ask: Ask, done: Done) -> LocalTicket:
        """Let an ask in; see `serving.Coalescer.submit`."""
        size = len(ask.inputs)
        if not size:
            raise UsageError("an ask needs at least one input")
        if ask.keys is not None and len(ask.keys) != size:
            raise UsageError(f"there are {size} inputs but {len(ask.keys)} keys")
        tokens = size + sum(map(_rough_tokens, ask.inputs))
        spec, now = self._spec_for(ask), time.monotonic()
        waiting = Waiting.of(ask, done, spec, now=now, wall=time.time(), tokens=tokens)
        with self._lock:
            if self._fatal is not None:
                raise BackendError(f"the engine has failed: {self._fatal}")
            if self._closing:
                raise _closed()
            refusal = admit(self._queue(ask.priority), size, timeout_s=ask.timeout_s)
            if refusal is None:
                self._counts.asks += 1
                self._turns.arrived(ask.priority, now)
                self._asks.add(waiting)
                self._room.add(waiting)
                self._work_is_there.notify()
                self._asks_are_there.notify()
                return LocalTicket(self, waiting)
            error = self._overloaded(refusal, size)
            ended = self._end(waiting, error, "refused")
        self._see(ended)
        raise error

    def _queue(self, kind: Priority) -> Queue:
        speed = self._turns.tokens_per_s * self._backend.streams
        room = self._room
        return Queue(inputs=room.inputs[kind], tokens=room.tokens[kind], room=self._bound, tokens_per_s=speed)

    def _overloaded(self, refusal: Refusal, size: int) -> OverloadedError:
        after = f"try again in {refusal.retry_after_s:.1f} s"
        if refusal.full:
            message = f"the queue has no room for {size} more texts: {self._bound} may wait; {after}"
        else:
            message = f"there is too much before it to be done in its time; {after}"
        return OverloadedError(message, retry_after_s=refusal.retry_after_s)

    def snapshot(self) -> Snapshot:
        """How it stands."""
        streams = self._backend.streams
        with self._lock:
            return self._counts.snapshot(
                self._room,
                self._tuner,
                bound=self._bound,
                streams=streams,
                tokens_per_s=self._turns.tokens_per_s * streams,
                alive=self._fatal is None and not self._closing,
            )

    def close(self, *, drain_s: float = 0.0) -> None:
        """Let nothing more in, answer what waits for up to `drain_s` seconds, and the rest with an error."""
        with self._lock:
            self._closing = True
            self._asks_are_gone.wait_for(lambda: not self._asks, timeout=drain_s)
            ended = self._stop(_closed())
        self._tell(ended)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=5.0)  # a backend that hangs must not hang its callers
        self._keeper.save()

    # --- streams ----------------------------------------------------------------------------------------------

    def _work(self, stream: int) -> None:
        try:
            while (todo := self._next()) is not None:
                kind, portions, batch = todo
                if batch is not None:
                    self._compute(batch, stream)
                else:
                    self._open(kind, portions)
        except BaseException as error:  # noqa: BLE001  # every waiter gets an answer, whatever broke
            self._die(_as_ours(error))

    def _next(self) -> tuple[Priority, list[Portion], Batch | None] | None:
        """What this stream does next: make something ready, or compute. Blocks; None at the end."""
        with self._lock:
            while not self._stopped:
                while self._retries:
                    batch = self._retries.popleft().living()
                    if batch is not None:
                        return self._starts(batch)
                if self._room.has_work and (todo := self._turn()) is not None:
                    return todo
                self._work_is_there.wait()
            return None

    def _turn(self) -> tuple[Priority, list[Portion], Batch | None] | None:
        """What the room has for a stream; None if others are making it ready."""
        now, budget = time.monotonic(), self._tuner.budget
        for kind in self._room.turns(now, budget):
            portions = self._room.to_open(kind, budget, now)
            if portions:
                return kind, portions, None
            batch = self._room.form(kind, self._tuner.next_budget, now)
            if batch is not None:
                return self._starts(batch)
        return None

    def _starts(self, batch: Batch) -> tuple[Priority, list[Portion], Batch]:
        self._counts.running += len(batch.units)
        if self._retries or self._room.has_work:
            self._work_is_there.notify()  # for another stream
        return batch.priority, [], batch

    def _open(self, kind: Priority, portions: list[Portion]) -> None:
        try:
            opened = self._opener.open(portions)
        except Exception as error:  # noqa: BLE001  # a tokeniser's own failure is that of these asks alone
            with self._lock:
                self._room.opening_failed(kind)
                asks = {portion.waiting for portion in portions}
                ended = [end for ask in asks for end in self._end(ask, _as_ours(error), "failed")]
            self._tell(ended)
            return
        with self._lock:
            now = time.monotonic()
            for text, tokens, cut in opened.texts:
                for waiting, _ in text.owners:
                    waiting.tokens += tokens
                    waiting.truncated += cut
            whole = [one for text, error in opened.failed for one in self._passed(text, now, error=error)]
            whole += [one for text, vector in opened.known for one in self._passed(text, now, vector=vector)]
            self._room.opened(kind, opened)
            ended = self._whole(whole, now)
        self._tell(ended)

    def _passed(
        self, text: Text, now: float, *, vector: FloatArray | None = None, error: ItemError | None = None
    ) -> list[Waiting]:
        """A text that needs no batch; the asks that are whole now."""
        self._room.passed(text, now)
        if error is not None:
            return text.fail(error)
        assert vector is not None
        for waiting, _ in text.owners:
            waiting.cached += 1
        return text.finish(vector)

    def _compute(self, batch: Batch, stream: int) -> None:
        began, started = time.time(), time.perf_counter()
        computed = self._halver.compute(self._backend, batch)
        record = record_of(batch, time.perf_counter() - started, computed.error)
        padded = padded_tokens(record, self._backend.limits.cost)
        if computed.error is None or record.out_of_memory:
            self._tuner.record(record)
        finished = _finished(computed)
        with self._lock:
            self._counts.running -= len(batch.units)
            if computed.error is None:
                self._turns.measured(batch.priority, record.tokens, record.seconds, now=time.monotonic())
                self._counts.computed(record, padded_tokens=padded)
            whole: list[Waiting] = []
            for unit, vector in finished:
                whole += self._take_vector(unit, vector)
            for unit, error in computed.failed:
                whole += unit.text.fail(error)
            ended = self._whole(whole, time.monotonic())
            self._retries.extend(computed.retries)
            if computed.retries:
                self._work_is_there.notify_all()
        self._tell(ended)
        if self._observer is not None:
            self._observer.see(batch_seen(batch, record, padded, began, stream, computed.error))
        if computed.fatal and computed.error is not None:
            self._die(computed.error)

    def _take_vector(self, unit: Unit, vector: FloatArray) -> list[Waiting]:
        """A unit has its vector `(dim,)`; the asks that are whole now."""
        text = unit.text
        if text.pieces:
            unit.vector = vector
            text.left -= 1
            if text.left or text.error is not None:
                return []
            vector = text.mean()
        self._keeper.add(text.spec, text.digest, vector)
        return text.finish(vector)

    # --- the ends of asks -------------------------------------------------------------------------------------

    def _whole(self, asks: Iterable[Waiting], now: float) -> list[Ended]:
        return [end for waiting in asks for end in self._end(waiting, waiting.answer(now), "answered")]

    def _end(self, waiting: Waiting, result: Answer | EmbatchError | None, outcome: Outcome) -> list[Ended]:
        """Its one end, to be told outside of the lock; nothing if it has ended before."""
        if waiting.ended:
            return []
        waiting.ended = True
        if waiting in self._asks:
            self._asks.remove(waiting)
            self._room.left(waiting)
            if not self._asks:
                self._asks_are_gone.notify_all()
        self._counts.outcomes[outcome] += 1
        return [Ended(waiting, result, outcome, time.monotonic())]

    def cancel(self, waiting: Waiting) -> None:
        """Nobody waits for this ask any more."""
        with self._lock:
            ended = self._end(waiting, None, "cancelled")
        self._tell(ended)

    def _die(self, error: EmbatchError) -> None:
        with self._lock:
            self._fatal = self._fatal or error
            ended = self._stop(error)
        self._tell(ended)

    def _stop(self, error: EmbatchError) -> list[Ended]:
        """Let all threads leave; what still waits ends with this."""
        self._stopped = True
        self._resting.set()
        self._work_is_there.notify_all()
        self._asks_are_there.notify_all()
        return [end for ask in list(self._asks) for end in self._end(ask, error, "failed")]

    def _tell(self, ended: Sequence[Ended]) -> None:
        """Outside of the lock. One that cannot be told must not keep the others from it."""
        for end in ended:
            try:
                end.tell()
            except Exception:  # noqa: BLE001  # the caller's own code
                _log.exception("whoever asked could not be told")
        self._see(ended)

    def _see(self, ended: Iterable[Ended]) -> None:
        if self._observer is not None:
            for end in ended:
                self._observer.see(end.seen(self._backend.spec.model))

    # --- beside the streams -----------------------------------------------------------------------------------

    def _tend(self) -> None:
        """While asks come, and a little longer: tell those whose time is over, keep vectors, look at the memory."""
        looked = 0.0
        known, sleeps_from = 0, 0.0
        while not self._stopped:
            with self._lock:
                if time.monotonic() >= sleeps_from:
                    self._asks_are_there.wait_for(lambda: self._asks or self._keeper.waiting or self._stopped)
                now = time.monotonic()
                if self._counts.asks != known:
                    known, sleeps_from = self._counts.asks, now + _LINGER_S
                ended = self._expire(now)
            self._tell(ended)
            self._keeper.save()
            now = time.monotonic()
            if now - looked > _LOOK_S:
                looked = now
                self._tuner.pressure(max(memory_used(), self._backend.memory_used()))
            self._resting.wait(_TICK_S)

    def _expire(self, now: float) -> list[Ended]:
        late = [ask for ask in self._asks if ask.expires is not None and ask.expires <= now]
        ended: list[Ended] = []
        for ask in late:
            error = ExpiredError(f"not done within the {ask.ask.timeout_s:g} seconds that it had")
            ended += self._end(ask, error, "expired")
        return ended


class LocalTicket:
    """An ask that was let in."""

    __slots__ = ("_coalescer", "_waiting")

    def __init__(self, coalescer: LocalCoalescer, waiting: Waiting) -> None:
        self._coalescer = coalescer
        self._waiting = waiting

    def cancel(self) -> None:
        """Nobody waits any more."""
        self._coalescer.cancel(self._waiting)


def _finished(computed: Computed) -> list[tuple[Unit, FloatArray]]:
    """Units and their vectors: finished, but pieces, which are averaged first."""
    if not computed.units:
        return []
    specs = {id(unit.text.spec) for unit in computed.units}
    if len(specs) == 1 and not any(unit.text.pieces for unit in computed.units):
        vectors = finish_vectors(computed.vectors, computed.units[0].text.spec)
        return list(zip(computed.units, vectors, strict=True))
    return [
        (unit, row if unit.text.pieces else finish_vectors(row[None, :], unit.text.spec)[0])
        for unit, row in zip(computed.units, computed.vectors, strict=True)
    ]


def _rough_tokens(given: object) -> int:
    """Before it is tokenised: English has four characters a token."""
    if isinstance(given, str):
        return len(given) // _CHARS_PER_TOKEN
    return len(given) if isinstance(given, list | tuple) else 0


def _closed() -> BackendClosedError:
    return BackendClosedError("the model was closed", hint="Ask again: a server opens it anew.")


def _as_ours(error: BaseException) -> EmbatchError:
    if isinstance(error, EmbatchError):
        return error
    ours = BackendError(f"{type(error).__name__}: {error}")
    ours.__cause__ = error
    return ours
