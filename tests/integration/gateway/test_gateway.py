"""A provider's model for a whole team: fewer calls, every vector right, nobody pays for another's mistake."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.integration.gateway.conftest import Vectors
from tests.waiters import WAIT_S, Asked, Watcher

from embatch.decisions.vectors import cut
from embatch.errors import (
    BackendClosedError,
    EmptyTextError,
    ExpiredError,
    GoalError,
    ItemProviderError,
    OverloadedError,
    ProviderError,
    TooLongError,
    UsageError,
)
from embatch.serving import Priority
from embatch.storage.spending import Purse

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.integration.gateway.conftest import Place

pytestmark = pytest.mark.remote


def test_two_hundred_asks_become_a_few_calls_with_every_vector_right(
    make_place: Callable[..., Place],
) -> None:
    """Single texts from many threads: each gets its own vector, bit by bit, and its own count of tokens."""
    place = make_place(scale=40.0, latency=True)
    gateway = place.open()
    texts = [f"{'word ' * (1 + i % 7)}{i}" for i in range(200)]
    expected = place.vectors(*texts)
    before = place.emulator.requests["embed"]
    billed = place.emulator.billing().tokens
    with ThreadPoolExecutor(16) as pool:
        asked = list(pool.map(lambda text: Asked(gateway, text), texts))
    answers = [one.answer for one in asked]
    for answer, vector in zip(answers, expected, strict=True):
        assert answer.vectors.shape == (1, 1536)
        assert np.array_equal(answer.vectors[0], vector)
    calls = place.emulator.requests["embed"] - before
    assert calls <= 40
    billed = place.emulator.billing().tokens - billed
    assert sum(answer.tokens for answer in answers) == pytest.approx(billed, rel=0.05)
    snapshot = gateway.snapshot()
    assert (snapshot.asks, snapshot.answered, snapshot.inputs) == (200, 200, 200)
    assert (snapshot.batches, snapshot.tokens) == (calls, billed)
    assert snapshot.dollars == pytest.approx(billed * 0.02e-6)
    assert (snapshot.waiting[Priority.INTERACTIVE], snapshot.running) == (0, 0)


def test_a_quota_is_kept_and_every_ask_is_answered_all_the_same(make_place: Callable[..., Place]) -> None:
    """What the provider refuses for now is learned from: asks pile up meanwhile, and go in full calls."""
    from embatch.emulator.options import Quotas

    place = make_place("gemini", scale=300.0, latency=True, quotas=Quotas(items=100))
    gateway = place.open(dimensions=256)
    asked: list[Asked] = []
    for _ in range(4):
        asked += [Asked(gateway, f"text {i}") for i in range(len(asked), len(asked) + 80)]
        assert asked[-1].answer.failures == ()  # waits for it: the next ones find a gateway at rest
    answers = [one.answer for one in asked]
    requests = place.emulator.requests
    assert requests.most_items() <= 2 * 100  # a full bucket, and what flows into it in a minute
    assert 1 <= requests.refused["embed"] <= 30
    assert requests["embed"] - requests.refused["embed"] < len(asked) / 5
    place.emulator.set_quotas(Quotas())
    expected = place.vectors(*(f"text {i}" for i in range(len(asked))), dimensions=256)
    assert all(np.array_equal(a.vectors[0], v) for a, v in zip(answers, expected, strict=True))


def test_a_refused_text_hurts_its_own_ask_only(place: Place) -> None:
    """The others of its call have their vectors, and so have the others of its ask; failures carry the ask's keys."""
    from embatch.emulator import Fault

    gateway = place.open()
    place.emulator.fault(Fault(kind="status", status=400, where="embed", match="poison", every=1))
    fine = [Asked(gateway, f"fine {i}") for i in range(10)]
    hurt = Asked(gateway, "a", "poison", "b", " ", keys=["k0", "k1", "k2", "k3"])
    fine += [Asked(gateway, f"fine {i}") for i in range(10, 20)]
    expected = place.vectors(*(f"fine {i}" for i in range(20)), "a", "b")
    for one, vector in zip(fine, expected, strict=False):
        assert np.array_equal(one.answer.vectors[0], vector)
    answer = hurt.answer
    assert [(failure.row, failure.key) for failure in answer.failures] == [(1, "k1"), (3, "k3")]
    assert isinstance(answer.failures[0].error, ItemProviderError)
    assert isinstance(answer.failures[1].error, EmptyTextError)
    assert np.array_equal(answer.vectors[[0, 2]], expected[20:])
    assert np.isnan(answer.vectors[[1, 3]]).all()


def test_a_wrong_key_reaches_those_who_asked_and_nobody_later(place: Place) -> None:
    """Every ask of the pile hears the provider's own words; once the key works again, so does the gateway."""
    from embatch.emulator import Fault

    gateway = place.open(parallel=1)
    place.emulator.fault(Fault(kind="unauthenticated", where="embed", times=1))
    error = Asked(gateway, "a").error
    assert isinstance(error, ProviderError)
    assert "401" in str(error) or "key" in str(error)
    assert Asked(gateway, "b").answer.failures == ()
    assert gateway.snapshot().failed == 1


def test_what_is_stored_costs_nothing_and_waits_for_nothing(place: Place, tmp_path: Path) -> None:
    """Also while the provider refuses everything and the day's money is spent; what is not stored says so."""
    from embatch.emulator import Fault

    store = Vectors()
    purse = Purse(tmp_path / "spending.sqlite", per_day=1e-6)
    gateway = place.open(store_for=lambda _: store, purse=purse)
    first = Asked(gateway, "a", "b").answer
    assert (first.cached, len(store)) == (0, 2)
    before = place.emulator.requests["embed"]
    purse.settle(purse.reserve(None, 0.9e-6), 0.9e-6)
    place.emulator.fault(Fault(kind="unauthenticated", where="embed", every=1))
    again = Asked(gateway, "b", "a", "b").answer
    assert np.array_equal(again.vectors, first.vectors[[1, 0, 1]])
    assert (again.cached, again.failures) == (3, ())
    assert isinstance(Asked(gateway, "a", "new " * 30).error, GoalError)
    assert place.emulator.requests["embed"] == before
    purse.close()


def test_equal_texts_are_sent_once_and_stores_are_used_by_one_thread(place: Place) -> None:
    """Of any asks in a pile; a store that is not thread-safe sees one user at a time."""
    store = Vectors()
    gateway = place.open(store_for=lambda _: store)
    asked = [Asked(gateway, f"text {i % 10}", "all the same") for i in range(100)]
    expected = place.vectors(*(f"text {i}" for i in range(10)), "all the same")
    for i, one in enumerate(asked):
        assert np.array_equal(one.answer.vectors, expected[[i % 10, 10]])
    assert len(store) == 11


def test_tasks_and_dimensions_go_apart(place: Place) -> None:
    """What asks want of a vector is theirs alone; what the model cannot do is refused at once."""
    gateway = place.open()
    asked = [Asked(gateway, "text", dimensions=256 if i % 2 else None) for i in range(8)]
    for i, one in enumerate(asked):
        vectors = one.answer.vectors
        assert vectors.shape == (1, 256 if i % 2 else 1536)
        assert np.linalg.norm(vectors) == pytest.approx(1.0, abs=1e-3)
    whole, short = asked[0].answer.vectors, asked[1].answer.vectors
    assert float((cut(whole, 256, normalize=True) @ short.T)[0, 0]) == pytest.approx(1.0, abs=1e-3)
    for wrong in ({"dimensions": 5000}, {"dimensions": 0}, {"task": "DANCING"}, {"keys": ["a", "b"]}):
        with pytest.raises(UsageError):
            Asked(gateway, "text", **wrong)
    with pytest.raises(UsageError, match="token ids"):
        Asked(gateway, [1, 2, 3])
    with pytest.raises(UsageError, match="at least one"):
        Asked(gateway)


def test_tasks_of_one_model_are_never_mixed_up(make_place: Callable[..., Place]) -> None:
    """Queries and documents with equal texts go in calls and stores of their own."""
    place = make_place("gemini")
    stores: dict[str, Vectors] = {}
    gateway = place.open(
        dimensions=256, store_for=lambda spec: stores.setdefault(spec.fingerprint, Vectors())
    )
    tasks = (None, "query", "document", "CLUSTERING")
    for _ in range(2):
        asked = [Asked(gateway, f"text {i // 4}", task=tasks[i % 4]) for i in range(40)]
        answers = [one.answer for one in asked]
    assert sum(answer.cached for answer in answers) == 40
    assert [len(store) for store in stores.values()] == [10, 10, 10]
    vectors = np.stack([answer.vectors[0] for answer in answers]).reshape(10, 4, 256)
    assert np.array_equal(vectors[:, 0], vectors[:, 2])
    for one, other in ((0, 1), (0, 3), (1, 3)):
        assert (np.abs(vectors[:, one] - vectors[:, other]).max(axis=1) > 1e-3).all()


def test_long_texts_fare_as_each_ask_wants(place: Place) -> None:
    """Cut and counted, averaged, or refused: side by side, in one gateway."""
    gateway = place.open()
    long = "many words " * 5000
    cut_, pooled, refused = (
        Asked(gateway, long, "short", overlong=how).answer for how in ("truncate", "pool", "error")
    )
    assert (cut_.truncated, pooled.truncated, refused.truncated) == (1, 0, 0)
    assert np.isfinite(pooled.vectors).all()
    assert np.abs(cut_.vectors[0] - pooled.vectors[0]).max() > 1e-3
    assert [type(failure.error) for failure in refused.failures] == [TooLongError]
    for answer in (cut_, pooled, refused):
        assert np.array_equal(answer.vectors[1], cut_.vectors[1])


def held_up(place: Place, **options: Any) -> tuple[Any, Asked]:
    """A gateway whose one sender waits for an answer that does not come before the clock is moved on."""
    from embatch.emulator import Fault

    gateway = place.open(parallel=1, **options)
    place.emulator.fault(Fault(kind="stall", where="embed", times=1, delay=600.0))
    first = Asked(gateway, "first")
    while not place.emulator.requests["embed"]:
        pass
    return gateway, first


def test_an_ask_that_is_cancelled_before_it_is_sent_is_not_billed(place: Place) -> None:
    """It is told nothing; the others are answered."""
    gateway, first = held_up(place)
    gone, stays = Asked(gateway, "gone"), Asked(gateway, "stays")
    gone.ticket.cancel()
    place.emulator.advance(600.0)
    assert stays.answer.failures == first.answer.failures == ()
    assert [place.emulator.billed(text) for text in ("first", "gone", "stays")] == [1, 0, 1]
    assert gone.told == []
    assert gateway.snapshot().cancelled == 1


def test_time_and_room_are_bounded(place: Place) -> None:
    """An ask that waits too long, and one that finds the queue full, are told so; what was told is not sent."""
    watcher = Watcher()
    gateway, first = held_up(place, queue=3, observer=watcher)
    late = Asked(gateway, "late", timeout_s=0.05)
    assert isinstance(late.error, ExpiredError)
    waits = Asked(gateway, "a", "b", "c")
    outcome: object = None
    try:
        outcome = Asked(gateway, "d").result
    except OverloadedError as error:
        outcome = error
    assert isinstance(outcome, OverloadedError)
    assert outcome.retry_after_s > 0
    place.emulator.advance(600.0)
    assert waits.answer.failures == first.answer.failures == ()
    assert [place.emulator.billed(text) for text in ("late", "d", "a")] == [0, 0, 1]
    snapshot = gateway.snapshot()
    assert (snapshot.asks, snapshot.answered, snapshot.refused, snapshot.expired) == (3, 2, 1, 1)
    outcomes = sorted(one.outcome for one in watcher.asks)
    assert outcomes == ["answered", "answered", "expired", "refused"]


def test_closing_answers_what_waits_or_says_that_it_will_not(place: Place) -> None:
    """With time, everything; without, an error at once; and nothing is let in any more."""
    patient = place.open()
    asked = [Asked(patient, f"text {i}") for i in range(50)]
    patient.close(drain_s=WAIT_S)
    assert all(one.answer.failures == () for one in asked)
    with pytest.raises(BackendClosedError):
        Asked(patient, "late")
    assert not patient.snapshot().alive
    hasty, first = held_up(place)
    waits = Asked(hasty, "waits")
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(hasty.close)
        assert isinstance(first.error, BackendClosedError)
        assert isinstance(waits.error, BackendClosedError)
        place.emulator.advance(600.0)
        closing.result(WAIT_S)
    assert place.emulator.billed("waits") == 0


def test_observers_see_every_ask_and_every_pile(place: Place) -> None:
    """Counts add up; nothing that is seen holds a text."""
    watcher = Watcher()
    gateway = place.open(observer=watcher)
    for i in range(5):
        Asked(gateway, f"a {i}", f"b {i}", priority=Priority.BATCH if i % 2 else Priority.INTERACTIVE).answer  # noqa: B018  # one after the other
    gateway.close(drain_s=WAIT_S)
    asks, piles = watcher.asks, watcher.batches
    assert [(one.outcome, one.inputs, one.model) for one in asks] == [
        ("answered", 2, "openai:text-embedding-3-small")
    ] * 5
    assert sum(one.items for one in piles) == 10
    assert {one.priority for one in piles} == set(Priority)
    assert {(one.budget, one.error) for one in piles} == {(0, "")}
    assert sum(one.tokens for one in piles) == place.emulator.billing().tokens


def test_an_async_embedder_of_a_providers_model_stands_on_it(place: Place) -> None:
    """The whole way, from tasks of a program to the provider and back."""
    from embatch.frontends.async_embedder import AsyncEmbedder

    place.open()
    expected = place.vectors(*(f"text {i}" for i in range(40)))
    before = place.emulator.requests["embed"]

    async def main() -> list[Any]:
        async with AsyncEmbedder(
            "openai:text-embedding-3-small", base_url=place.emulator.url, api_key="a-key", profiles=False
        ) as embedder:
            return await asyncio.gather(*(embedder.embed([f"text {i}"]) for i in range(40)))

    found = asyncio.run(main())
    assert np.array_equal(np.concatenate([one.vectors for one in found]), expected)
    assert place.emulator.requests["embed"] - before < 20
