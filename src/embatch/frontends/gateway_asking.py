"""One ask on its way through a gateway: its texts checked, what is stored found, and its answer put together.

Before the piles that are sent: whatever needs no provider is answered although a quota, or the day's money, is used up.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from embatch.decisions.pile_turns import Load
from embatch.engine.coalesce.pile_asks import Part
from embatch.engine.window import check_text, text_digest
from embatch.errors import ExpiredError, OverloadedError, UsageError
from embatch.frontends.arguments import positive
from embatch.providers.work import estimate_tokens
from embatch.seen import AskSeen
from embatch.serving import Answer
from embatch.types import ItemFailure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.errors import EmbatchError
    from embatch.frontends.remote_host import RemoteHost
    from embatch.seen import Outcome
    from embatch.serving import Ask, Done, Ticket
    from embatch.types import FloatArray, ModelSpec, VectorStore


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """What asks that go together have in common."""

    host: RemoteHost
    task: str | None
    spec: ModelSpec
    store: VectorStore | None
    """Thread-safe; None without a cache."""


class Input(NamedTuple):
    """One text of an ask that must be sent."""

    text: str
    payer: str | None


class Row(NamedTuple):
    """What an input got."""

    vector: FloatArray | None
    error: EmbatchError | None = None
    """Its own fault; the others of its ask stand."""
    tokens: float = 0.0
    truncated: bool = False
    cached: bool = False


class Asking:
    """One ask. Thread-safe.

    Args:
        ask: checked.
        work: what it wants.
        done: told of the end.
    """

    def __init__(self, ask: Ask, work: Work, done: Done) -> None:
        self.ask = ask
        self.work = work
        self.done = done
        self.at = time.time()
        self.tokens = 0
        """About, once it is open."""
        self.waited_s: float | None = None
        """Until the first of it was computed; None if nothing was."""
        self._came = time.monotonic()
        self._rows: dict[int, Row] = {}
        self._missing: list[int] = []
        self._lock = threading.Lock()
        self._ticket: Ticket | None = None
        self._ended = False

    # --- its end ----------------------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """Since it came."""
        return time.monotonic() - self._came

    @property
    def left_s(self) -> float | None:
        """Of its time; None if it has as much as it takes."""
        return None if self.ask.timeout_s is None else self.ask.timeout_s - self.seconds

    def end(self) -> bool:
        """Whether it ends now: it does so once."""
        with self._lock:
            first, self._ended = not self._ended, True
        return first

    def hold(self, ticket: Ticket) -> None:
        """It waits in another place now."""
        with self._lock:
            self._ticket = ticket
            gone = self._ended
        if gone:
            ticket.cancel()

    def leave(self) -> None:
        """It waits nowhere any more."""
        with self._lock:
            ticket = self._ticket
        if ticket is not None:
            ticket.cancel()

    # --- its inputs -------------------------------------------------------------------------------------------

    def fill(self, rows: Sequence[Row]) -> None:
        """Results of what had to be sent, in its order."""
        self._rows.update(zip(self._missing, rows, strict=True))

    def open(self, known: dict[bytes, FloatArray]) -> list[Part[Input]]:
        """Take what is known or cannot be embedded; what must be sent."""
        parts: list[Part[Input]] = []
        for place, given in enumerate(self.ask.inputs):
            error = check_text(given)
            if error is not None:
                self._rows[place] = Row(None, error)
                continue
            text = str(given)
            load, truncated = self._load(text)
            self.tokens += load.tokens
            vector = known.get(text_digest(text)) if known else None
            if vector is not None:
                self._rows[place] = Row(vector, None, load.tokens, truncated, cached=True)
            else:
                self._missing.append(place)
                parts.append(Part(Input(text, self.ask.payer), load))
        return parts

    def digests(self) -> list[bytes]:
        """Of its texts that can be embedded."""
        return [text_digest(str(text)) for text in self.ask.inputs if check_text(text) is None]

    def answer(self) -> Answer:
        """Once all inputs have their result."""
        count = len(self.ask.inputs)
        rows = [self._rows[place] for place in range(count)]
        vectors: FloatArray = np.full((count, self.work.spec.dimensions), np.nan, np.float32)
        failures: list[ItemFailure] = []
        for place, row in enumerate(rows):
            if row.vector is not None:
                vectors[place] = row.vector
            elif row.error is not None:
                key = str(place) if self.ask.keys is None else self.ask.keys[place]
                failures.append(ItemFailure(row=place, key=key, error=row.error))
        seconds = self.seconds
        return Answer(
            vectors=vectors,
            tokens=round(sum(row.tokens for row in rows)),
            failures=tuple(failures),
            truncated=sum(row.truncated for row in rows),
            cached=sum(row.cached for row in rows),
            waited_s=seconds if self.waited_s is None else self.waited_s,
            seconds=seconds,
        )

    def seen(self, outcome: Answer | EmbatchError | None, model: str) -> AskSeen:
        """What an observer is told; None stands for an ask that was cancelled."""
        answer = outcome if isinstance(outcome, Answer) else None
        seconds = self.seconds
        return AskSeen(
            at=self.at,
            seconds=seconds,
            waited_s=seconds if self.waited_s is None else self.waited_s,
            inputs=len(self.ask.inputs),
            tokens=self.tokens if answer is None else answer.tokens,
            priority=self.ask.priority,
            outcome=outcome_of(outcome),
            error="" if answer is not None or outcome is None else type(outcome).__name__,
            cached=0 if answer is None else answer.cached,
            model=model,
        )

    def _load(self, text: str) -> tuple[Load, bool]:
        spec, model = self.work.spec, self.work.host.backend
        estimate = estimate_tokens(model.facts, text)
        if spec.prompt:
            estimate += estimate_tokens(model.facts, spec.prompt)
        tokens = model.ratio.correct(estimate)
        truncated = spec.overlong == "truncate" and tokens > spec.max_tokens
        size = len(text) if text.isascii() else len(text.encode())
        return Load(1, min(tokens, spec.max_tokens) if truncated else tokens, size), truncated


def check(ask: Ask) -> None:
    """Refuse an ask that makes no sense.

    Raises:
        UsageError: nothing is asked for, keys do not fit, or token ids are given.
    """
    positive(dimensions=ask.dimensions)
    count = len(ask.inputs)
    if not count:
        raise UsageError("an ask needs at least one input")
    if ask.keys is not None and len(ask.keys) != count:
        raise UsageError(f"there are {count} inputs but {len(ask.keys)} keys")
    if any(isinstance(value, list | tuple | np.ndarray) for value in ask.inputs):
        raise UsageError(
            "token ids are for models on this machine: this one is a provider's, which takes texts",
            hint="Send the texts themselves.",
        )


def outcome_of(outcome: Answer | EmbatchError | None) -> Outcome:
    """How an ask ended, in one word; None stands for one that was cancelled."""
    match outcome:
        case None:
            return "cancelled"
        case Answer():
            return "answered"
        case OverloadedError():
            return "refused"
        case ExpiredError():
            return "expired"
        case _:
            return "failed"
