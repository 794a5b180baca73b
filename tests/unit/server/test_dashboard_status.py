"""The data of the dashboard: what is shown of models, queues, batches and times."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from embatch.frontends.server.dashboard import status
from embatch.frontends.server.dashboard.status import Gauge, ModelSeen
from embatch.serving import Priority, Snapshot

STILL = Snapshot(
    waiting={Priority.INTERACTIVE: 0, Priority.BATCH: 0},
    waiting_tokens=0,
    room=100,
    running=0,
    streams=2,
    asks=7,
    answered=5,
    refused=1,
    expired=0,
    cancelled=1,
    failed=0,
    inputs=20,
    batches=4,
    tokens=300,
    padded_tokens=330,
    device_seconds=0.25,
    budget=1024,
    settled=True,
    tokens_per_s=1200.0,
    alive=True,
)
BUSY = replace(
    STILL, waiting={Priority.INTERACTIVE: 3, Priority.BATCH: 40}, waiting_tokens=900, running=8, budget=256
)
NOTHING: dict[str, Any] = {"count": 0, "mean": None, "p50": None, "p90": None, "p99": None}


def seen(snapshot: Snapshot | None, *, name: str = "one", provider: bool = False) -> ModelSeen:
    return ModelSeen(name=name, model=f"{name}-full", provider=provider, snapshot=snapshot)


def batch(at: float, **fields: Any) -> dict[str, Any]:
    """A batch as the board tells of it."""
    told = {"at": at, "seconds": 0.5, "items": 4, "longest": 9, "tokens": 30, "padded_tokens": 36}
    return told | {"model": "one", "budget": 64, "fresh": True, "error": "", "stream": 0, **fields}


def test_queues_of_open_models_are_added_up() -> None:
    """A model that is not open has no queue, and its room counts for nothing."""
    models = [seen(BUSY), seen(STILL, name="two"), seen(None, name="three")]
    assert status.queue_of(models) == {
        "interactive": 3,
        "batch": 40,
        "tokens": 900,
        "running": 8,
        "room": 200,
    }
    gauge = status.gauge_of(models, {"latency_s": NOTHING | {"p50": 0.01}}, at=5.0, rss_bytes=1000)
    assert (gauge.interactive, gauge.batch, gauge.running, gauge.budget) == (3, 40, 8, 256)
    assert (gauge.p50, gauge.p99, gauge.rss_bytes) == (0.01, None, 1000)


def test_without_an_open_model_everything_is_nought() -> None:
    """The page of a server that has opened nothing yet has numbers, not errors."""
    gauge = status.gauge_of([seen(None)], {}, at=5.0, rss_bytes=1)
    assert (gauge.interactive, gauge.batch, gauge.running, gauge.budget, gauge.p99) == (0, 0, 0, 0, None)
    assert status.queue_of([seen(None)])["room"] == 0


@pytest.mark.parametrize(
    ("snapshot", "state"),
    [
        (None, "not open"),
        (STILL, "idle"),
        (BUSY, "working"),
        (replace(BUSY, alive=False), "failed"),
    ],
)
def test_a_model_says_in_a_word_how_it_is(snapshot: Snapshot | None, state: str) -> None:
    """A failed engine is failed, whatever it seems to be doing."""
    row = status.model_row(seen(snapshot))
    assert row["state"] == state
    assert (row["name"], row["model"]) == ("one", "one-full")


def test_an_open_model_tells_its_counts() -> None:
    """They are those of its snapshot, with priorities by name."""
    row = status.model_row(seen(BUSY))
    assert row["waiting"] == {"interactive": 3, "batch": 40}
    assert (row["answered"], row["refused"], row["batches"], row["budget"]) == (5, 1, 4, 256)


def test_only_what_is_new_is_told() -> None:
    """Looks up to the moment that a page knows are left out, and the columns stay equally long."""
    gauges = [
        Gauge(at=at, interactive=int(at), batch=0, running=0, rss_bytes=1, budget=2) for at in (1.0, 2.0, 3.0)
    ]
    told = status.gauge_columns(gauges, since=1.0)
    assert told["at"] == [2.0, 3.0]
    assert told["interactive"] == [2, 3]
    assert {len(column) for column in told.values()} == {2}


def test_very_many_batches_are_thinned_evenly() -> None:
    """No more than the bound are told, from the beginning to the last."""
    many = 10 * status.MOST_BATCHES
    told = status.batch_columns([batch(float(at)) for at in range(many)])
    assert len(told["at"]) == status.MOST_BATCHES
    assert told["at"][-1] == many - 1 + 0.5
    gaps = {late - early for early, late in zip(told["at"], told["at"][1:], strict=False)}
    assert gaps == {10.0}


def test_a_batch_is_placed_at_its_end_and_told_with_its_shape() -> None:
    """A failed one is marked, for it says nothing about speed."""
    told = status.batch_columns([batch(1.0), batch(2.0, error="OutOfMemoryError", items=9)])
    assert told["at"] == [1.5, 2.5]
    assert told["failed"] == [False, True]
    assert (told["items"], told["longest"], told["padded_tokens"]) == ([4, 9], [9, 9], [36, 36])
    assert {len(column) for column in told.values()} == {2}


def test_a_second_counts_what_was_computed_or_came_from_a_cache() -> None:
    """Whichever is more: texts from a cache are in no batch, texts of asks under way are in no answer yet."""
    quiet = {"items": 0, "inputs": 0, "real_tokens": 0, "tokens": 0, "asks": {}}
    seconds = [
        {"at": 7, **quiet, "items": 12, "real_tokens": 90},
        {"at": 9, **quiet, "inputs": 5, "tokens": 40, "asks": {"answered": 5, "refused": 2, "failed": 1}},
    ]
    told = status.second_columns(seconds)
    assert (told["at"], told["texts"], told["tokens"]) == ([7, 9], [12, 5], [90, 40])
    assert (told["asks"], told["turned_away"]) == ([0, 5], [0, 3])


def test_times_are_told_in_milliseconds_and_by_priority_where_there_are_several() -> None:
    """One priority alone says what all say."""
    some = {
        "latency_s": {"count": 2, "p50": 0.0123, "p90": 0.5, "p99": 2.0},
        "wait_s": {"count": 2, "p50": 0.001, "p90": 0.25, "p99": 1.0},
    }
    alone = status.latency_of(some, {"interactive": {"recent": some}})
    assert list(alone) == ["all"]
    assert alone["all"]["total"] == {"count": 2, "p50": 12.3, "p90": 500.0, "p99": 2000.0}
    none = {"latency_s": NOTHING, "wait_s": NOTHING}
    both = status.latency_of(some, {"interactive": {"recent": some}, "batch": {"recent": none}})
    assert list(both) == ["all", "interactive"]
    assert status.latency_of(none, {})["all"]["wait"]["p99"] is None


def test_money_is_told_only_where_a_provider_is_behind() -> None:
    """A model on this machine costs nothing; those of providers are added up, open or not."""
    assert status.money_of([seen(STILL)], today=1.0, limit_per_day=5.0) is None
    paid = [
        seen(replace(BUSY, dollars=0.25, streams=16), provider=True),
        seen(replace(STILL, dollars=0.5), name="two", provider=True),
        seen(None, name="three", provider=True),
        seen(replace(STILL, dollars=9.0), name="free"),
    ]
    told = status.money_of(paid, today=2.5, limit_per_day=5.0)
    assert told == {
        "dollars": 0.75,
        "today": 2.5,
        "limit_per_day": 5.0,
        "calls": 8,
        "texts_under_way": 8,
        "senders": 18,
    }
