"""Rankings become one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embatch.decisions.fusion import fuse
from embatch.errors import UsageError

RANKINGS = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=12), max_size=4)


def test_scores_follow_the_formula() -> None:
    """Each ranking gives its weight, divided by the constant and the rank."""
    fused = dict(fuse([["a", "b"], ["b", "c"]], weights=[2.0, 1.0], constant=10))
    assert fused == pytest.approx({"a": 2 / 11, "b": 2 / 12 + 1 / 11, "c": 1 / 12})


def test_what_both_find_comes_first() -> None:
    """Found by two searches in the middle beats found by one at the top."""
    assert fuse([["a", "x", "b"], ["c", "x", "d"]])[0][0] == "x"


def test_equal_scores_keep_the_order_of_ranks() -> None:
    """Equal scores stand as they are met: first ranks first, the first ranking before the second."""
    assert [name for name, _ in fuse([["a", "b"], ["c", "d"]])] == ["a", "c", "b", "d"]


@given(rankings=RANKINGS)
def test_everything_is_there_once_best_first(rankings: list[list[str]]) -> None:
    """Nothing is lost, nothing is there twice, and scores never rise."""
    fused = fuse(rankings)
    assert sorted(name for name, _ in fused) == sorted({name for ranking in rankings for name in ranking})
    scores = [score for _, score in fused]
    assert scores == sorted(scores, reverse=True)


@given(ranking=st.lists(st.text(max_size=3), max_size=20))
def test_one_ranking_keeps_its_order(ranking: list[str]) -> None:
    """Fused alone or with itself, a ranking stays as it is, without repetitions."""
    wanted = list(dict.fromkeys(ranking))
    assert [name for name, _ in fuse([ranking])] == wanted
    assert [name for name, _ in fuse([ranking, ranking], weights=[0.3, 0.7])] == wanted


@given(rankings=st.lists(st.permutations("abcd"), min_size=2, max_size=3), name=st.sampled_from("abcd"))
def test_moving_up_never_harms(rankings: list[list[str]], name: str) -> None:
    """A higher rank in one ranking never lowers a score."""
    before = dict(fuse(rankings))[name]
    first = [name, *(other for other in rankings[0] if other != name)]
    assert dict(fuse([first, *rankings[1:]]))[name] >= before


def test_a_ranking_without_weight_only_adds_names() -> None:
    """Weight 0 puts what only that ranking has at the end."""
    assert [name for name, _ in fuse([["a", "b"], ["z", "b"]], weights=[1, 0])] == ["a", "b", "z"]


@pytest.mark.parametrize(
    ("weights", "constant"),
    [([1.0], 60), ([1.0, -1.0], 60), ([1.0, float("nan")], 60), (None, 0), (None, -1)],
)
def test_senseless_settings_are_refused(weights: list[float] | None, constant: float) -> None:
    """A weight too few, a negative one, and a constant that is not above 0 are named errors."""
    with pytest.raises(UsageError):
        fuse([["a"], ["b"]], weights=weights, constant=constant)
