"""Which pile goes next: the oldest, interactive ones first, jobs never starved, nothing held back for too long."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embatch.decisions.pile_turns import Load, Pile, PileTurns, Recent, Room
from embatch.serving import Priority

INTERACTIVE, BATCH = Priority.INTERACTIVE, Priority.BATCH

loads = st.builds(Load, st.integers(1, 300), st.integers(0, 10_000), st.integers(0, 40_000))
piles = st.lists(
    st.builds(
        Pile,
        st.sampled_from("abc"),
        st.sampled_from(Priority),
        st.integers(0, 10**6),
        st.floats(0, 100),
        loads,
    ),
    max_size=8,
    unique_by=(lambda pile: (pile.terms, pile.priority), lambda pile: pile.number),
)


@given(piles, st.integers(1, 64))
def test_an_idle_sender_takes_something_at_once(waiting: list[Pile], senders: int) -> None:
    """Without a window, whatever waits can go now, and it is the oldest pile of its priority."""
    turns = PileTurns(senders=senders, batch_share=0.1)
    head = turns.next(waiting, now=100.0)
    assert (head is None) == (not waiting)
    if head is not None:
        assert head.number == min(pile.number for pile in waiting if pile.priority is head.priority)
        if any(pile.priority is INTERACTIVE for pile in waiting):
            assert head.priority is INTERACTIVE


@given(piles, st.floats(0.001, 50), st.integers(1, 100), st.floats(0, 160))
def test_a_window_holds_back_what_is_neither_full_nor_old(
    waiting: list[Pile], window_s: float, full: int, now: float
) -> None:
    """What may go is full or has waited long enough; what may not has a time that lies ahead."""
    turns = PileTurns(senders=4, batch_share=0.1, window_s=window_s, full=Room(items=full))
    head = turns.next(waiting, now=now)
    ready = [pile for pile in waiting if pile.load.items >= full or pile.since + window_s <= now]
    if head is not None:
        assert head in ready
    else:
        assert not [pile for pile in ready if pile.since <= now]
    wait_s = turns.wait_s(waiting, now=now)
    assert wait_s > 0
    assert (turns.next(waiting, now=now, closing=True) is None) == (not waiting)
    if not ready and waiting:
        assert turns.next(waiting, now=now + wait_s + 1e-6) is not None


@given(st.floats(0.02, 0.6), st.integers(1, 200), st.integers(1, 200), st.integers(200, 5000))
def test_jobs_get_their_share_of_a_long_queue(
    share: float, interactive: int, room: int, waiting: int
) -> None:
    """A job's turn comes once it has earned one call, however much of it waits."""
    turns, sent = PileTurns(senders=8, batch_share=share), {INTERACTIVE: 0, BATCH: 0}
    queue = [
        Pile("a", INTERACTIVE, 2, 0.0, Load(interactive, interactive)),
        Pile("a", BATCH, 1, 0.0, Load(waiting, waiting)),
    ]
    for _ in range(100):
        head = turns.next(queue, now=1.0, room=Room(items=room))
        assert head is not None
        load = Load(min(head.load.items, room), min(head.load.items, room))
        turns.taken(head.priority, load, contended=True)
        sent[head.priority] += load.items
    total = sum(sent.values())
    assert sent[BATCH] >= share * total - interactive - room
    assert sent[BATCH] <= share * total + interactive + room


@given(st.integers(2, 64))
def test_jobs_leave_a_sender_free(senders: int) -> None:
    """Somebody interactive who comes while jobs are sent need not wait for the end of a call."""
    turns = PileTurns(senders=senders, batch_share=0.5)
    job = [Pile("a", BATCH, 1, 0.0, Load(100, 1000))]
    under_way = 0
    while turns.next(job, now=1.0, jobs_under_way=under_way) is not None:
        under_way += 1
    assert 1 <= under_way < senders


@given(loads, loads)
def test_a_room_takes_what_is_within_all_its_limits(load: Load, more: Load) -> None:
    """No limit takes everything; adding and taking away are each other's reverse."""
    assert Room().takes(load)
    assert not Room().filled(load)
    assert Room(*load).takes(load)
    assert Room(*load).filled(load)
    assert not Room(*load).takes(load.plus(more))
    assert load.plus(more).minus(more) == load


def test_speed_is_what_is_done_while_anybody_works() -> None:
    """Two senders side by side count once; idle hours count for nothing; nothing is known at first."""
    recent = Recent()
    assert recent.tokens_per_s == 0.0
    recent.began(0.0)
    recent.began(0.0)
    recent.ended(1.0, 100)
    recent.ended(1.0, 100)
    assert recent.tokens_per_s == pytest.approx(200.0, rel=0.05)
    recent.began(10_000.0)
    recent.ended(10_001.0, 200)
    assert recent.tokens_per_s == pytest.approx(200.0, rel=0.05)


def test_old_speed_is_forgotten() -> None:
    """After minutes of work at another pace, only that pace is left."""
    recent = Recent()
    for second in range(600):
        recent.began(float(second))
        recent.ended(second + 1.0, 1000 if second < 300 else 10)
    assert recent.tokens_per_s == pytest.approx(10.0, rel=0.1)


def test_nothing_held_back_means_no_time_to_wait_for() -> None:
    """The keeper then sleeps until something changes."""
    turns = PileTurns(senders=1, batch_share=0.1)
    assert turns.wait_s([Pile("a", BATCH, 1, 0.0, Load(1, 1))], now=5.0) == math.inf
