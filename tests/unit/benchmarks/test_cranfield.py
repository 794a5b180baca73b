"""Cranfield as it is carried, and nDCG by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from benchmarks import cranfield
from hypothesis import given
from hypothesis import strategies as st


def test_collection_is_whole() -> None:
    """1,400 documents less two empty ones, 225 questions, and 1,612 judgements with a gain."""
    collection = cranfield.load()
    assert len(collection.documents) == 1398
    assert {"471", "995"}.isdisjoint(collection.document_ids)
    assert len(collection.queries) == len(collection.gains) == 225
    assert sum(map(len, collection.gains)) == 1612


def test_judgements_are_joined_by_position() -> None:
    """Question 1 asks for similarity laws and is answered by document 184, a high degree of relevance."""
    collection = cranfield.load()
    assert collection.queries[0].startswith("what similarity laws must be obeyed")
    assert collection.gains[0]["184"] == 3.0
    assert "486" not in collection.gains[0]  # code -1


def test_ndcg_by_hand() -> None:
    """Second place is discounted by log2(3), and the ideal puts the best first."""
    found = cranfield.ndcg(["x", "a", "b"], {"a": 4.0, "b": 1.0})
    expected = (4 / math.log2(3) + 1 / math.log2(4)) / (4 + 1 / math.log2(3))
    assert found == pytest.approx(expected)


def test_ndcg_counts_only_to_its_depth() -> None:
    """An answer below the cut is worth nothing."""
    assert cranfield.ndcg(["x", "y", "a"], {"a": 4.0}, depth=2) == 0.0


@given(
    st.lists(st.sampled_from("abcdefghijklmno"), unique=True),
    st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from([1.0, 2.0, 3.0, 4.0])),
)
def test_ndcg_lies_between_zero_and_one(ranked: list[str], gains: dict[str, float]) -> None:
    """Whatever is ranked: 0 to 1, and 1 for the ideal order."""
    assert 0.0 <= cranfield.ndcg(ranked, gains) <= 1.0 + 1e-9
    ideal = sorted(gains, key=lambda document: -gains[document])
    assert not gains or cranfield.ndcg(ideal, gains) == pytest.approx(1.0)


def test_mean_over_questions_with_answers() -> None:
    """Questions that nobody answered do not count; the others are ranked by cosine."""
    collection = cranfield.Collection(
        document_ids=["1", "2"], documents=["a", "b"], queries=["q", "r"], gains=[{"2": 4.0}, {}]
    )
    unit = np.eye(2, dtype=np.float32)
    assert cranfield.mean_ndcg(unit, unit[::-1], collection) == 1.0
    assert cranfield.mean_ndcg(unit, unit, collection) == pytest.approx(1 / math.log2(3))
