"""Results are put together in the order of the chunks, and stores and prices do what they say."""

from __future__ import annotations

import numpy as np

from embatch.errors import EmptyTextError
from embatch.frontends.processor.prices import price_of
from embatch.frontends.processor.recent import RecentStore
from embatch.frontends.processor.records import Collected, Spent
from embatch.types import ItemFailure


def failed(*rows: int) -> list[ItemFailure]:
    """Failures of these rows."""
    return [ItemFailure(row=row, key=str(row), error=EmptyTextError("empty")) for row in rows]


def test_results_of_portions() -> None:
    """Portions follow each other; one in which everything failed does not say how many dimensions there are."""
    collected = Collected()
    collected.add(["0", "1"], np.full((2, 1), np.nan, np.float32), failed(0, 1))
    collected.add(["2", "3"], np.array([[1, 2, 3], [np.nan] * 3], np.float32), failed(3))
    result = collected.result(batches=2, seconds=1.0, spent=Spent(tokens=5, estimated_tokens=2, dollars=0.5))
    assert result.embeddings.shape == (4, 3)
    assert [result.vector(row) is None for row in range(4)] == [True, True, False, True]
    assert [failure.row for failure in result.failures] == [0, 1, 3]
    assert (len(result), result.cost, result.usage) == (4, 0.5, {"total_tokens": 3})


def test_nothing() -> None:
    """No chunks give no rows, and no vectors no dimensions."""
    result = Collected().result(batches=0, seconds=0.0, spent=Spent())
    assert (result.embeddings.shape, result.usage, result.cost) == ((0, 0), {}, None)


def test_a_store_keeps_what_was_used_last() -> None:
    """The oldest vectors make room, and what was asked for is young again."""
    store = RecentStore(2)
    store.put([b"a", b"b"], np.eye(2, dtype=np.float32))
    store.get([b"a"])
    store.put([b"c"], np.ones((1, 2), np.float32))
    assert sorted(store.get([b"a", b"b", b"c"])) == [b"a", b"c"]
    store.close()
    assert store.get([b"a"]) == {}


def test_prices() -> None:
    """Published prices are found by a model's bare name; nothing is guessed."""
    assert price_of("text-embedding-3-small") == 0.02
    assert price_of("models/gemini-embedding-001") == 0.15
    assert price_of("my-own-model") is None
    assert price_of("") is None
