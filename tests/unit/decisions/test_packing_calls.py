"""Packing: calls within all limits, ratios that follow the provider, caps that only tighten, halves that isolate."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embatch.decisions.packing_calls import Caps, LearnedCaps, TokenRatio, split, take
from embatch.errors import UsageError
from embatch.remote import CallLimits, ErrorKind

maybe = st.one_of(st.none(), st.integers(0, 500))


@given(
    sizes=st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), max_size=50),
    items=maybe,
    tokens=maybe,
    size=maybe,
)
def test_a_call_holds_as_many_as_fit_and_at_least_one(
    sizes: list[tuple[int, int]], items: int | None, tokens: int | None, size: int | None
) -> None:
    """What is taken keeps every limit, unless it is one item alone; and one more would break one."""
    lengths, in_bytes = [a for a, _ in sizes], [b for _, b in sizes]

    def fits(count: int) -> bool:
        return (
            (items is None or count <= items)
            and (tokens is None or sum(lengths[:count]) <= tokens)
            and (size is None or sum(in_bytes[:count]) <= size)
        )

    count = take(lengths, in_bytes, items=items, tokens=tokens, bytes=size)
    most = max(n for n in range(len(sizes) + 1) if fits(n) or n == 0)
    assert count == min(len(sizes), max(1, most))


def test_lengths_and_sizes_must_belong_together() -> None:
    """Two sequences of different length are refused."""
    with pytest.raises(UsageError, match="2 token counts"):
        take([1, 2], [1], items=None, tokens=None, bytes=None)


@settings(max_examples=80, deadline=None)
@given(truth=st.floats(0.25, 4.0), noise=st.floats(0, 0.2), seed=st.integers(0, 1000))
def test_the_ratio_finds_the_truth(truth: float, noise: float, seed: int) -> None:
    """After sixty answers with up to 20 % noise, the estimate is within 15 % of what the provider counts."""
    rng = random.Random(seed)
    ratio = TokenRatio()
    for _ in range(60):
        ratio.observe(1000, max(1, round(1000 * truth * rng.lognormvariate(0, noise))))
    assert ratio.correct(1000) == pytest.approx(1000 * truth, rel=0.15)


@given(odd=st.integers(1, 10**9))
def test_one_odd_answer_moves_the_ratio_little(odd: int) -> None:
    """A count that is off by any factor moves a settled ratio by less than 5 %."""
    ratio = TokenRatio(1.2, 50)
    ratio.observe(1000, odd)
    assert ratio.ratio == pytest.approx(1.2, rel=0.05)


@given(
    answers=st.lists(st.tuples(st.integers(-5, 10**6), st.integers(-5, 10**9)), max_size=50),
    estimate=st.integers(-3, 10**7),
)
def test_the_ratio_stays_within_bounds_and_can_be_kept(answers: list[tuple[int, int]], estimate: int) -> None:
    """Whatever is counted, corrections stay within a quarter and four times, and two numbers are the whole state."""
    ratio = TokenRatio()
    for estimated, used in answers:
        ratio.observe(estimated, used)
    corrected = ratio.correct(estimate)
    assert corrected == 0 if estimate <= 0 else estimate / 4 <= corrected <= estimate * 4 + 1
    again = TokenRatio(ratio.ratio, ratio.seen)
    again.observe(100, 150)
    ratio.observe(100, 150)
    assert again.ratio == ratio.ratio


@pytest.mark.parametrize(("ratio", "seen"), [(0.0, 0), (-1.0, 0), (math.nan, 0), (math.inf, 1), (1.0, -1)])
def test_a_ratio_must_be_one(ratio: float, seen: int) -> None:
    """A kept state that cannot be one is refused."""
    with pytest.raises(UsageError, match="ratio"):
        TokenRatio(ratio, seen)


@given(
    truth=st.integers(1, 5000),
    first=st.integers(1, 5000),
    kind=st.sampled_from([ErrorKind.TOO_MANY_ITEMS, ErrorKind.TOO_MANY_TOKENS]),
)
def test_caps_reach_what_is_taken_and_nothing_is_repeated(truth: int, first: int, kind: ErrorKind) -> None:
    """Calls of ten tokens an item get smaller with each refusal, until one is taken of at least half the limit."""
    caps = LearnedCaps(day="2026-11-05")
    call = CallLimits(items=first, tokens=first * 10, bytes=first * 20)
    refused: list[int] = []
    while True:
        now = caps.limits(call)
        size = take([10] * first, [20] * first, items=now.items, tokens=now.tokens, bytes=now.bytes)
        if size <= truth:
            break
        assert size not in refused
        refused.append(size)
        caps.refused(kind, size, size * 10, size * 20)
    assert size >= min(first, (truth + 1) // 2)
    assert len(refused) <= math.log2(first) + 1
    assert (caps.caps.day == "2026-11-05") == bool(refused)


def test_caps_only_tighten_and_are_kept() -> None:
    """A larger refusal after a smaller one changes nothing; stated limits that are tighter stay."""
    caps = LearnedCaps(Caps(items=40, day="2026-01-01"), day="2026-11-05")
    caps.refused(ErrorKind.TOO_MANY_ITEMS, 1000, 1, 1)
    assert caps.caps == Caps(items=40, day="2026-01-01")
    caps.refused(ErrorKind.TOO_MANY_ITEMS, 40, 1, 1)
    assert LearnedCaps(caps.caps).limits(CallLimits(items=100, tokens=7)) == CallLimits(items=20, tokens=7)
    assert caps.limits(CallLimits(items=5)).items == 5
    assert caps.caps.day == "2026-11-05"


@pytest.mark.parametrize("kind", [ErrorKind.BAD_INPUT, ErrorKind.INPUT_TOO_LONG, ErrorKind.OVERLOADED])
def test_other_refusals_and_single_items_teach_no_cap(kind: ErrorKind) -> None:
    """Only a call of several items that is refused for its size lowers a cap."""
    caps = LearnedCaps()
    caps.refused(kind, 100, 1000, 1000)
    caps.refused(ErrorKind.TOO_MANY_TOKENS, 1, 9000, 9000)
    assert caps.caps == Caps()


@given(n=st.integers(2, 10_000))
def test_halves_are_a_partition(n: int) -> None:
    """Both halves together are all items, and differ by one at most."""
    left, right = split(n)
    assert [*left, *right] == list(range(n))
    assert 0 <= len(right) - len(left) <= 1


@pytest.mark.parametrize("n", [0, 1])
def test_what_is_alone_cannot_be_split(n: int) -> None:
    """Fewer than two items have no halves."""
    with pytest.raises(UsageError, match="cannot be split"):
        split(n)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), n=st.integers(1, 2000))
def test_bad_items_are_found_in_few_calls(data: st.DataObject, n: int) -> None:
    """With k bad among n, each is refused alone, all others go through once, in at most 1 + 2k⌈log₂ n⌉ calls."""
    bad = data.draw(st.sets(st.integers(0, n - 1), min_size=1, max_size=8))
    waiting, calls = [range(n)], 0
    good: list[int] = []
    alone: list[int] = []
    while waiting:
        group = waiting.pop()
        calls += 1
        if not bad.intersection(group):
            good.extend(group)
        elif len(group) == 1:
            alone.extend(group)
        else:
            waiting.extend(group[half.start : half.stop] for half in split(len(group)))
    assert sorted(alone) == sorted(bad)
    assert sorted(good) == sorted(set(range(n)) - bad)
    assert calls <= 1 + 2 * len(bad) * math.ceil(math.log2(n))
