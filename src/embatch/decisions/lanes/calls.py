"""The synchronous calls of a run: which are in flight, how they are packed, and whether they still get anywhere.

A part of the strategy's state. The pacer says when a call may go; this says how large it is, and when to give up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from embatch.decisions.lanes.absence import AGAIN_S
from embatch.decisions.lanes.speed import Speed
from embatch.remote import ErrorKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from embatch.decisions.latency import Beliefs
    from embatch.decisions.pacing import Pacer
    from embatch.events import CallEnded
    from embatch.remote import CallLimits

_FAILURES, _FAILURES_S = 12, 600.0  # in a row, and over this time, before any success: given up
_HOPELESS = 3  # failures in a row of a kind that neither waits nor splits
_SPLITS = 400  # refusals in a row that should have been mended by splitting
_STEADY = 20.0  # answers that the share of those that succeed is taken over
_LONGEST_S = 90.0  # a call that has to wait longer for the quota than this is made smaller


@dataclass(slots=True)
class Sent:
    """A call in flight."""

    items: int
    tokens: int
    at: float


@dataclass(slots=True)
class CallLane:
    """The calls in flight.

    Args:
        pacer: when the next may go; it is told of every call.
        beliefs: how long they take.
        limits: of one call, as far as learned.
    """

    pacer: Pacer
    beliefs: Beliefs
    limits: Callable[[], CallLimits]
    sent: dict[int, Sent] = field(default_factory=dict)
    closed: ErrorKind | None = None
    """Why no more calls can be sent in this run."""
    failures: int = 0
    """In a row."""
    failing_since: float = math.inf
    last_kind: ErrorKind | None = None
    answered: bool = False
    """Whether the provider has ever given something, in whatever lane: then an outage is waited out."""
    efficiency: float = 1.0
    _pack: int = 0
    _packed: int = 0
    """The waiting items that `_pack` was found for."""

    @property
    def items(self) -> int:
        """In flight."""
        return sum(call.items for call in self.sent.values())

    @property
    def free(self) -> bool:
        """Whether another call may be in flight."""
        return self.pacer.in_flight < self.pacer.parallel

    def speed(self, now: float) -> Speed:
        """What calls can do from now on."""
        rate = self.pacer.rate()
        items, tokens = self.pacer.room(now)
        pause_s = self.pacer.delay(now, 1, 1)
        return Speed(
            items_per_s=max(1e-9, rate.items_per_s),
            tokens_per_s=max(1e-9, rate.tokens_per_s),
            requests_per_s=max(1e-9, rate.requests_per_s),
            room_items=items,
            room_tokens=tokens,
            parallel=max(1, self.pacer.parallel),
            limits=self.limits(),
            pause_s=0.0 if pause_s == math.inf else pause_s,
            efficiency=max(0.05, self.efficiency),
        )

    def next_call(self, now: float, waiting: int, item_tokens: float) -> tuple[int, int, float]:
        """Items and most tokens of the next call, and the seconds until it may go (infinity: never)."""
        if waiting <= 0:
            return 0, 0, math.inf
        limits = self.limits()
        if not self._packed / 2 <= waiting <= self._packed or self._pack <= 0:
            self._pack = self.speed(now).pack(self.beliefs, waiting, item_tokens)
            self._packed = waiting
        items = max(1, min(self._pack, waiting, limits.items or self._pack))
        most = limits.tokens if limits.tokens is not None else math.inf
        need = max(1, math.ceil(items * item_tokens))
        delay = self.pacer.delay(now, items, need)
        while items > 1 and (delay > _LONGEST_S or need > most):
            items = max(1, items // 2)
            need = max(1, math.ceil(items * item_tokens))
            delay = self.pacer.delay(now, items, need)
        if delay > 0:
            return items, need, delay
        room_items, room_tokens = self.pacer.room(now)
        tokens = int(min(room_tokens, most, max(4.0 * need, limits.item_tokens)))
        return max(1, min(items, room_items)), max(1, tokens), 0.0

    def started(self, id_: int, now: float, items: int, tokens: int) -> None:
        """A call is on its way."""
        self.sent[id_] = Sent(items, tokens, now)
        self.pacer.sent(now, items, tokens)

    def ended(self, event: CallEnded, draw: float) -> Sent | None:
        """A call is over: tell the pacer and the beliefs."""
        call = self.sent.pop(event.id, None)
        if call is None:
            return None
        if event.kind is None:
            used = event.used_tokens if event.used_tokens > 0 else None
            self.pacer.answered(event.now, call.items, call.tokens, used_tokens=used, hints=event.hints)
            self.beliefs.observe_call(call.items, call.tokens, event.seconds)
        else:
            self.pacer.failed(
                event.now,
                call.items,
                call.tokens,
                event.kind,
                retry_after_s=event.retry_after_s,
                draw=draw,
            )
        fruit = event.done + event.failed > 0
        if event.kind is not ErrorKind.RATE_MINUTE:  # a refusal takes no time: the pacer knows about quotas
            self.efficiency += (fruit - self.efficiency) / _STEADY
        if fruit:
            self.answered, self.failures, self.failing_since = True, 0, math.inf
        else:
            self._failed(event)
        return call

    def _failed(self, event: CallEnded) -> None:
        kind = event.kind or ErrorKind.PROTOCOL
        self.failures += 1
        self.failing_since = min(self.failing_since, event.now)
        self.last_kind = kind
        if kind.stops:
            self.closed = kind
        elif kind.splits:
            self.closed = kind if self.failures >= _SPLITS else None
        elif kind.waits:
            long = event.now - self.failing_since >= (AGAIN_S if self.answered else _FAILURES_S)
            self.closed = kind if self.failures >= _FAILURES and long else None
        elif self.failures >= _HOPELESS:
            self.closed = kind


def draw(id_: int) -> float:
    """Evenly spread over [0, 1), by the number of a call or job: jitter without randomness."""
    return ((id_ * 2_654_435_761) % 2**32) / 2**32
