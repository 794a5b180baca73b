"""Forming batches: every item exactly once, nothing over budget, none empty."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embatch.decisions.planning import Budget, batch_end, cost, order, plan
from embatch.errors import UsageError
from embatch.types import CostRule, Limits

lengths_lists = st.lists(st.integers(1, 600), max_size=200).map(lambda x: np.array(x, dtype=np.int32))
rules = st.sampled_from(CostRule)


@given(lengths=lengths_lists, tokens=st.integers(1, 5000), rule=rules)
def test_each_item_is_in_exactly_one_batch(lengths: np.ndarray, tokens: int, rule: CostRule) -> None:
    """No item is lost and none is planned twice."""
    batches = plan(lengths, Budget(tokens=tokens), Limits(cost=rule))
    planned = np.concatenate(batches) if batches else np.array([], dtype=np.intp)
    assert sorted(planned.tolist()) == list(range(len(lengths)))


@given(lengths=lengths_lists, tokens=st.integers(1, 5000), rule=rules)
def test_a_batch_of_several_items_keeps_to_the_budget(
    lengths: np.ndarray, tokens: int, rule: CostRule
) -> None:
    """Only an item that is over the budget alone may exceed it, and it goes alone."""
    for batch in plan(lengths, Budget(tokens=tokens), Limits(cost=rule)):
        assert len(batch) >= 1
        assert len(batch) == 1 or cost(lengths[batch], rule) <= tokens


@given(lengths=lengths_lists, items=st.integers(1, 50), limit=st.integers(1, 40), rule=rules)
def test_the_backends_own_limit_holds_whatever_the_budget(
    lengths: np.ndarray, items: int, limit: int, rule: CostRule
) -> None:
    """A count asked for never exceeds the count that the backend takes."""
    batches = plan(lengths, Budget(items=items), Limits(items=limit, cost=rule))
    assert all(len(batch) <= min(items, limit) for batch in batches)


@given(lengths=lengths_lists, tokens=st.integers(1, 5000), rule=rules)
def test_batches_are_filled(lengths: np.ndarray, tokens: int, rule: CostRule) -> None:
    """No batch ends early: with the next item it would cost more than the budget."""
    positions = order(lengths)
    ordered = lengths[positions]
    start = 0
    while start < len(ordered):
        end = batch_end(ordered, start, Budget(tokens=tokens), Limits(cost=rule))
        assert end == len(ordered) or cost(ordered[start : end + 1], rule) > tokens
        start = end


@given(lengths=lengths_lists)
def test_longest_first_and_stable(lengths: np.ndarray) -> None:
    """The order descends, and equal lengths keep the order of the input."""
    positions = order(lengths).tolist()
    assert positions == sorted(range(len(lengths)), key=lambda i: (-int(lengths[i]), i))


@pytest.mark.parametrize("bounds", [{}, {"tokens": 0}, {"items": 0}, {"tokens": 10, "items": -1}])
def test_a_budget_without_room_is_refused(bounds: dict[str, int]) -> None:
    """A budget needs at least one bound, and room for one."""
    with pytest.raises(UsageError, match="at least 1"):
        Budget(**bounds)


def test_an_empty_batch_costs_nothing() -> None:
    """The cost of no items is zero under both rules."""
    empty = np.array([], dtype=np.int32)
    assert [cost(empty, rule) for rule in CostRule] == [0, 0]
