"""Which waiting units go into the next batch."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embatch.decisions.late_forming import LOOK_AHEAD, pick
from embatch.decisions.planning import Budget, cost
from embatch.types import CostRule, Limits

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=80).map(lambda found: np.array(found, np.int32))
LIMITS = st.builds(
    Limits,
    items=st.none() | st.integers(1, 50),
    tokens=st.none() | st.integers(300, 5000),
    cost=st.sampled_from(CostRule),
)
BUDGETS = st.integers(1, 4000).map(lambda tokens: Budget(tokens=tokens))


@given(LENGTHS, BUDGETS, LIMITS, st.integers(1, 4))
def test_who_waits_longest_goes_and_the_batch_fits(
    lengths: np.ndarray, budget: Budget, limits: Limits, streams: int
) -> None:
    """Unit 0 is in every batch, none is in it twice, and only a single unit may be over the budget."""
    chosen = pick(lengths, budget, limits, streams=streams).tolist()
    assert 0 in chosen
    assert len(set(chosen)) == len(chosen)
    if len(chosen) > 1:
        assert budget.tokens is not None
        assert cost(lengths[chosen], limits.cost) <= min(budget.tokens, limits.tokens or budget.tokens)
    assert limits.items is None or len(chosen) <= limits.items


@given(LENGTHS, BUDGETS)
def test_every_unit_gets_its_turn(lengths: np.ndarray, budget: Budget) -> None:
    """Taking batch after batch uses up all units, each once, a unit waiting at most for those before it."""
    left_at: dict[int, int] = {}
    waiting, rounds = list(range(len(lengths))), 0
    while waiting:
        chosen = {waiting[at] for at in pick(lengths[waiting], budget, Limits()).tolist()}
        left_at |= dict.fromkeys(chosen, rounds)
        waiting = [unit for unit in waiting if unit not in chosen]
        rounds += 1
    assert sorted(left_at) == list(range(len(lengths)))
    assert all(left_at[unit] <= unit for unit in left_at)


def least(lengths: list[int], budget: int, own: float) -> float:
    """What all batches together cost at least, by trying every way to cut neighbours by length."""
    ordered = sorted(lengths, reverse=True)
    ways = [
        [*borders, len(ordered)]
        for count in range(len(ordered))
        for borders in combinations(range(1, len(ordered)), count)
    ]
    costs = []
    for way in ways if ordered else []:
        batches = [ordered[start:end] for start, end in pairwise([0, *way])]
        if all(len(batch) == 1 or batch[0] * len(batch) <= budget for batch in batches):
            costs.append(sum(batch[0] * len(batch) + own for batch in batches))
    return min(costs, default=0.0)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=8), st.integers(1, 1500))
def test_few_units_are_cut_where_all_batches_together_cost_least(found: list[int], budget: int) -> None:
    """Whatever goes now, what goes later is no dearer for it than it must be."""
    own = 1024 / 24
    chosen = pick(np.array(found, np.int32), Budget(tokens=budget), Limits(first_budget=1024)).tolist()
    batch = [found[at] for at in chosen]
    rest = [length for at, length in enumerate(found) if at not in chosen]
    now = max(batch) * len(batch) + own
    assert now + least(rest, budget, own) <= least(found, budget, own) + 1e-6


def test_many_units_make_a_full_batch_of_like_lengths() -> None:
    """Of a long queue what goes with unit 0 pads next to nothing and fills the budget."""
    lengths = np.random.default_rng(7).integers(8, 256, LOOK_AHEAD).astype(np.int32)
    chosen = lengths[pick(lengths, Budget(tokens=1024), Limits())]
    assert chosen.sum() > 0.95 * cost(chosen, CostRule.PADDED)
    assert cost(chosen, CostRule.PADDED) > 0.7 * 1024


def test_a_batch_is_filled_with_what_pads_least() -> None:
    """Sixty short texts and one long one do not share a batch when the short ones alone fill it."""
    lengths = np.array([12] * 60 + [256], np.int32)
    chosen = pick(lengths, Budget(tokens=1024), Limits())
    assert len(chosen) == 60
    assert lengths[chosen].max() == 12


def test_a_long_text_that_waits_longest_is_not_passed_over() -> None:
    """A long text at the head goes at once, with others of like length beside it."""
    lengths = np.array([256, *[12] * 60, 245, 250], np.int32)
    chosen = pick(lengths, Budget(tokens=1024), Limits())
    assert sorted(lengths[chosen].tolist(), reverse=True) == [256, 250, 245]


def test_short_texts_do_not_wait_for_the_long_one_beside_them() -> None:
    """Though all fit the budget, padding three short texts to a long one would cost three times as much."""
    lengths = np.array([13, 13, 150, 13], np.int32)
    assert sorted(pick(lengths, Budget(tokens=1024), Limits()).tolist()) == [0, 1, 3]
    assert pick(lengths[2:], Budget(tokens=1024), Limits()).tolist() == [0]


def test_texts_of_like_length_share_a_batch() -> None:
    """A little padding costs less than another batch."""
    lengths = np.array([14, 12, 16, 13], np.int32)
    assert len(pick(lengths, Budget(tokens=1024), Limits())) == 4


def test_nothing_is_padded_where_lengths_do_not_matter() -> None:
    """A backend that pads nothing takes all that fits."""
    lengths = np.array([13, 13, 150, 13], np.int32)
    assert len(pick(lengths, Budget(tokens=1024), Limits(cost=CostRule.PACKED))) == 4


def test_what_is_left_is_shared_among_streams() -> None:
    """Too few units for a batch for each stream are cut in equal parts."""
    lengths = np.full(64, 13, np.int32)
    assert len(pick(lengths, Budget(tokens=1024), Limits(), streams=2)) == 32


def test_only_so_many_are_looked_at() -> None:
    """However many wait, the work of choosing is bounded."""
    lengths = np.ones(LOOK_AHEAD * 3, np.int32)
    assert pick(lengths, Budget(tokens=10**6), Limits()).max() < LOOK_AHEAD
