"""Late forming of piles for a slow sender: what asks want the same while senders are busy goes together.

Beside the coalescer of a model on this machine, for everything that is sent away: a gateway's calls to a provider, and
the runs of a client that coalesces. An idle sender takes an ask at once, busy ones find a pile; there is no window to
tune, though one may be set. What is sent, and how, is the business of `send`.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Generic

from embatch.decisions.admission import Queue, admit
from embatch.decisions.pile_turns import Load, PileTurns, Recent, Room
from embatch.engine.coalesce.pile_asks import (
    Counts,
    Deadlines,
    Ended,
    P,
    PileAsk,
    PileOnItsWay,
    PileTicket,
    R,
    Waiting,
)
from embatch.engine.lanes.workers import Workers
from embatch.errors import BackendClosedError, BackendError, EmbatchError, ExpiredError, OverloadedError
from embatch.serving import Priority

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from embatch.decisions.pile_turns import Pile
    from embatch.engine.coalesce.pile_asks import Part

    Send = Callable[[PileOnItsWay[P, R]], Sequence[R | EmbatchError]]
    Gate = Callable[[Load], Room]
    Told = list[tuple[Callable[[Ended[R]], None], Ended[R]]]

_log = logging.getLogger(__name__)
_LONGEST_S = 3600.0
_FOLLOW = 0.1  # weight of the newest pile in the mean of how long one takes
_PACED_S = 10.0  # so long after the gate was shut the measured speed is all there is


class Piles(Generic[P, R]):
    """Asks in, piles out. Thread-safe; every ask that is let in is told of its end, once.

    Args:
        send: results of a pile's parts, in their order; an error in the place of one ends its ask, and an error that
            is raised ends all asks in the pile. Called from threads of the piles' own.
        senders: piles under way at once, at most.
        gate: asked before a pile is taken, with what waits: how much may be sent now, and if nothing, when.
        queue: items that may wait; None is no bound, for callers who all wait themselves.
        batch_share: least share that jobs get while both priorities wait.
        window_s: so long a pile is held back at most, unless it is full.
        full: a pile of so much is full.
    """

    def __init__(
        self,
        send: Send[P, R],
        *,
        senders: int,
        gate: Gate = lambda _: Room(),
        queue: int | None = None,
        batch_share: float = 0.1,
        window_s: float = 0.0,
        full: Room | None = None,
    ) -> None:
        self._send = send
        self._senders = senders
        self._gate = gate
        self._queue = queue
        self._turns = PileTurns(senders=senders, batch_share=batch_share, window_s=window_s, full=full)
        self._changed = threading.Condition()
        self._waiting: Waiting[P, R] = Waiting()
        self._open: dict[int, PileAsk[P, R]] = {}
        self._deadlines = Deadlines()
        self._on_their_way: set[PileOnItsWay[P, R]] = set()
        self._counts = Counts()
        self._number = 0
        self._recent = Recent()
        self._pile_s = 0.0
        self._room = Room()
        self._paced_at = float("-inf")
        self._closing = self._closed = False
        self._workers = Workers(senders)
        self._keeper: threading.Thread | None = None
        self._telling = 0  # asks that have ended and are just being told

    # --- for those who ask ------------------------------------------------------------------------------------

    def submit(
        self,
        parts: Sequence[Part[P]],
        terms: Hashable,
        done: Callable[[Ended[R]], None],
        *,
        priority: Priority = Priority.INTERACTIVE,
        timeout_s: float | None = None,
    ) -> PileTicket:
        """Let an ask in.

        Args:
            parts: at least one.
            terms: only what has equal terms goes together.
            done: told of the end, from a thread of the piles' own. Must not block and must not raise.
            priority: who goes first.
            timeout_s: answered or refused within so long.

        Raises:
            OverloadedError: too much waits already, or it could not be done in its time.
            BackendClosedError: nothing is let in any more.
        """
        load = Load()
        for part in parts:
            load = load.plus(part.load)
        with self._changed:
            if self._closing:
                raise BackendClosedError("nothing more is let in: this was closed")
            self._admit(load, timeout_s)
            self._hire()
            self._number += 1
            now = time.monotonic()
            deadline = float("inf") if timeout_s is None else now + timeout_s
            ask: PileAsk[P, R] = PileAsk(self._number, terms, priority, parts, done, now, deadline)
            self._counts.asks += 1
            self._open[ask.number] = ask
            self._waiting.add(ask)
            self._deadlines.add(deadline, ask.number)
            self._changed.notify_all()
        return PileTicket(partial(self.cancel, ask))

    def cancel(self, ask: PileAsk[P, R]) -> None:
        """Nobody waits for it any more."""
        unwanted: list[PileOnItsWay[P, R]] = []
        with self._changed:
            if not ask.ended:
                self._leave(ask, None, "cancelled", unwanted)
                self._changed.notify_all()
        _give_up(unwanted)

    def counts(self) -> Counts:
        """How it stands."""
        with self._changed:
            return replace(
                self._counts,
                running=sum(pile.load.items for pile in self._on_their_way),
                waiting={each: self._waiting.load(each) for each in Priority},
                tokens_per_s=self._recent.tokens_per_s,
            )

    def close(self, *, drain_s: float = 0.0) -> None:
        """Let nothing more in, answer what waits for up to `drain_s` seconds, and the rest with an error."""
        told: Told[R] = []
        unwanted: list[PileOnItsWay[P, R]] = []
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: not (self._open or self._telling), min(drain_s, threading.TIMEOUT_MAX)
            )
            self._closed = True
            for ask in list(self._open.values()):
                gone = BackendClosedError(
                    "closed before this was answered", hint="Ask again elsewhere, or later."
                )
                told += self._leave(ask, gone, "failed", unwanted)
            self._changed.notify_all()
        self._tell(told)
        _give_up(unwanted)

    def join(self, timeout_s: float) -> bool:
        """Wait for what is under way; whether all of it has ended. After `close`."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._on_their_way, min(timeout_s, threading.TIMEOUT_MAX)
            )

    # --- the keeper: one thread that takes piles and ends what is over ----------------------------------------

    def _keep(self) -> None:
        try:
            while self._round():
                pass
        except BaseException as error:  # noqa: BLE001  # every waiter gets an answer
            broken = BackendError(f"the thread that forms piles has failed: {error}")
            broken.__cause__ = error
            told: Told[R] = []
            with self._changed:
                self._closing = self._closed = True
                self._counts.alive = False
                for ask in list(self._open.values()):
                    told += self._leave(ask, broken, "failed", [])
                self._changed.notify_all()
            self._tell(told)
            _log.exception("no more piles are formed")
        finally:
            self._workers.close()

    def _round(self) -> bool:
        """End what is over, take a pile if one may go, or wait for something to change; False at the end."""
        told: Told[R] = []
        unwanted: list[PileOnItsWay[P, R]] = []
        with self._changed:
            now = time.monotonic()
            told += self._expire(now, unwanted)
            head = self._head(now)
            if head is None and not told:
                if self._closed:
                    return False
                self._rest(now, self._turns.wait_s(self._waiting.piles(), now=now))
                return True
            load = Load() if head is None else head.load
        self._tell(told)
        _give_up(unwanted)
        if head is not None:
            self._take(self._gate(load))
        return True

    def _take(self, room: Room) -> None:
        with self._changed:
            now = time.monotonic()
            if room.wait_s > 0:
                self._paced_at = now + room.wait_s
                self._recent.began(now)  # waiting for a quota is part of the speed
                self._rest(now, room.wait_s)
                self._recent.ended(time.monotonic(), 0)
                return
            self._room = room
            head = self._head(now)
            if head is None:
                return
            contended = self._waiting.load().items > self._waiting.load(head.priority).items
            pile = self._waiting.take(head, room, now)
            self._turns.taken(pile.priority, pile.load, contended=contended)
            self._on_their_way.add(pile)
            self._recent.began(now)
        try:
            self._workers.begin(lambda: self._carry(pile))
        except RuntimeError as error:
            self._settle(pile, [], BackendError(f"no thread could be started to send this: {error}"))

    def _head(self, now: float) -> Pile | None:
        if len(self._on_their_way) >= self._senders:
            return None
        jobs = sum(pile.priority is Priority.BATCH for pile in self._on_their_way)
        return self._turns.next(
            self._waiting.piles(), now=now, room=self._room, jobs_under_way=jobs, closing=self._closing
        )

    def _rest(self, now: float, wait_s: float) -> None:
        self._changed.wait(max(0.0, min(wait_s, self._deadlines.next - now, _LONGEST_S)))

    def _expire(self, now: float, unwanted: list[PileOnItsWay[P, R]]) -> Told[R]:
        told: Told[R] = []
        for number in self._deadlines.over(now, self._open):
            ask = self._open[number]
            where = "waited" if ask.sent_at is None else "was sent, and waited for its answer,"
            late = ExpiredError(f"it {where} for {now - ask.came:.1f} s: its time is over")
            told += self._leave(ask, late, "expired", unwanted)
        return told

    # --- a sender ---------------------------------------------------------------------------------------------

    def _carry(self, pile: PileOnItsWay[P, R]) -> None:
        """Send one pile. Raises nothing."""
        results: Sequence[R | EmbatchError] = []
        error: EmbatchError | None = BackendError("the sender ended without an answer")
        try:
            if pile.wanted:
                results = self._send(pile)
                error = None
            if error is None and len(results) != len(pile.members):
                error = BackendError(f"{len(results)} results came back for {len(pile.members)} parts")
        except EmbatchError as raised:
            error = raised
        except Exception as raised:  # noqa: BLE001  # every waiter gets an answer
            error = BackendError(f"sending failed: {type(raised).__name__}: {raised}")
            error.__cause__ = raised
        finally:
            self._settle(pile, results, error)

    def _settle(
        self, pile: PileOnItsWay[P, R], results: Sequence[R | EmbatchError], error: EmbatchError | None
    ) -> None:
        """Hand out what came back."""
        told: Told[R] = []
        unwanted: list[PileOnItsWay[P, R]] = []
        with self._changed:
            now = time.monotonic()
            self._on_their_way.discard(pile)
            self._measure(pile, now, good=error is None)
            for place, (ask, part) in enumerate(pile.members):
                ask.piles.discard(pile)
                if ask.ended:
                    continue
                result = error if error is not None else results[place]
                if isinstance(result, EmbatchError):
                    told += self._leave(ask, result, "failed", unwanted)
                    continue
                ask.results[part] = result
                if len(ask.results) == len(ask.parts):
                    told += self._leave(ask, None, "answered", unwanted)
            self._changed.notify_all()
        self._tell(told)
        _give_up(unwanted)

    def _measure(self, pile: PileOnItsWay[P, R], now: float, *, good: bool) -> None:
        seconds, counts = now - pile.began, self._counts
        self._recent.ended(now, pile.load.tokens if good else 0)
        counts.piles += 1
        counts.seconds += seconds
        if good:
            counts.items += pile.load.items
            counts.tokens += pile.load.tokens
            self._pile_s += (seconds - self._pile_s) * (_FOLLOW if self._pile_s else 1.0)

    # --- under the lock ---------------------------------------------------------------------------------------

    def _admit(self, load: Load, timeout_s: float | None) -> None:
        if self._queue is None:
            return
        waiting = self._waiting.load()
        queue = Queue(
            inputs=waiting.items, tokens=waiting.tokens, room=self._queue, tokens_per_s=self._speed(waiting)
        )
        refusal = admit(queue, load.items, timeout_s=timeout_s)
        if refusal is None:
            return
        self._counts.refused += 1
        why, after = (
            f"the queue is full: {waiting.items:,} of {self._queue:,} inputs wait",
            refusal.retry_after_s,
        )
        if not refusal.full:
            why = f"{waiting.items:,} inputs wait for about {queue.wait_s:.1f} s, longer than the {timeout_s} s given"
        raise OverloadedError(f"{why}; ask again in {after:.1f} s", retry_after_s=after)

    def _speed(self, waiting: Load) -> float:
        """Tokens a second to reckon with: full piles from all senders, unless quotas have held them up lately."""
        measured, now = self._recent.tokens_per_s, time.monotonic()
        if not measured or now - self._paced_at < _PACED_S or not self._room.items:
            return measured
        full_s = waiting.items / self._room.items / self._senders * self._pile_s
        return max(measured, waiting.tokens / full_s) if full_s > 0 else measured

    def _hire(self) -> None:
        if self._keeper is None:
            keeper = threading.Thread(target=self._keep, name="embatch-piles", daemon=True)
            try:
                keeper.start()
            except RuntimeError as error:
                raise BackendError(f"no thread could be started to send this: {error}") from error
            self._keeper = keeper

    def _leave(
        self,
        ask: PileAsk[P, R],
        error: EmbatchError | None,
        ending: str,
        unwanted: list[PileOnItsWay[P, R]],
    ) -> Told[R]:
        """An ask ends; whom to tell of it, once the lock is free."""
        self._waiting.drop(ask)
        self._open.pop(ask.number, None)
        ended = ask.end(time.monotonic(), error) if ending != "cancelled" else None
        ask.ended = True
        setattr(self._counts, ending, getattr(self._counts, ending) + 1)
        for pile in ask.piles:
            pile.wanted_by -= 1
            if not pile.wanted:
                unwanted.append(pile)
        self._telling += ended is not None
        return [] if ended is None else [(ask.done, ended)]

    def _tell(self, told: Told[R]) -> None:
        """Without the lock."""
        for done, ended in told:
            try:
                done(ended)
            except Exception:  # noqa: BLE001  # the others are told all the same
                _log.exception("whoever asked could not be told")
        if told:
            with self._changed:
                self._telling -= len(told)
                self._changed.notify_all()


def _give_up(unwanted: list[PileOnItsWay[P, R]]) -> None:
    for pile in unwanted:
        if pile.on_unwanted is not None:
            with suppress(Exception):  # its results are not waited for
                pile.on_unwanted()
