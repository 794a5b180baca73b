"""Asks of many callers over one backend: batches shared, every waiter answered, whatever breaks."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.doubles import FakeBackend, Faults, Gate
from tests.waiters import WAIT_S, Got, Watcher

from embatch.decisions.tuning import BudgetTuner
from embatch.engine.coalesce import local
from embatch.engine.coalesce.local import LocalCoalescer
from embatch.engine.outcomes import GIVE_UP
from embatch.engine.tuners import FixedCount, SharedTuner
from embatch.errors import (
    BackendClosedError,
    BackendError,
    BadVectorError,
    EmbatchError,
    EmptyTextError,
    ExpiredError,
    ItemBackendError,
    NotTextError,
    OverloadedError,
    TooLongError,
    UsageError,
)
from embatch.serving import Answer, Ask, Priority

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embatch.engine.coalesce.local import LocalTicket
    from embatch.seen import Seen
    from embatch.types import ModelSpec


@contextmanager
def coalescer(backend: FakeBackend, **options: Any) -> Iterator[LocalCoalescer]:
    specs: dict[object, ModelSpec] = {}

    def spec_for(ask: Ask) -> ModelSpec:
        prompt = backend.prompts[ask.task] if ask.task else ""
        spec = replace(
            backend.spec,
            prompt=prompt,
            dimensions=ask.dimensions or backend.dim,
            overlong=ask.overlong or "truncate",
        )
        return specs.setdefault(spec, spec)

    low, high = backend.budgets
    tuner = SharedTuner(BudgetTuner(low=low, high=high, first=backend.first_budget))
    settings: dict[str, Any] = {"queue": 1000, "batch_share": 0.1, "tuner": tuner} | options
    opened = LocalCoalescer(backend, spec_for, settings.pop("tuner"), **settings)
    try:
        yield opened
    finally:
        opened.close()


def ask(*texts: Any, **options: Any) -> Ask:
    return Ask(inputs=list(texts), **options)


def test_an_ask_gets_its_vectors_in_order() -> None:
    """Each input gets the vector of its own text."""
    backend, got = FakeBackend(), Got()
    texts = [f"text {i}" for i in range(50)]
    with coalescer(backend) as opened:
        opened.submit(ask(*texts), got)
        assert np.array_equal(got.answer.vectors, np.stack([backend.vector(text) for text in texts]))
    assert got.answer.tokens == 4 * 50
    assert not got.answer.failures


def test_asks_that_wait_share_a_batch() -> None:
    """What comes in while the backend is busy goes together when it is free."""
    gate = Gate()
    backend = FakeBackend(faults=Faults(before_embed=gate))
    gots = [Got() for _ in range(20)]
    with coalescer(backend) as opened:
        opened.submit(ask("first"), gots[0])
        assert gate.held.wait(WAIT_S)
        for number, got in enumerate(gots[1:]):
            opened.submit(ask(f"text {number}"), got)
        gate.open.set()
        for number, got in enumerate(gots[1:]):
            assert np.array_equal(got.answer.vectors[0], backend.vector(f"text {number}"))
    assert [len(batch) for batch in backend.batches] == [1, 19]


def test_equal_texts_of_different_asks_are_computed_once() -> None:
    """A text that several asks have at the same time takes one row of a batch."""
    gate = Gate()
    backend = FakeBackend(faults=Faults(before_embed=gate))
    gots = [Got() for _ in range(6)]
    with coalescer(backend) as opened:
        opened.submit(ask("first"), gots[0])
        assert gate.held.wait(WAIT_S)
        for got in gots[1:]:
            opened.submit(ask("the same"), got)
        gate.open.set()
        assert all(np.array_equal(got.answer.vectors[0], backend.vector("the same")) for got in gots[1:])
        assert all(got.answer.tokens == 4 for got in gots[1:])
    assert backend.batches == [["first"], ["the same"]]


def test_prompts_and_dimensions_of_asks_differ_in_one_batch() -> None:
    """What an ask wants of its vectors is its own, whoever shares its batch."""
    gate = Gate()
    backend = FakeBackend(faults=Faults(before_embed=gate))
    first, plain, query, short = Got(), Got(), Got(), Got()
    with coalescer(backend) as opened:
        opened.submit(ask("first"), first)
        assert gate.held.wait(WAIT_S)
        opened.submit(ask("a b"), plain)
        opened.submit(ask("a b", task="query"), query)
        opened.submit(ask("c d", dimensions=3), short)
        gate.open.set()
        assert np.array_equal(plain.answer.vectors[0], backend.vector("a b"))
        assert np.array_equal(query.answer.vectors[0], backend.vector("a b", prompt="query: "))
        cut = backend.vector("c d")[:3]
        assert np.allclose(short.answer.vectors[0], cut / np.linalg.norm(cut))
    assert backend.calls == 2


def test_bad_inputs_fail_alone_with_their_keys() -> None:
    """What is no text is named; the other inputs of the same ask stand."""
    backend, got = FakeBackend(), Got()
    with coalescer(backend) as opened:
        opened.submit(ask("good", "", 7, "fine", keys=["a", "b", "c", "d"]), got)
        answer = got.answer
    assert [(failure.row, failure.key, type(failure.error)) for failure in answer.failures] == [
        (1, "b", EmptyTextError),
        (2, "c", NotTextError),
    ]
    assert np.isfinite(answer.vectors[[0, 3]]).all()
    assert np.isnan(answer.vectors[[1, 2]]).all()


def test_an_ask_without_a_usable_input_is_answered() -> None:
    """An ask of which nothing reaches the backend ends all the same."""
    backend, got = FakeBackend(), Got()
    with coalescer(backend) as opened:
        opened.submit(ask("", " "), got)
        assert len(got.answer.failures) == 2
        assert sum(opened.snapshot().waiting.values()) == 0
    assert backend.calls == 0


@pytest.mark.parametrize(
    ("faults", "error"),
    [(Faults(raise_for=["poison"]), ItemBackendError), (Faults(nan_for=["poison"]), BadVectorError)],
    ids=["raises", "nan"],
)
def test_a_poisoned_text_hurts_only_its_own_ask(faults: Faults, error: type[EmbatchError]) -> None:
    """The batch that it spoils is taken apart: its ask is told, all others have their vectors."""
    gate = Gate()
    backend = FakeBackend(faults=replace(faults, before_embed=gate))
    gots, texts = [Got() for _ in range(16)], [f"text {i}" for i in range(16)]
    texts[7] = "poison"
    with coalescer(backend) as opened:
        opened.submit(ask("first"), Got())
        assert gate.held.wait(WAIT_S)
        for text, got in zip(texts, gots, strict=True):
            opened.submit(ask(text), got)
        gate.open.set()
        for text, got in zip(texts, gots, strict=True):
            if text == "poison":
                assert [type(failure.error) for failure in got.answer.failures] == [error]
            else:
                assert np.array_equal(got.answer.vectors[0], backend.vector(text))


def test_batches_that_do_not_fit_are_halved() -> None:
    """Out of memory ends as smaller batches, not as an error."""
    backend, got = FakeBackend(faults=Faults(oom_above_tokens=40)), Got()
    texts = [f"text {i}" for i in range(40)]
    with coalescer(backend) as opened:
        opened.submit(ask(*texts), got)
        assert np.array_equal(got.answer.vectors, np.stack([backend.vector(text) for text in texts]))


def test_everybody_is_told_when_the_backend_dies() -> None:
    """An engine that fails at everything is given up: all waiters get its error, and newcomers at once."""
    backend = FakeBackend(streams=2, faults=Faults(fail_calls=range(1, 1000)))
    gots = [Got() for _ in range(3 * GIVE_UP)]
    with coalescer(backend) as opened:
        refused = 0
        for number, got in enumerate(gots):
            try:
                opened.submit(ask(f"text {number}"), got)
            except BackendError:
                refused += 1
                got(BackendError("not let in"))
        for got in gots:
            result = got.result
            assert isinstance(result, BackendError) or (isinstance(result, Answer) and result.failures)
        with pytest.raises(BackendError, match="failed"):
            opened.submit(ask("one more"), Got())
        assert not opened.snapshot().alive


def test_a_backend_that_was_closed_under_it_ends_all_asks() -> None:
    """Somebody closing the model leaves no waiter behind."""
    backend, got = FakeBackend(), Got()
    backend.closed = True
    with coalescer(backend) as opened:
        opened.submit(ask("text"), got)
        assert isinstance(got.result, BackendClosedError)


def test_a_tokeniser_that_breaks_ends_only_those_asks() -> None:
    """What fails before any batch is told to those whose texts were made ready, and the next ask works."""

    class Breaking(FakeBackend):
        def tokenize(self, texts: Any, *, prompt: str = "") -> Any:
            if "break" in texts:
                raise RuntimeError("the tokeniser broke")
            return super().tokenize(texts, prompt=prompt)

    backend, broken, good = Breaking(), Got(), Got()
    with coalescer(backend) as opened:
        opened.submit(ask("break"), broken)
        assert isinstance(broken.result, BackendError)
        opened.submit(ask("fine"), good)
        assert np.array_equal(good.answer.vectors[0], backend.vector("fine"))
        assert sum(opened.snapshot().waiting.values()) == 0


def test_a_full_queue_refuses_with_the_time_to_come_back() -> None:
    """What does not fit is refused at once, and what was let in is not touched."""
    gate = Gate()
    backend, watcher = FakeBackend(faults=Faults(before_embed=gate)), Watcher()
    gots = [Got() for _ in range(11)]
    with coalescer(backend, queue=10, observer=watcher) as opened:
        opened.submit(ask("first"), gots[0])
        assert gate.held.wait(WAIT_S)
        for number, got in enumerate(gots[1:]):
            opened.submit(ask(f"text {number}"), got)
        with pytest.raises(OverloadedError) as refusal:
            opened.submit(ask("too much"), Got())
        assert refusal.value.retry_after_s > 0
        assert opened.snapshot().waiting[Priority.INTERACTIVE] == 10
        assert opened.snapshot().refused == 1
        gate.open.set()
        assert all(np.isfinite(got.answer.vectors).all() for got in gots)
    assert [one.outcome for one in watcher.asks].count("refused") == 1


def test_a_cancelled_ask_costs_nothing() -> None:
    """What nobody waits for is not computed, and its place in the queue is free at once."""
    gate = Gate()
    backend, gone, stays = FakeBackend(faults=Faults(before_embed=gate)), Got(), Got()
    with coalescer(backend, queue=5) as opened:
        opened.submit(ask("first"), Got())
        assert gate.held.wait(WAIT_S)
        ticket = opened.submit(ask("gone 1", "gone 2", "gone 3", "gone 4", "gone 5"), gone)
        ticket.cancel()
        ticket.cancel()
        assert opened.snapshot().waiting[Priority.INTERACTIVE] == 0
        opened.submit(ask("stays"), stays)
        gate.open.set()
        assert np.array_equal(stays.answer.vectors[0], backend.vector("stays"))
    assert backend.batches == [["first"], ["stays"]]
    assert gone.told == []


@pytest.mark.parametrize("overlong", ["truncate", "pool"])
def test_what_is_ready_is_not_computed_for_an_ask_that_is_cancelled(overlong: str) -> None:
    """Neither other texts of it, nor the other pieces of its one text: one batch was under way, and no more comes."""
    gate = Gate()
    backend = FakeBackend(faults=Faults(before_embed=gate), max_tokens=8)
    texts = [" ".join(f"w{i}" for i in range(15))] if overlong == "pool" else ["a", "b", "c"]
    stays = Got()
    with coalescer(backend, tuner=FixedCount(1)) as opened:
        ticket = opened.submit(ask(*texts, overlong=overlong), Got())
        assert gate.held.wait(WAIT_S)
        ticket.cancel()
        opened.submit(ask("stays"), stays)
        gate.open.set()
        assert np.array_equal(stays.answer.vectors[0], backend.vector("stays"))
    assert len(backend.batches) == 2
    assert backend.batches[1] == ["stays"]


def test_a_text_that_another_ask_wants_too_outlives_a_cancellation() -> None:
    """Sharing a row with somebody who leaves harms nobody."""
    gate = Gate()
    backend, gone, stays = FakeBackend(faults=Faults(before_embed=gate)), Got(), Got()
    with coalescer(backend) as opened:
        opened.submit(ask("first"), Got())
        assert gate.held.wait(WAIT_S)
        ticket = opened.submit(ask("shared"), gone)
        opened.submit(ask("shared"), stays)
        ticket.cancel()
        gate.open.set()
        assert np.array_equal(stays.answer.vectors[0], backend.vector("shared"))
    assert gone.told == []


@pytest.mark.parametrize("linger_s", [0.0, 60.0])
def test_an_ask_whose_time_is_over_is_told_even_if_the_backend_hangs(
    linger_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A waiter with a time limit hears of its end though no stream ever comes back, the first one and a later one."""
    monkeypatch.setattr(
        local, "_LINGER_S", linger_s
    )  # whether it sleeps between the asks, or looks by itself
    gate = Gate()
    backend, first, second = FakeBackend(faults=Faults(before_embed=gate)), Got(), Got()
    with coalescer(backend) as opened:
        opened.submit(ask("text", timeout_s=0.05), first)
        assert isinstance(first.result, ExpiredError)
        opened.submit(ask("other text", timeout_s=0.05), second)
        assert isinstance(second.result, ExpiredError)
        assert opened.snapshot().expired == 2
        gate.open.set()
    assert len(first.told) == len(second.told) == 1


def test_closing_drains_what_is_in_and_refuses_what_comes() -> None:
    """With time to drain, everything that was let in is answered."""
    backend = FakeBackend(faults=Faults(delay_s=0.002), first_budget=16)
    gots = [Got() for _ in range(30)]
    with coalescer(backend) as opened:
        for number, got in enumerate(gots):
            opened.submit(ask(f"text {number}"), got)
        opened.close(drain_s=WAIT_S)
        with pytest.raises(BackendClosedError):
            opened.submit(ask("late"), Got())
    assert all(np.isfinite(got.answer.vectors).all() for got in gots)


def test_closing_without_time_tells_everybody() -> None:
    """What cannot be done any more ends with an error, not with silence."""
    gate = Gate()
    backend = FakeBackend(faults=Faults(before_embed=gate))
    gots = [Got() for _ in range(5)]
    with coalescer(backend) as opened:
        for number, got in enumerate(gots):
            opened.submit(ask(f"text {number}"), got)
        assert gate.held.wait(WAIT_S)
        threading.Timer(0.05, gate.open.set).start()
        opened.close()
        assert all(isinstance(got.result, BackendClosedError) for got in gots)


def test_interactive_asks_overtake_a_job() -> None:
    """What somebody waits for goes before what a job has had waiting all along."""
    gate = Gate()
    backend = FakeBackend(faults=Faults(before_embed=gate), first_budget=16)
    job, quick = Got(), Got()
    with coalescer(backend) as opened:
        opened.submit(ask("first"), Got())
        assert gate.held.wait(WAIT_S)
        opened.submit(ask(*[f"job {i}" for i in range(40)], priority=Priority.BATCH), job)
        opened.submit(ask("quick"), quick)
        gate.open.set()
        assert np.isfinite(job.answer.vectors).all()
        assert np.isfinite(quick.answer.vectors).all()
    assert backend.batches.index(["quick"]) <= 2


def test_overlong_texts_are_cut_refused_or_averaged_as_the_ask_wants() -> None:
    """Each ask decides for itself what becomes of texts that the model does not take."""
    backend = FakeBackend(max_tokens=8)
    long = " ".join(f"w{i}" for i in range(15))
    cut, refused, pooled = Got(), Got(), Got()
    with coalescer(backend) as opened:
        opened.submit(ask(long), cut)
        opened.submit(ask(long, overlong="error"), refused)
        opened.submit(ask(long, overlong="pool"), pooled)
        assert cut.answer.truncated == 1
        assert np.array_equal(cut.answer.vectors[0], backend.vector(long))
        assert [type(failure.error) for failure in refused.answer.failures] == [TooLongError]
        pieces = [backend.vector(piece) for piece in backend.split(long)]
        weights = [8.0, 8.0, 5.0]
        mean = sum(weight * piece for weight, piece in zip(weights, pieces, strict=True))
        assert np.allclose(pooled.answer.vectors[0], mean / np.linalg.norm(mean), atol=1e-6)


def test_token_ids_are_refused_where_there_is_no_tokeniser_for_them() -> None:
    """A backend that takes text only says so, for that input alone."""
    backend, got = FakeBackend(), Got()
    with coalescer(backend) as opened:
        opened.submit(ask([1, 2, 3], "text"), got)
        assert [failure.row for failure in got.answer.failures] == [0]


def test_known_vectors_are_not_computed_and_new_ones_are_kept() -> None:
    """With a store, a text that was asked for before costs no batch."""
    kept: dict[bytes, Any] = {}

    class Store:
        def get(self, digests: Any) -> Any:
            return {digest: kept[digest] for digest in digests if digest in kept}

        def put(self, digests: Any, vectors: Any) -> None:
            kept.update(zip(digests, vectors, strict=True))

        def close(self) -> None: ...

    store = Store()
    for round_number in range(2):
        backend, got = FakeBackend(), Got()
        with coalescer(backend, store_for=lambda _: store) as opened:
            opened.submit(ask("one", "two", "one"), got)
            assert np.array_equal(got.answer.vectors[1], backend.vector("two"))
            assert np.array_equal(got.answer.vectors[0], got.answer.vectors[2])
            assert got.answer.cached == 3 * round_number
        assert backend.calls == 1 - round_number


def test_observers_hear_of_batches_and_of_every_end() -> None:
    """Metrics get each batch with its asks, and each ask with its outcome."""
    backend, watcher, got = FakeBackend(), Watcher(), Got()
    with coalescer(backend, observer=watcher) as opened:
        opened.submit(ask("one", "two"), got)
        assert got.answer.seconds >= got.answer.waited_s >= 0
    assert [(seen.items, seen.asks, seen.error) for seen in watcher.batches] == [(2, 1, "")]
    assert [(seen.outcome, seen.inputs) for seen in watcher.asks] == [("answered", 2)]


def test_who_cannot_be_told_and_who_looks_on_badly_disturb_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """A caller's own code that raises is logged; the asks beside it are answered, and those that come later."""

    class Broken(Watcher):
        def see(self, seen: Seen) -> None:
            super().see(seen)
            raise RuntimeError("cannot look")

    def cannot_hear(_: object) -> None:
        raise RuntimeError("cannot hear")

    gate, watcher = Gate(), Broken()
    backend = FakeBackend(faults=Faults(before_embed=gate))
    beside, later = Got(), Got()
    with coalescer(backend, observer=watcher) as opened:
        opened.submit(ask("first"), cannot_hear)
        assert gate.held.wait(WAIT_S)
        opened.submit(ask("second"), cannot_hear)
        opened.submit(ask("beside"), beside)
        gate.open.set()
        assert np.isfinite(beside.answer.vectors).all()
        opened.submit(ask("later"), later)
        assert np.isfinite(later.answer.vectors).all()
        assert opened.snapshot().alive
    assert len(watcher.asks) == 4
    assert caplog.text.count("an observer has failed") == 1
    assert caplog.text.count("could not be told") == 2


def test_halves_that_nobody_waits_for_any_more_are_not_computed() -> None:
    """A batch that failed is taken apart only as long as somebody wants what is in it."""
    gate = Gate()
    tickets: list[LocalTicket] = []

    def before(texts: list[str]) -> None:
        gate(texts)
        if len(texts) == 16:  # while it fails, all but the first leave
            for ticket in tickets[1:]:
                ticket.cancel()

    backend = FakeBackend(faults=Faults(before_embed=before, oom_above_tokens=60))
    stays = Got()
    with coalescer(backend) as opened:
        opened.submit(ask("first"), Got())
        assert gate.held.wait(WAIT_S)
        tickets += [opened.submit(ask(f"text {i}"), stays if not i else Got()) for i in range(16)]
        gate.open.set()
        assert np.array_equal(stays.answer.vectors[0], backend.vector("text 0"))
    assert backend.batches[-1] == ["text 0"]


def test_fixed_counts_hold_for_shared_batches() -> None:
    """A number of texts that the user has fixed bounds batches of many asks as well."""
    gate = Gate()
    backend = FakeBackend(faults=Faults(before_embed=gate))
    gots = [Got() for _ in range(9)]
    with coalescer(backend, tuner=FixedCount(4)) as opened:
        opened.submit(ask("first"), gots[0])
        assert gate.held.wait(WAIT_S)
        for number, got in enumerate(gots[1:]):
            opened.submit(ask(f"text {number}"), got)
        gate.open.set()
        assert all(np.isfinite(got.answer.vectors).all() for got in gots)
    assert max(map(len, backend.batches)) == 4


@pytest.mark.parametrize("bad", [ask(), ask("a", keys=["1", "2"])], ids=["empty", "keys"])
def test_asks_that_make_no_sense_are_refused_at_the_door(bad: Ask) -> None:
    """Nothing waits for what cannot be answered."""
    with coalescer(FakeBackend()) as opened, pytest.raises(UsageError):
        opened.submit(bad, Got())


def test_many_threads_at_once_each_get_their_own() -> None:
    """Hundreds of asks of all sizes from many threads: every row right, nothing left behind."""
    backend = FakeBackend(streams=2, first_budget=128)
    wrong: list[str] = []

    def client(number: int) -> None:
        for turn in range(12):
            texts = [f"client {number} turn {turn} text {i} " + "w " * (i % 9) for i in range(1 + turn * 2)]
            got = Got()
            opened.submit(ask(*texts, priority=list(Priority)[number % 2]), got)
            if not np.array_equal(got.answer.vectors, np.stack([backend.vector(text) for text in texts])):
                wrong.append(texts[0])

    with coalescer(backend, queue=100_000) as opened:
        threads = [threading.Thread(target=client, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        after = opened.snapshot()
    assert not wrong
    assert after.answered == after.asks == 16 * 12
    assert sum(after.waiting.values()) == 0
    assert after.running == 0
    assert after.waiting_tokens == 0
