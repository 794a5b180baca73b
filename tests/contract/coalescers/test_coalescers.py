"""What every coalescer promises to those who ask: their own vectors, in order, and one end whatever happens."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.doubles import Gate
from tests.waiters import WAIT_S, Asked, Watcher

from embatch.errors import BackendError, EmbatchError, ExpiredError, OverloadedError, UsageError
from embatch.serving import Answer, Ask, Priority

if TYPE_CHECKING:
    from tests.contract.coalescers.conftest import Kind

    from embatch.seen import Seen
    from embatch.serving import Coalescer


def held(kind: Kind, **options: Any) -> tuple[Coalescer, Asked, Gate]:
    """A coalescer whose engine is busy with a first ask until the gate opens."""
    kind.gate = Gate()
    coalescer = kind.open(**options)
    first = Asked(coalescer, "first")
    assert kind.gate.held.wait(WAIT_S)
    return coalescer, first, kind.gate


def test_each_ask_gets_its_own_vectors_in_order(kind: Kind) -> None:
    """Whatever shares its batch, row i belongs to input i."""
    coalescer, first, gate = held(kind)
    asked = [Asked(coalescer, *[f"ask {n} text {i}" for i in range(1 + n % 4)]) for n in range(12)]
    gate.open.set()
    for number, one in enumerate(asked):
        for row, vector in enumerate(one.answer.vectors):
            assert np.allclose(vector, kind.vector(f"ask {number} text {row}"), atol=1e-6)
        assert one.answer.tokens > 0
        assert one.answer.seconds >= one.answer.waited_s >= 0
    assert np.isfinite(first.answer.vectors).all()


def test_inputs_that_fail_are_named_and_the_others_stand(kind: Kind) -> None:
    """Failures carry the ask's own keys and rows."""
    asked = Asked(kind.open(), "good", "", None, "fine", keys=["a", "b", "c", "d"])
    assert [(failure.row, failure.key) for failure in asked.answer.failures] == [(1, "b"), (2, "c")]
    assert np.isnan(asked.answer.vectors[[1, 2]]).all()
    assert np.allclose(asked.answer.vectors[3], kind.vector("fine"), atol=1e-6)


def test_asks_that_make_no_sense_are_refused_at_the_door(kind: Kind) -> None:
    """No inputs, keys that do not fit, and dimensions that the model does not have."""
    coalescer = kind.open()
    for bad in (Ask(inputs=[]), Ask(inputs=["a"], keys=["1", "2"]), Ask(inputs=["a"], dimensions=10**6)):
        with pytest.raises(UsageError):
            coalescer.submit(bad, lambda _: None)


def test_a_full_queue_refuses_and_keeps_what_it_has(kind: Kind) -> None:
    """What finds no room is told when to come back; the others are answered, and then there is room again."""
    watcher = Watcher()
    coalescer, _, gate = held(kind, queue=5, observer=watcher)
    asked = [Asked(coalescer, f"text {i}") for i in range(5)]
    with pytest.raises(OverloadedError) as refusal:
        Asked(coalescer, "one more")
    assert refusal.value.retry_after_s > 0
    assert coalescer.snapshot().refused == 1
    gate.open.set()
    assert all(np.isfinite(one.answer.vectors).all() for one in asked)
    assert np.isfinite(Asked(coalescer, "one more").answer.vectors).all()
    coalescer.close()
    outcomes = [seen.outcome for seen in watcher.asks]
    assert outcomes.count("refused") == 1
    assert outcomes.count("answered") == 7


def test_a_cancelled_ask_is_told_nothing_and_gives_its_room_back(kind: Kind) -> None:
    """Whoever waits in its stead is not hurt by it."""
    coalescer, _, gate = held(kind, queue=2)
    gone = Asked(coalescer, "gone 1", "gone 2")
    gone.ticket.cancel()
    gone.ticket.cancel()
    stays = Asked(coalescer, "stays 1", "stays 2")
    gate.open.set()
    assert np.allclose(stays.answer.vectors[1], kind.vector("stays 2"), atol=1e-6)
    assert gone.told == []
    assert coalescer.snapshot().cancelled == 1


def test_time_that_is_over_is_told_while_the_engine_hangs(kind: Kind) -> None:
    """A time limit holds although nothing ever comes back."""
    coalescer, _, _ = held(kind)
    late = Asked(coalescer, "late", timeout_s=0.05)
    assert isinstance(late.result, ExpiredError)
    assert coalescer.snapshot().expired == 1


def test_closing_with_time_answers_everybody(kind: Kind) -> None:
    """What was let in is answered, and nothing more is let in."""
    coalescer, first, gate = held(kind)
    asked = [Asked(coalescer, f"text {i}", priority=list(Priority)[i % 2]) for i in range(20)]
    gate.open.set()
    coalescer.close(drain_s=WAIT_S)
    assert all(np.isfinite(one.answer.vectors).all() for one in [first, *asked])
    with pytest.raises(EmbatchError):
        Asked(coalescer, "after")
    assert not coalescer.snapshot().alive


def test_closing_without_time_leaves_nobody_waiting(kind: Kind) -> None:
    """Every waiter hears of the end."""
    coalescer, _, gate = held(kind)
    asked = [Asked(coalescer, f"text {i}") for i in range(10)]
    threading.Timer(0.05, gate.open.set).start()
    coalescer.close()
    assert all(isinstance(one.result, Answer | BackendError) for one in asked)


def test_jobs_are_done_as_well(kind: Kind) -> None:
    """What has the lower priority still gets its vectors."""
    coalescer, _, gate = held(kind)
    job = Asked(coalescer, *[f"row {i}" for i in range(30)], priority=Priority.BATCH)
    quick = [Asked(coalescer, f"quick {i}") for i in range(10)]
    gate.open.set()
    assert np.allclose(job.answer.vectors[29], kind.vector("row 29"), atol=1e-6)
    assert all(np.isfinite(one.answer.vectors).all() for one in quick)


def test_its_counts_add_up(kind: Kind) -> None:
    """After the rush nothing waits, nothing runs, and every ask is in one of the counts."""
    coalescer, first, gate = held(kind)
    asked = [Asked(coalescer, f"text {i}") for i in range(30)]
    asked[3].ticket.cancel()
    gate.open.set()
    for one in [first, *asked[:3], *asked[4:]]:
        assert np.isfinite(one.answer.vectors).all()
    coalescer.close(drain_s=WAIT_S)
    now = coalescer.snapshot()
    assert sum(now.waiting.values()) == now.running == now.waiting_tokens == 0
    assert now.asks == 31 == now.answered + now.cancelled


def test_observers_that_raise_disturb_nobody(kind: Kind) -> None:
    """Who looks on badly costs no ask its vectors, neither those under way nor those that come later."""

    class Broken(Watcher):
        def see(self, seen: Seen) -> None:
            super().see(seen)
            raise RuntimeError("cannot look")

    watcher = Broken()
    coalescer, first, gate = held(kind, observer=watcher)
    beside = Asked(coalescer, "beside")
    gate.open.set()
    for asked in (first, beside, Asked(coalescer, "later")):
        assert np.isfinite(asked.answer.vectors).all()
    assert coalescer.snapshot().alive
    assert watcher.seen


def test_callers_that_raise_disturb_nobody(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    """Their asks have ended and are counted; the asks beside them and after them get their vectors."""

    def broken(_: object) -> None:
        raise RuntimeError("cannot take it")

    coalescer, first, gate = held(kind)
    coalescer.submit(Ask(inputs=("lost",)), broken)
    beside = Asked(coalescer, "beside")
    gate.open.set()
    for asked in (first, beside, Asked(coalescer, "later")):
        assert np.isfinite(asked.answer.vectors).all()
    coalescer.close(drain_s=WAIT_S)
    now = coalescer.snapshot()
    assert (now.asks, now.answered) == (4, 4)
    assert "cannot take it" in caplog.text
