"""The nouns of serving: what many callers ask at once, what each gets, and what can be seen of the queue between.

Beside `types`, whose nouns are those of one run. An *ask* is one caller's texts, answered together; texts of many asks
share batches. Frozen data and protocols only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from embatch.errors import EmbatchError
    from embatch.types import FloatArray, ItemFailure, Overlong

    Done = Callable[["Answer | EmbatchError"], None]


class Priority(StrEnum):
    """Who goes first when not everything can."""

    INTERACTIVE = "interactive"  # somebody waits for the answer
    BATCH = "batch"  # a job: gets what is left, and never less than a share that keeps it going


PRIORITIES = tuple(Priority)
"""The same as a tuple, which is looked through in a quarter of the time: streams do so for every batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One caller's texts."""

    inputs: Sequence[str | Sequence[int]]
    """Texts, or token ids of the model's own tokeniser (special tokens may be there or not)."""
    task: str | None = None
    """Which prompt texts get: `document` (None), `query`, or another that the model has. Token ids get none."""
    dimensions: int | None = None
    """Cut vectors to so many components and normalise again; None is the embedder's own."""
    overlong: Overlong | None = None
    """What happens to texts longer than the model takes; None is the embedder's own."""
    keys: Sequence[str] | None = None
    """Name the inputs in failures; their positions otherwise."""
    priority: Priority = Priority.INTERACTIVE
    timeout_s: float | None = None
    """Answered or refused within so long; None waits as long as it takes."""
    payer: str | None = None
    """Name of the client on whose account a provider's bill goes, such as an API key's; None is nobody's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an ask got. Row `i` belongs to input `i`."""

    vectors: FloatArray
    """`(n, dim)` float32; the row of an input that failed is NaN."""
    tokens: int
    """Tokens of all inputs as the model saw them, special tokens included; a provider's count where it gives one."""
    failures: Sequence[ItemFailure] = ()
    """Inputs without a vector, in order; the others stand."""
    truncated: int = 0
    """Inputs that were longer than the model takes and were cut."""
    cached: int = 0
    """Inputs whose vector was stored already."""
    waited_s: float = 0.0
    """From the ask to when the first of it was computed."""
    seconds: float = 0.0
    """From the ask to the answer."""


class Ticket(Protocol):
    """An ask that was let in."""

    def cancel(self) -> None:
        """Nobody waits any more: what is not computed yet never will be. Afterwards nothing is told."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A coalescer at one moment; counts are since it was opened."""

    waiting: Mapping[Priority, int]
    """Inputs that are let in and not computed yet."""
    waiting_tokens: int
    """About how many tokens these have."""
    room: int
    """Inputs that may wait at most."""
    running: int
    """Inputs in batches that are being computed, or in calls under way."""
    streams: int
    asks: int
    """Let in so far."""
    answered: int
    refused: int
    """Not let in, for the queue was full."""
    expired: int
    """Whose time was over before they were done."""
    cancelled: int
    failed: int
    """Answered with an error as a whole."""
    inputs: int
    """Computed so far."""
    batches: int
    tokens: int
    """Computed so far, padding not counted."""
    padded_tokens: int
    device_seconds: float
    """Inside the backend, summed over its streams."""
    budget: int
    """Token budget in use."""
    settled: bool
    """Whether the search for the best budget has ended for now."""
    tokens_per_s: float
    """Recent speed of all streams together while they work; 0.0 before anything is known."""
    alive: bool
    """False when the engine under it has failed for good."""
    dollars: float = 0.0
    """Spent, for a provider's model."""


class Coalescer(Protocol):
    """Shares batches between asks. Thread-safe; every ask that is let in is told of its end, once."""

    def submit(self, ask: Ask, done: Done) -> Ticket:
        """Let an ask in.

        Args:
            ask: at least one input.
            done: called once, from a thread of the coalescer's own, with the answer, or with what befell the ask as a
                whole. Must not block and must not raise.

        Raises:
            OverloadedError: the queue is full, or the ask could not be answered in its time.
            BackendError: the engine has failed for good, or was closed.
            UsageError: dimensions or a task that the model does not have.
        """
        ...

    def snapshot(self) -> Snapshot:
        """How it stands."""
        ...

    def close(self, *, drain_s: float = 0.0) -> None:
        """Let nothing more in, answer what waits for up to `drain_s` seconds, and the rest with an error."""
        ...
