"""Whose turn it is: interactive asks first, batch jobs never starved.

Between the queue and a stream that has become free. While both kinds wait, jobs earn a share of what interactive asks
are served, and take a turn once they have earned a batch. While somebody interactive is about, batches of jobs are
short, since what has begun cannot be interrupted. It is told the time and holds no asks.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from embatch.errors import UsageError
from embatch.serving import Priority

if TYPE_CHECKING:
    from collections.abc import Container

_ABOUT_S = 2.0  # so long after the last interactive ask others like it are expected
_SHORT_S = 0.008  # a job's batch beside interactive asks: some hundred tokens on a processor
_LEAST_TOKENS = 64  # shorter batches would cost the job more than they save others
_LEARN = 0.1  # weight of the newest batch in the running mean of the speed


class Turns:
    """Decides which kind of ask is served next, and how large a job's batch may be.

    Args:
        batch_share: least share of the tokens that jobs get while both kinds wait, above 0 and below 1.
    """

    def __init__(self, *, batch_share: float) -> None:
        if not 0.0 < batch_share < 1.0:
            raise UsageError(f"batch_share must lie between 0 and 1, not {batch_share}")
        self._rate = batch_share / (1.0 - batch_share)
        self._earned = 0.0  # tokens that jobs may take although others wait
        self._tokens_per_s = 0.0  # of one stream
        self._last_interactive = -math.inf

    def next(self, waiting: Container[Priority], *, batch_tokens: int) -> Priority | None:
        """Who is served now; None if nobody waits.

        Args:
            waiting: the kinds that wait.
            batch_tokens: of the batch that jobs would send.
        """
        if Priority.INTERACTIVE not in waiting:
            self._earned = 0.0  # nobody was held up
            return Priority.BATCH if Priority.BATCH in waiting else None
        if Priority.BATCH not in waiting:
            self._earned = 0.0
            return Priority.INTERACTIVE
        return Priority.BATCH if self._earned >= batch_tokens else Priority.INTERACTIVE

    def served(self, priority: Priority, tokens: int, *, contended: bool) -> None:
        """A batch was formed; `contended`: while the other kind waited."""
        if not contended:
            return
        if priority is Priority.INTERACTIVE:
            self._earned += tokens * self._rate
        else:
            self._earned = max(0.0, self._earned - tokens)

    def arrived(self, priority: Priority, now: float) -> None:
        """An ask came in."""
        if priority is Priority.INTERACTIVE:
            self._last_interactive = now

    def measured(self, tokens: int, seconds: float) -> None:
        """A batch of so many tokens took one stream so long."""
        if seconds > 0 and tokens > 0:
            speed = tokens / seconds
            known = self._tokens_per_s
            self._tokens_per_s = speed if not known else known + _LEARN * (speed - known)

    @property
    def tokens_per_s(self) -> float:
        """Recent speed of one stream while it works; 0.0 before a batch came back."""
        return self._tokens_per_s

    def short(self, now: float) -> bool:
        """Whether jobs do their work in small pieces now, since somebody interactive is about."""
        return now - self._last_interactive <= _ABOUT_S

    def job_tokens(self, now: float, most: int) -> int:
        """How many tokens the next batch of a job may hold, at most `most`, the budget in use."""
        if not self.short(now) or not self._tokens_per_s:
            return most
        return min(most, max(_LEAST_TOKENS, int(self._tokens_per_s * _SHORT_S)))
