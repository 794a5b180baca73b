"""Forming batches: every item exactly once, nothing over budget, none empty."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embatch.decisions.planning import Budget, batch_end, cost, order, plan, share
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


@given(lengths=lengths_lists, tokens=st.integers(8, 5000), rule=rules, streams=st.integers(1, 8))
def test_a_shared_rest_loses_nothing_and_keeps_to_the_budget(
    lengths: np.ndarray, tokens: int, rule: CostRule, streams: int
) -> None:
    """The last window's batches hold each item once and are no larger than any other's."""
    batches = plan(lengths, Budget(tokens=tokens), Limits(cost=rule), streams=streams)
    planned = np.concatenate(batches) if batches else np.array([], dtype=np.intp)
    assert sorted(planned.tolist()) == list(range(len(lengths)))
    assert all(len(batch) == 1 or cost(lengths[batch], rule) <= tokens for batch in batches)


def test_the_rest_is_shared_among_the_streams() -> None:
    """Two streams and three half-full batches' worth of work: neither ends a whole batch after the other."""
    sizes = [len(batch) for batch in plan(np.full(32, 50, np.int32), Budget(tokens=800), Limits(), streams=2)]
    assert sizes == [16, 8, 4, 4]
    assert [len(b) for b in plan(np.full(32, 50, np.int32), Budget(tokens=800), Limits())] == [16, 16]


@given(left=st.integers(1, 10**6), tokens=st.integers(1, 10**5), streams=st.integers(1, 64))
def test_a_share_is_within_a_quarter_and_the_whole_budget(left: int, tokens: int, streams: int) -> None:
    """Full batches while there is one for every stream, never crumbs; a count is left as it is."""
    shared = share(left, 1, Budget(tokens=tokens, items=7), streams)
    assert shared.items == 7
    assert shared.tokens is not None
    assert tokens // 4 <= shared.tokens <= tokens
    assert shared.tokens == tokens or left < streams * tokens
    assert share(left, 1, Budget(items=7), streams) == Budget(items=7)


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
