"""An ask that was let in: its rows as they are done, and its one end.

Between the door, where `Ask`s come in, and the units that batches are made of. Everything here happens under the lock
of the coalescer that owns it, but `Ended.tell`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from embatch.errors import EmbatchError
from embatch.seen import AskSeen
from embatch.serving import Answer
from embatch.types import ItemFailure

if TYPE_CHECKING:
    from embatch.errors import ItemError
    from embatch.seen import Outcome
    from embatch.serving import Ask, Done
    from embatch.types import FloatArray, ModelSpec


@dataclass(slots=True, eq=False)
class Waiting:
    """An ask on its way."""

    ask: Ask
    done: Done
    spec: ModelSpec
    """What comes out."""
    came: float
    """When it came in, on the monotonic clock."""
    came_wall: float
    """The same as seconds since the epoch."""
    vectors: FloatArray
    """`(n, dim)`; a row means nothing until it is done, and is NaN if it failed."""
    pending: int
    """Rows that have neither a vector nor an error."""
    untaken: int
    """Rows that are in no batch yet."""
    tokens_untaken: int
    """About how many tokens these have."""
    opened: int = 0
    """Rows that were made ready."""
    tokens: int = 0
    truncated: int = 0
    cached: int = 0
    first_taken: float | None = None
    ended: bool = False
    failures: dict[int, ItemFailure] = field(default_factory=dict)

    @classmethod
    def of(cls, ask: Ask, done: Done, spec: ModelSpec, *, now: float, wall: float, tokens: int) -> Waiting:
        """A new one."""
        n = len(ask.inputs)
        vectors = np.empty((n, spec.dimensions), np.float32)
        return cls(ask, done, spec, now, wall, vectors, n, n, tokens)

    @property
    def size(self) -> int:
        """How many inputs it has."""
        return len(self.ask.inputs)

    @property
    def expires(self) -> float | None:
        """When its time is over."""
        return None if self.ask.timeout_s is None else self.came + self.ask.timeout_s

    def fail(self, row: int, error: ItemError) -> None:
        """This row has no vector."""
        key = self.ask.keys[row] if self.ask.keys is not None else str(row)
        self.failures[row] = ItemFailure(row=row, key=key, error=error)
        self.vectors[row] = np.nan
        self.pending -= 1

    def answer(self, now: float) -> Answer:
        """What it gets, all rows being done."""
        first = self.first_taken
        return Answer(
            vectors=self.vectors,
            tokens=self.tokens,
            failures=tuple(self.failures[row] for row in sorted(self.failures)),
            truncated=self.truncated,
            cached=self.cached,
            waited_s=0.0 if first is None else first - self.came,
            seconds=now - self.came,
        )


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of an ask, to be told outside of the lock."""

    waiting: Waiting
    result: Answer | EmbatchError | None
    """None: nobody waits any more."""
    outcome: Outcome
    now: float

    def tell(self) -> None:
        """Tell whoever waits."""
        if self.result is not None:
            self.waiting.done(self.result)

    def seen(self, model: str) -> AskSeen:
        """For observers."""
        waiting = self.waiting
        seconds = self.now - waiting.came
        first = waiting.first_taken
        return AskSeen(
            at=waiting.came_wall,
            seconds=seconds,
            waited_s=seconds if first is None else first - waiting.came,
            inputs=waiting.size,
            tokens=waiting.tokens,
            priority=waiting.ask.priority,
            outcome=self.outcome,
            error=type(self.result).__name__ if isinstance(self.result, EmbatchError) else "",
            cached=waiting.cached,
            model=model,
        )
