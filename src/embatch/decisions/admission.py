"""Whether an ask is let in to wait, or told to come back later.

At the door of every bounded queue. An ask is refused if the queue has no room for it, or if by recent speed it could
not be done within its time: better at once than after a wait in vain. It holds no queue.
"""

from __future__ import annotations

from dataclasses import dataclass

_UNKNOWN_S = 1.0  # when to come back, while nothing is known of the speed
_LONGEST_S = 600.0  # to ask anybody to stay away longer would be a guess


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """What waits, as the door sees it."""

    inputs: int
    """That wait."""
    tokens: int
    """That these have, about."""
    room: int
    """Inputs that may wait at most."""
    tokens_per_s: float
    """Recent speed; 0.0 if it is not known."""

    @property
    def wait_s(self) -> float:
        """How long the last one in will wait; 0.0 if nothing is known of the speed."""
        return self.tokens / self.tokens_per_s if self.tokens_per_s > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why an ask is not let in."""

    full: bool
    """Whether there is no room; otherwise its time would be over before its turn."""
    retry_after_s: float
    """When it is worth another try, at least a tenth of a second."""


def admit(queue: Queue, inputs: int, *, timeout_s: float | None) -> Refusal | None:
    """None lets it in.

    An ask that is larger than the whole queue is let in when nothing waits: it could never be otherwise.

    Args:
        queue: what waits.
        inputs: of the ask, at least 1.
        timeout_s: the time that it has.
    """
    over = queue.inputs + inputs - queue.room
    if over > 0 and queue.inputs > 0:
        part = min(1.0, over / queue.inputs)
        return Refusal(full=True, retry_after_s=_bounded(queue.wait_s * part or _UNKNOWN_S))
    if timeout_s is not None and queue.wait_s > timeout_s:
        return Refusal(full=False, retry_after_s=_bounded(queue.wait_s - timeout_s))
    return None


def _bounded(seconds: float) -> float:
    return min(_LONGEST_S, max(0.1, seconds))
