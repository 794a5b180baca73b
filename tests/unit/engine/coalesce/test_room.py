"""What waits, and what of it makes the next batch while both kinds do."""

from __future__ import annotations

from itertools import count

import pytest

from embatch.decisions.planning import Budget
from embatch.decisions.turns import Turns
from embatch.engine.coalesce.asks import Waiting
from embatch.engine.coalesce.opening import Opened
from embatch.engine.coalesce.room import Room
from embatch.engine.coalesce.units import Text, Unit
from embatch.serving import Ask, Priority
from embatch.types import CostRule, Limits, ModelSpec

SPEC = ModelSpec(model="fake", revision="1", dimensions=4, max_tokens=256)
LIMITS = Limits(budgets=(64, 4096), first_budget=1024, cost=CostRule.PADDED)
SPEED = 5000
"""Tokens a second of one stream."""
_numbers = count()


def room_with(lengths: dict[Priority, list[int]], *, known_speed: bool = True) -> Room:
    """Two streams; units of so many tokens are ready, each of an ask of its own that came at 100 s."""
    turns = Turns(batch_share=0.1, streams=2)
    if known_speed:
        turns.measured(Priority.BATCH, SPEED, 1.0, now=90.0)
    room = Room(LIMITS, 2, turns)
    for kind, tokens in lengths.items():
        for length in tokens:
            ask = Ask(inputs=["text"], priority=kind)
            waiting = Waiting.of(ask, lambda _: None, SPEC, now=100.0, wall=0.0, tokens=length)
            turns.arrived(kind, 100.0)
            room.add(waiting)
            room.to_open(kind, LIMITS.first_budget, 100.0)
            text = Text(SPEC, str(next(_numbers)).encode(), [(waiting, 0)])
            room.opened(kind, Opened(units=[Unit(text, None, length)]))
    return room


def formed(room: Room, kind: Priority) -> list[int]:
    """Tokens of the units of the next batch."""
    batch = room.form(kind, lambda: Budget(tokens=1024), 100.0)
    assert batch is not None
    assert batch.budget == Budget(tokens=1024)  # what is learned of budgets is about the budget in use
    return [int(length) for length in batch.lengths]


def test_beside_a_job_many_long_asks_are_not_one_long_batch() -> None:
    """A stream computes a tenth of a second at most; the next one that is free goes on with the rest."""
    room = room_with({Priority.INTERACTIVE: [200] * 5, Priority.BATCH: [100]})
    assert sorted(len(formed(room, Priority.INTERACTIVE)) for _ in range(3)) == [1, 2, 2]


def test_a_long_text_goes_beside_a_job_whatever_its_length() -> None:
    """A text that is longer than what a batch may hold is a batch of its own."""
    room = room_with({Priority.INTERACTIVE: [900, 900], Priority.BATCH: [100]})
    assert formed(room, Priority.INTERACTIVE) == [900]


@pytest.mark.parametrize(
    ("lengths", "known_speed"),
    [
        ({Priority.INTERACTIVE: [200] * 10}, True),
        ({Priority.INTERACTIVE: [200] * 5, Priority.BATCH: [100]}, False),
    ],
)
def test_without_a_job_or_a_known_speed_asks_fill_the_budget(
    lengths: dict[Priority, list[int]], known_speed: bool
) -> None:
    """Nothing else bounds them."""
    assert formed(room_with(lengths, known_speed=known_speed), Priority.INTERACTIVE) == [200] * 5


def test_batches_of_a_job_are_short_beside_an_ask() -> None:
    """The least there is, while interactive asks hardly use the streams; the whole budget without them."""
    beside = room_with({Priority.INTERACTIVE: [10], Priority.BATCH: [32] * 100})
    assert formed(beside, Priority.BATCH) == [32, 32]
    assert formed(room_with({Priority.BATCH: [32] * 100}), Priority.BATCH) == [32] * 32
