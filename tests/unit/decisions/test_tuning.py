"""Tuning: finds the best size of a noisy, non-monotone curve, keeps watching, and shrinks when memory is short."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embatch.decisions.tuning import BudgetTuner, Search
from embatch.errors import UsageError
from embatch.types import BatchRecord


def record(budget: int, rate: float, *, longest: int = 16, out_of_memory: bool = False) -> BatchRecord:
    items = max(1, budget // longest)
    tokens = items * longest
    return BatchRecord(
        budget=budget,
        items=items,
        longest=longest,
        tokens=tokens,
        seconds=tokens / rate,
        out_of_memory=out_of_memory,
    )


def hill(size: int, peak: int, *, steep: float = 0.12) -> float:
    """A throughput that falls off by `steep` for each doubling away from the peak."""
    return 10_000.0 * math.pow(1 - steep, abs(math.log2(size / peak)))


@settings(max_examples=60, deadline=None)
@given(
    peak=st.sampled_from([64, 256, 1024, 4096, 16384]),
    first=st.sampled_from([128, 1024, 8192]),
    noise=st.floats(0, 0.05),
    seed=st.integers(0, 10_000),
)
def test_ends_next_to_the_peak_whatever_the_start_and_the_noise(
    peak: int, first: int, noise: float, seed: int
) -> None:
    """From any start, with up to 5 % noise a batch, the budget it settles on is within 15 % of the best."""
    rng = random.Random(seed)
    tuner = BudgetTuner(low=64, high=32_768, first=first)
    for _ in range(600):
        budget = tuner.next_budget()
        tuner.record(record(budget, hill(budget, peak) * rng.gauss(1, noise)))
    assert hill(tuner.budget, peak) >= 0.85 * 10_000


def wandered(each: int) -> int:
    """Of 20 searches on a flat hill, with batches that differ by 20 % by chance: how many end beside the peak."""
    ends = []
    for seed in range(20):
        rng = random.Random(seed)
        tuner = BudgetTuner(low=64, high=32_768, first=1024, each=each)
        for _ in range(6000):
            budget = tuner.next_budget()
            tuner.record(record(budget, hill(budget, 1024, steep=0.05) * math.exp(rng.gauss(0, 0.2))))
        ends.append(tuner.budget)
    return sum(end != 1024 for end in ends)


def test_means_of_several_batches_keep_a_search_from_wandering() -> None:
    """Where batches differ more than budgets do, a server's search stays at the best, and one by one it does not."""
    assert wandered(each=8) <= 3
    assert wandered(each=1) >= 6


def test_slow_drift_of_all_sizes_is_not_mistaken_for_a_better_size() -> None:
    """Texts that get shorter from batch to batch make every size faster; the centre stays."""
    tuner = BudgetTuner(low=64, high=32_768, first=1024)
    speed = 1.0
    for _ in range(300):
        budget = tuner.next_budget()
        tuner.record(record(budget, hill(budget, 1024) * speed))
        speed *= 1.004
    assert tuner.budget == 1024
    assert tuner.settled


def test_tuning_costs_little_once_it_has_settled() -> None:
    """Of 1,000 batches on a steep hill, the time lost against always using the peak is under 3 %."""
    tuner = BudgetTuner(low=64, high=32_768, first=1024)
    spent = ideal = 0.0
    for _ in range(1000):
        budget = tuner.next_budget()
        rate = hill(budget, 2048, steep=0.15)
        tuner.record(record(budget, rate))
        spent += budget / rate
        ideal += budget / 10_000
    assert spent / ideal < 1.03


def test_a_run_of_few_batches_pays_for_no_search() -> None:
    """The first budget is kept for eight batches; what comes after them is tried in rounds."""
    tuner = BudgetTuner(low=64, high=32_768, first=1024)
    tried = []
    for _ in range(11):
        tried.append(tuner.next_budget())
        tuner.record(record(tried[-1], hill(tried[-1], 1024)))
    assert tried[:8] == [1024] * 8
    assert set(tried[8:]) == {512, 1024, 2048}


def test_a_changed_machine_is_noticed() -> None:
    """When the best size moves after settling, the search looks again and follows."""
    tuner = BudgetTuner(low=64, high=32_768, first=1024)
    for step in range(3000):
        budget = tuner.next_budget()
        tuner.record(record(budget, hill(budget, 1024 if step < 200 else 4096, steep=0.2)))
    assert tuner.budget == 4096


def test_a_profile_is_used_at_once() -> None:
    """A stored budget is proposed first and without trying its neighbours."""
    tuner = BudgetTuner(low=64, high=32_768, first=1024, profile=4096)
    assert [tuner.next_budget() for _ in range(5)] == [4096] * 5
    assert tuner.settled


def test_a_fixed_budget_never_moves() -> None:
    """With a budget set by the user nothing else is tried, and nothing counts as learned."""
    tuner = BudgetTuner(low=64, high=32_768, first=1024, fixed=777)
    for _ in range(1000):
        assert tuner.next_budget() == 777
        tuner.record(record(777, 1.0))
    assert not tuner.learned


def test_what_did_not_fit_is_never_proposed_again() -> None:
    """After an out-of-memory batch of 4,096 tokens, every later budget is smaller."""
    tuner = BudgetTuner(low=64, high=32_768, first=4096)
    tuner.record(record(4096, 1.0, out_of_memory=True))
    budgets = set()
    for _ in range(400):
        budget = tuner.next_budget()
        budgets.add(budget)
        tuner.record(record(budget, float(budget)))
    assert max(budgets) < 4096
    assert tuner.budget == 2048


def test_memory_pressure_shrinks_and_lets_go_again() -> None:
    """Above the high mark the budget halves each time; below the low mark it comes back."""
    tuner = BudgetTuner(low=64, high=32_768, first=1024, profile=1024)
    tuner.pressure(0.95)
    tuner.pressure(0.95)
    assert tuner.next_budget() == 256
    assert not tuner.learned
    tuner.pressure(0.8)
    assert tuner.next_budget() == 256
    tuner.pressure(0.5)
    tuner.pressure(0.5)
    assert tuner.next_budget() == 1024


def test_half_empty_batches_say_nothing() -> None:
    """Batches far below their budget (the end of a window) do not move the search."""
    tuner = BudgetTuner(low=64, high=32_768, first=1024)
    for _ in range(100):
        budget = tuner.next_budget()
        tiny = BatchRecord(budget=budget, items=1, longest=8, tokens=8, seconds=1e-9 * budget)
        tuner.record(tiny)
    assert tuner.budget == 1024


@pytest.mark.parametrize("sizes", [[], [2, 1], [1, 1]])
def test_sizes_must_ascend(sizes: list[int]) -> None:
    """A row of sizes that is empty, unsorted or has repeats is refused."""
    with pytest.raises(UsageError, match="ascending"):
        Search(sizes, 1)


def test_budgets_must_ascend() -> None:
    """A smallest budget above the largest is refused."""
    with pytest.raises(UsageError, match="ascend"):
        BudgetTuner(low=10, high=5, first=7)
