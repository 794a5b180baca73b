"""A provider's model for many callers at once: a `serving.Coalescer` whose batches are calls to an API.

It stands on piles: while all senders are busy, or a quota is used up, what is asked for piles up and goes together.
Each pile is one run through the calls' lane (`gateway_sending`), so that packing, pacing and retries are those of
every other run. It submits no jobs: whoever can wait for one asks an `Embedder`.
"""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from embatch.decisions.pile_turns import Load, Room
from embatch.engine.coalesce.guarded import Guarded
from embatch.engine.coalesce.pile_asks import Part, PileTicket
from embatch.engine.coalesce.piles import Piles
from embatch.engine.telling import Quiet
from embatch.errors import EmbatchError, ExpiredError, OverloadedError, ProviderError, UsageError
from embatch.frontends.gateway_asking import Asking, Input, Row, Work, check, outcome_of
from embatch.frontends.gateway_sending import Sending
from embatch.frontends.lane_checks import check_budget
from embatch.frontends.remote_host import RemoteHost
from embatch.remote import ErrorKind, Goal
from embatch.serving import Priority, Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embatch.engine.coalesce.pile_asks import Ended, PileOnItsWay
    from embatch.engine.lanes.pipeline import LanePipeline
    from embatch.frontends.embedder import Embedder
    from embatch.seen import Observer, Outcome
    from embatch.serving import Answer, Ask, Done, Ticket
    from embatch.storage.spending import Purse
    from embatch.types import FloatArray, ModelSpec, Overlong, VectorStore

    Parts = list[Part[Input]]
    StoreFor = Callable[[ModelSpec], VectorStore | None]

_FULL = 100  # inputs of a full call, where the model does not say
_OTHERS_S = 0.05  # between two looks while as many calls are under way as may be
_ORDER_S = 0.002  # between two looks while a pile that was taken has not left yet
_LAST_ANSWERS_S = 6.0  # on closing: for calls that are paid for, so that the cache gets what they bring
_SAVE_S = 30.0  # between two savings of what the provider has taught
_KNOWN = 256  # sets of terms kept ready


class Gateway:
    """Shares calls between asks. Thread-safe; every ask that is let in is told of its end, once.

    Args:
        host: the model; it stays open.
        queue: inputs that may wait.
        batch_share: least share that batch jobs get while interactive asks wait.
        parallel: piles under way at once.
        store_for: the vectors that are known under a spec, used from one thread at a time; they stay open.
        observer: told of every ask and every pile.
        purse: what may be spent in a day; None for no bound.

    Raises:
        UsageError: the purse has a bound, and the model's prices are not known.
    """

    def __init__(
        self,
        host: RemoteHost,
        *,
        queue: int = 4096,
        batch_share: float = 0.1,
        parallel: int = 8,
        store_for: StoreFor = lambda _: None,
        observer: Observer | None = None,
        purse: Purse | None = None,
    ) -> None:
        self._host = host
        self._model = host.backend
        if purse is not None and purse.bounded:
            check_budget(self._model.facts, Goal(budget=0.0))
        self._name = f"{self._model.facts.provider}:{self._model.facts.model}"
        self._queue = queue
        self._parallel = parallel
        self._store_for = store_for
        self._observer = None if observer is None else Quiet(observer)
        self._purse = purse
        self._works: dict[tuple[str | None, int | None, Overlong | None], Work] = {}
        self._guarded: dict[str, Guarded | None] = {}
        self._lock = threading.Lock()
        self._running: set[LanePipeline] = set()
        self._free = list(range(parallel))
        self._dollars = 0.0
        self._calls = 0
        self._tokens = 0
        self._asks = 0
        self._endings: Counter[Outcome] = Counter()
        self._closed = False
        self._doors: Piles[Asking, Parts] = Piles(self._open, senders=1, queue=queue, batch_share=batch_share)
        self._piles: Piles[Input, Row] = Piles(
            self._send, senders=parallel, gate=self._gate, queue=queue, batch_share=batch_share
        )

    # --- for those who ask ------------------------------------------------------------------------------------

    def submit(self, ask: Ask, done: Done) -> Ticket:
        """Let an ask in; see `serving.Coalescer`.

        Raises:
            OverloadedError: the queue is full, or the ask could not be answered in its time.
            BackendError: it was closed.
            UsageError: dimensions or a task that the model does not have, token ids, or nothing at all.
        """
        check(ask)
        asking = Asking(ask, self._work(ask.task, ask.dimensions, ask.overlong), done)
        try:
            ticket = self._doors.submit(
                [Part(asking, Load(len(ask.inputs)))],
                asking.work,
                lambda how: self._let_in(asking, how),
                priority=ask.priority,
                timeout_s=ask.timeout_s,
            )
        except OverloadedError as error:
            self._note(asking, error)
            raise
        with self._lock:
            self._asks += 1
        asking.hold(ticket)
        return PileTicket(partial(self.cancel, asking))

    def cancel(self, asking: Asking) -> None:
        """Nobody waits for it any more."""
        if asking.end():
            asking.leave()
            self._note(asking, None)

    def snapshot(self) -> Snapshot:
        """How it stands. `batches` are calls; `budget` is how many tokens one call may hold."""
        counts, doors = self._piles.counts(), self._doors.counts()
        waiting = {each: counts.waiting[each].items + doors.waiting[each].items for each in Priority}
        with self._lock:
            dollars, calls, tokens = self._dollars, self._calls, self._tokens
            asks, endings = self._asks, Counter(self._endings)
        return Snapshot(
            waiting=waiting,
            waiting_tokens=sum(load.tokens for load in counts.waiting.values()),
            room=self._queue,
            running=counts.running,
            streams=self._parallel,
            asks=asks,
            answered=endings["answered"],
            refused=endings["refused"],
            expired=endings["expired"],
            cancelled=endings["cancelled"],
            failed=endings["failed"],
            inputs=counts.items,
            batches=calls,
            tokens=tokens,
            padded_tokens=tokens,
            device_seconds=counts.seconds,
            budget=self._host.budget,
            settled=True,
            tokens_per_s=counts.tokens_per_s,
            alive=counts.alive and doors.alive and not self._closed,
            dollars=dollars,
        )

    def close(self, *, drain_s: float = 0.0) -> None:
        """Let nothing more in, answer what waits for up to `drain_s` seconds, and the rest with an error.

        Calls that are under way then are waited for a little longer: they are paid for, and the cache keeps what they
        bring. Closing twice is allowed.
        """
        self._closed = True
        until = time.monotonic() + drain_s
        self._doors.close(drain_s=drain_s)
        self._piles.close(drain_s=max(0.0, until - time.monotonic()))
        with self._lock:
            running = list(self._running)
        for pipeline in running:
            pipeline.stop(ProviderError("the gateway was closed", kind=ErrorKind.CONNECTION))
        self._piles.join(_LAST_ANSWERS_S)

    # --- what goes together -----------------------------------------------------------------------------------

    def _work(self, task: str | None, dimensions: int | None, overlong: Overlong | None) -> Work:
        key = (task, dimensions, overlong)
        with self._lock:
            known = self._works.get(key)
            if known is not None:
                return known
            host = self._host_for(dimensions, overlong)
            spec = host.spec_for(task)
            same = next((one for one in self._works.values() if one.spec == spec), None)
            if len(self._works) >= _KNOWN:
                self._works.clear()
            work = same or Work(host, task, spec, self._guard(spec))
            self._works[key] = work
            return work

    def _host_for(self, dimensions: int | None, overlong: Overlong | None) -> RemoteHost:
        """A host over the same model, with the same pacer and the same beliefs, for other vectors."""
        own = self._host.spec_for(None)
        if dimensions in {None, own.dimensions}:
            dimensions = self._host.work_for(None).dimensions
        if dimensions == self._host.work_for(None).dimensions and overlong in {None, own.overlong}:
            return self._host
        return RemoteHost(self._model, dimensions=dimensions, overlong=overlong or own.overlong)

    def _guard(self, spec: ModelSpec) -> Guarded | None:
        if spec.fingerprint not in self._guarded:
            store = self._store_for(spec)
            self._guarded[spec.fingerprint] = None if store is None else Guarded(store)
        return self._guarded[spec.fingerprint]

    # --- one ask, from the door to its end --------------------------------------------------------------------

    def _open(self, pile: PileOnItsWay[Asking, Parts]) -> list[Parts]:
        """What of some asks must be sent."""
        askings = pile.payloads
        store = askings[0].work.store
        known: dict[bytes, FloatArray] = {}
        if store is not None:
            known = store.get(list({digest for asking in askings for digest in asking.digests()}))
        return [asking.open(known) for asking in askings]

    def _let_in(self, asking: Asking, how: Ended[Parts]) -> None:
        """It is known what must be sent."""
        if how.error is not None:
            self._tell(asking, how.error)
            return
        parts, left_s = how.results[0], asking.left_s
        if not parts:
            self._tell(asking, asking.answer())
            return
        try:
            if left_s is not None and left_s <= 0:
                raise ExpiredError("its time was over before it was sent")
            opened_s = asking.seconds
            ticket = self._piles.submit(
                parts,
                asking.work,
                lambda how: self._sent(asking, how, opened_s),
                priority=asking.ask.priority,
                timeout_s=left_s,
            )
        except EmbatchError as error:
            self._tell(asking, error)
            return
        asking.hold(ticket)

    def _sent(self, asking: Asking, how: Ended[Row], opened_s: float) -> None:
        asking.waited_s = opened_s + how.waited_s
        if how.error is None:
            asking.fill(how.results)
        self._tell(asking, asking.answer() if how.error is None else how.error)

    def _tell(self, asking: Asking, outcome: Answer | EmbatchError) -> None:
        if not asking.end():
            return
        try:
            asking.done(outcome)
        finally:  # it has ended, whatever its caller makes of that
            with self._lock:
                self._asks -= isinstance(outcome, OverloadedError)  # it was let in as far as the door only
            self._note(asking, outcome)

    def _note(self, asking: Asking, outcome: Answer | EmbatchError | None) -> None:
        with self._lock:
            self._endings[outcome_of(outcome)] += 1
        if self._observer is not None:
            self._observer.see(asking.seen(outcome, self._name))

    # --- sending ----------------------------------------------------------------------------------------------

    def _gate(self, load: Load) -> Room:
        """How much the next pile may hold; what a quota has no room for had better pile up here."""
        model = self._model
        limits = model.caps.limits(model.facts.call)
        items = limits.items or _FULL
        tokens = limits.tokens
        with model.deciding:
            pacer, now = model.pacer, model.clock.now()
            if pacer.stopped is not None:  # the next run finds out whether that still holds
                return Room(items, tokens, limits.bytes)
            if pacer.in_flight >= pacer.parallel:
                return Room(wait_s=_OTHERS_S)
            if (
                len(self._running) > pacer.in_flight
            ):  # small piles would slip past one that waits for the quota
                return Room(wait_s=_ORDER_S)
            asked = max(1, min(load.tokens, tokens if tokens is not None else load.tokens))
            delay = pacer.delay(now, max(1, min(load.items, items)), asked)
            free_items, free_tokens = pacer.room(now)
        if 0.0 < delay < math.inf:
            return Room(wait_s=model.clock.real(delay))
        if free_items > 0 and delay <= 0:
            items = min(items, free_items)
            tokens = free_tokens if tokens is None else min(tokens, free_tokens)
        return Room(items, tokens, limits.bytes)

    def _send(self, pile: PileOnItsWay[Input, Row]) -> Sequence[Row | EmbatchError]:
        mine: list[LanePipeline] = []

        def begun(pipeline: LanePipeline) -> None:
            mine.append(pipeline)
            with self._lock:
                self._running.add(pipeline)

        sending = Sending(pile, self._purse, begun)
        with self._lock:
            stream = heapq.heappop(self._free)
        try:
            return sending.go()
        finally:
            with self._lock:
                self._running.difference_update(mine)
                heapq.heappush(self._free, stream)
                self._dollars += sending.bill.dollars
                self._calls += sending.bill.calls
                self._tokens += sending.bill.tokens
            if self._observer is not None:
                for seen in sending.seen:
                    self._observer.see(replace(seen, stream=stream))
            self._model.save(least_s=_SAVE_S)


def open_gateway(
    embedder: Embedder,
    *,
    queue: int = 4096,
    batch_share: float = 0.1,
    observer: Observer | None = None,
    purse: Purse | None = None,
) -> Gateway:
    """A gateway over an embedder of a provider's model, with the embedder's cache. The embedder stays open.

    Raises:
        UsageError: its model runs on this machine, or has no prices although the purse has a bound.
    """
    host = embedder.host
    if not isinstance(host, RemoteHost):
        raise UsageError(f"{embedder.spec.model} runs on this machine: a gateway is for a provider's model")
    return Gateway(
        host,
        queue=queue,
        batch_share=batch_share,
        store_for=embedder.store_for,
        observer=observer,
        purse=purse,
    )
