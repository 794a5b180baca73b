"""Who is let in to wait."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from embatch.decisions.admission import Queue, admit

QUEUES = st.builds(
    Queue,
    inputs=st.integers(0, 5000),
    tokens=st.integers(0, 10**6),
    room=st.integers(1, 4096),
    tokens_per_s=st.floats(0.0, 1e6),
)


@given(QUEUES, st.integers(1, 3000), st.none() | st.floats(0.01, 100.0))
def test_what_is_let_in_fits_or_is_alone(queue: Queue, inputs: int, timeout_s: float | None) -> None:
    """Nothing is let in beyond the room, unless nothing else waits; what is refused is told when to come back."""
    refusal = admit(queue, inputs, timeout_s=timeout_s)
    if refusal is None:
        assert queue.inputs + inputs <= queue.room or queue.inputs == 0
        assert timeout_s is None or queue.wait_s <= timeout_s
    else:
        assert 0.1 <= refusal.retry_after_s <= 600.0
        assert refusal.full == (queue.inputs > 0 and queue.inputs + inputs > queue.room)


def test_a_full_queue_says_when_there_is_room() -> None:
    """Half of a queue that takes ten seconds is empty in five."""
    queue = Queue(inputs=1000, tokens=10_000, room=1000, tokens_per_s=1000.0)
    refusal = admit(queue, 500, timeout_s=None)
    assert refusal is not None
    assert refusal.retry_after_s == 5.0


def test_what_could_not_be_done_in_time_is_refused_at_once() -> None:
    """Ten seconds of work before it are too much for an ask that has one."""
    queue = Queue(inputs=10, tokens=10_000, room=1000, tokens_per_s=1000.0)
    refusal = admit(queue, 1, timeout_s=1.0)
    assert refusal is not None
    assert not refusal.full
    assert refusal.retry_after_s == 9.0


def test_an_ask_larger_than_the_queue_is_let_in_when_nothing_waits() -> None:
    """Otherwise it could never be."""
    queue = Queue(inputs=0, tokens=0, room=10, tokens_per_s=0.0)
    assert admit(queue, 100, timeout_s=None) is None
