"""What a coalescer has done so far, in numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from embatch.serving import Snapshot

if TYPE_CHECKING:
    from embatch.engine.coalesce.room import Room
    from embatch.engine.tuners import Tuner
    from embatch.seen import Outcome
    from embatch.types import BatchRecord


@dataclass(slots=True)
class Counts:
    """Since a coalescer was opened; under its lock."""

    asks: int = 0
    inputs: int = 0
    batches: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    device_seconds: float = 0.0
    running: int = 0
    """Units in batches that are being computed now."""
    outcomes: Counter[Outcome] = field(default_factory=Counter)

    def computed(self, record: BatchRecord, *, padded_tokens: int) -> None:
        """A batch came back with vectors."""
        self.batches += 1
        self.inputs += record.items
        self.tokens += record.tokens
        self.padded_tokens += padded_tokens
        self.device_seconds += record.seconds

    def snapshot(
        self, room: Room, tuner: Tuner, *, bound: int, streams: int, tokens_per_s: float, alive: bool
    ) -> Snapshot:
        """All of it at this moment."""
        return Snapshot(
            waiting=dict(room.inputs),
            waiting_tokens=sum(room.tokens.values()),
            room=bound,
            running=self.running,
            streams=streams,
            asks=self.asks,
            answered=self.outcomes["answered"],
            refused=self.outcomes["refused"],
            expired=self.outcomes["expired"],
            cancelled=self.outcomes["cancelled"],
            failed=self.outcomes["failed"],
            inputs=self.inputs,
            batches=self.batches,
            tokens=self.tokens,
            padded_tokens=self.padded_tokens,
            device_seconds=self.device_seconds,
            budget=tuner.budget,
            settled=bool(getattr(tuner, "settled", True)),
            tokens_per_s=tokens_per_s,
            alive=alive,
        )
