"""Whose turn it is: interactive asks first, batch jobs never starved.

Between the queue and a stream that has become free. While both kinds wait, jobs earn a share of what interactive asks
are served, and take a turn once they have earned a batch. While somebody interactive is about, batches of jobs are
short, since what has begun cannot be interrupted: the shorter, the less interactive asks keep the streams busy. Nor may
many long asks make one long batch beside a job: another stream is free for the rest of them sooner. On a quiet day
waiting for a job's batch is most of an ask's time; on a busy one asks wait for each other anyway, and gain by being
batched meanwhile. For the same reason few young asks let a job's batch go first on a busy day: one by one, they
would use up the streams. It is told the time and holds no asks.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from embatch.errors import UsageError
from embatch.serving import PRIORITIES, Priority

if TYPE_CHECKING:
    from collections.abc import Container

_ABOUT_S = 2.0  # so long after the last interactive ask others like it are expected
_SHORT_S, _LONG_S = 0.008, 0.2  # batches of jobs beside few interactive asks, and beside as many as can be
_ASKS_S = 0.1  # a batch of interactive asks beside jobs takes at most so long
_HOLD_S = 0.1  # so long interactive asks wait at most for others like them, on the busiest day
_MEMORY_S = 2.0  # so far back the load by interactive asks is looked at
_ENOUGH = 3  # a batch with this part of the budget computes nearly as fast as a full one
_LEAST_TOKENS = 64  # shorter batches would cost the job more than they save others
_LEARN = 0.1  # weight of the newest batch in the running mean of the speed


class Waiting(NamedTuple):
    """Who waits."""

    interactive: bool
    jobs: bool
    tokens: int = 0
    """Of what is interactive, about."""
    oldest_s: float = 0.0
    """How long the first of that has waited."""


class Share:
    """Interactive asks first; jobs earn a share of what these are served while both wait.

    Args:
        batch_share: that jobs get at least, above 0 and below 1.
    """

    def __init__(self, batch_share: float) -> None:
        if not 0.0 < batch_share < 1.0:
            raise UsageError(f"batch_share must lie between 0 and 1, not {batch_share}")
        self._rate = batch_share / (1.0 - batch_share)
        self._earned = 0.0  # tokens that jobs may take although others wait

    def next(self, waiting: Container[Priority], *, batch_tokens: int) -> Priority | None:
        """Who is served now; None if nobody waits.

        Args:
            waiting: the kinds that wait.
            batch_tokens: of the batch that jobs would send.
        """
        if Priority.INTERACTIVE not in waiting or Priority.BATCH not in waiting:
            self._earned = 0.0  # nobody is held up
            return next((kind for kind in PRIORITIES if kind in waiting), None)
        return Priority.BATCH if self._earned >= batch_tokens else Priority.INTERACTIVE

    def served(self, priority: Priority, tokens: int, *, contended: bool) -> None:
        """A batch was formed; `contended`: while the other kind waited."""
        if not contended:
            return
        if priority is Priority.INTERACTIVE:
            self._earned += tokens * self._rate
        else:
            self._earned = max(0.0, self._earned - tokens)


class Turns:
    """Decides which kind of ask is served next, and how large a job's batch may be.

    Args:
        batch_share: least share of the tokens that jobs get while both kinds wait, above 0 and below 1.
        streams: batches that are computed side by side.
    """

    def __init__(self, *, batch_share: float, streams: int = 1) -> None:
        self._share = Share(batch_share)
        self._tokens_per_s = 0.0  # of one stream
        self._last_interactive = -math.inf
        self._streams = streams
        self._busy_s = 0.0  # of the streams, with interactive batches, older ones fading
        self._looked = 0.0

    def next(self, waiting: Waiting, now: float, *, budget: int) -> Priority | None:
        """Who is served now; None if nobody waits.

        Args:
            waiting: who waits.
            now: on the clock of all other times.
            budget: tokens of a batch, in use for jobs that nobody disturbs.
        """
        there = {Priority.INTERACTIVE: waiting.interactive, Priority.BATCH: waiting.jobs}
        kinds = [kind for kind, waits in there.items() if waits]
        both = len(kinds) > 1
        turn = self._share.next(kinds, batch_tokens=self.job_tokens(now, budget) if both else 0)
        if turn is not Priority.INTERACTIVE or not both:
            return turn
        few = waiting.tokens * _ENOUGH < budget and waiting.oldest_s < _HOLD_S * self.load(now)
        return Priority.BATCH if few else Priority.INTERACTIVE

    def served(self, priority: Priority, tokens: int, *, contended: bool) -> None:
        """A batch was formed; `contended`: while the other kind waited."""
        self._share.served(priority, tokens, contended=contended)

    def arrived(self, priority: Priority, now: float) -> None:
        """An ask came in."""
        if priority is Priority.INTERACTIVE:
            self._last_interactive = now

    def measured(self, priority: Priority, tokens: int, seconds: float, *, now: float) -> None:
        """A batch of so many tokens took one stream so long, and came back now."""
        if priority is Priority.INTERACTIVE:
            self._busy_s = self._faded(now) + seconds
            self._looked = now
        if seconds > 0 and tokens > 0:
            speed = tokens / seconds
            known = self._tokens_per_s
            self._tokens_per_s = speed if not known else known + _LEARN * (speed - known)

    def load(self, now: float) -> float:
        """Which part of the streams' time interactive batches have taken lately, 0 to 1."""
        return min(1.0, self._faded(now) / (_MEMORY_S * self._streams))

    def _faded(self, now: float) -> float:
        return self._busy_s * math.exp((self._looked - now) / _MEMORY_S)

    @property
    def tokens_per_s(self) -> float:
        """Recent speed of one stream while it works; 0.0 before a batch came back."""
        return self._tokens_per_s

    def short(self, now: float) -> bool:
        """Whether jobs do their work in small pieces now, since somebody interactive is about."""
        return now - self._last_interactive <= _ABOUT_S

    def ask_tokens(self, most: int) -> int:
        """How many tokens a batch of interactive asks may hold beside jobs, at most `most`, the budget in use."""
        return self._worth(_ASKS_S, most)

    def job_tokens(self, now: float, most: int) -> int:
        """How many tokens the next batch of a job may hold, at most `most`, the budget in use."""
        if not self.short(now):
            return most
        return self._worth(_SHORT_S + (_LONG_S - _SHORT_S) * self.load(now), most)

    def _worth(self, seconds: float, most: int) -> int:
        """Tokens that one stream computes in that time, as far as is known."""
        if not self._tokens_per_s:
            return most
        return min(most, max(_LEAST_TOKENS, int(self._tokens_per_s * seconds)))
