"""What is seen of work under way, as frozen data: what metrics count, dashboards draw and reports tell.

Whoever works tells an observer; observers must be quick, may be called from any thread, and never raise. Times are
seconds since the Unix epoch. Nothing here holds a text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from embatch.serving import Priority

Outcome = Literal["answered", "failed", "refused", "expired", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSeen:
    """A batch came back from a backend."""

    at: float
    """When it began."""
    seconds: float
    stream: int
    """Which of the backend's streams computed it, from 0."""
    items: int
    longest: int
    """Tokens of its longest item."""
    tokens: int
    """Of all its items, padding not counted."""
    padded_tokens: int
    budget: int
    """Token budget that it was formed under; 0 where batches are not formed by tokens."""
    fresh: bool = True
    """False for a retry or a levelled rest, whose size says nothing about budgets."""
    asks: int = 0
    """How many asks share it, where asks are what is served."""
    priority: Priority | None = None
    error: str = ""
    """Name of what it ended with instead of vectors; empty if it went well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskSeen:
    """An ask has ended."""

    at: float
    """When it came in."""
    seconds: float
    """Until it was answered or refused."""
    waited_s: float
    """Until the first of it was computed; `seconds` if nothing was."""
    inputs: int
    tokens: int
    priority: Priority
    outcome: Outcome
    error: str = ""
    """Name of what it failed with."""
    cached: int = 0
    """Inputs whose vector was stored already."""
    model: str = ""


Seen = BatchSeen | AskSeen
"""Everything that an observer may be told; kinds that it does not know it leaves alone."""


class Observer(Protocol):
    """Is told of what happens."""

    def see(self, seen: Seen) -> None:
        """Take it. Quick, from any thread, never raises."""
        ...
