"""Which lane requests take, and the words for it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embatch.errors import UsageError
from embatch.frontends.smart.outlook import Outlook
from embatch.frontends.smart.rules import Asked, Rules, decision_words
from embatch.remote import URGENT

LONG, SHORT = "batch API", "individual calls"


def lanes(items: int, *, rules: Rules | None = None, **asked: Any) -> tuple[str, int | None]:
    settings, _ = (rules or Rules()).lanes(items, Asked(**asked), has_jobs=True)
    return settings.strategy, settings.threshold


def words(items: int, *, rules: Rules | None = None, job_items: int = 0, **asked: Any) -> str:
    settings, why = (rules or Rules()).lanes(items, Asked(**asked), has_jobs=True)
    outlook = Outlook(items=items, calls_s=1.04, job_s=40.2, saved=0.00012, job_items=job_items)
    return decision_words(outlook, settings, why)


@given(st.integers(1, 200), st.integers(1, 60))
def test_the_threshold_is_the_least_number_that_goes_as_a_job(items: int, threshold: int) -> None:
    """Below it calls and nothing else; from it on the engine is told the same rule."""
    found = lanes(items, rules=Rules(threshold=threshold))
    assert found == (("individual", None) if items < threshold else ("auto", threshold))


def test_a_decision_by_cost_is_left_to_the_strategy() -> None:
    """With `auto` no rule is set, for any number."""
    assert {lanes(n, rules=Rules(threshold="auto")) for n in (1, 10, 10_000)} == {("auto", None)}


@pytest.mark.parametrize("items", [1, 9, 10, 5000])
def test_what_a_call_asks_for_comes_before_all_rules(items: int) -> None:
    """Forced lanes and preferred purposes hold for any number, whatever the client was set to."""
    rules = Rules(prefer_individual_for=frozenset({"rag_query"}))
    assert lanes(items, rules=rules, batch=True)[0] == "batch"
    assert lanes(items, rules=rules, individual=True)[0] == "individual"
    assert lanes(items, rules=rules, purpose="rag_query")[0] == "individual"
    assert lanes(items, rules=rules, purpose="indexing") == lanes(items, rules=rules)
    assert lanes(items, rules=Rules(strategy="individual"), batch=True)[0] == "batch"
    assert lanes(items, rules=rules, batch=True, purpose="rag_query")[0] == "batch"


def test_both_lanes_at_once_are_refused() -> None:
    """It is a ValueError, as promised."""
    with pytest.raises(ValueError, match="force_batch and force_individual"):
        Asked(batch=True, individual=True)


def test_hybrid_sends_a_few_at_once_and_the_rest_as_a_job() -> None:
    """Too few for that are calls alone."""
    rules = Rules(strategy="hybrid", threshold=10)
    assert lanes(9, rules=rules) == ("individual", None)
    settings, _ = rules.lanes(10, Asked(), has_jobs=True)
    assert (settings.strategy, settings.head) == ("hybrid", URGENT)
    assert lanes(URGENT, rules=Rules(strategy="hybrid", threshold=1)) == ("individual", None)


def test_without_jobs_there_are_calls() -> None:
    """A model that has no jobs is not asked for one, unless by name: that is an error of whoever carries it out."""
    for rules in (Rules(), Rules(strategy="hybrid"), Rules(threshold="auto")):
        settings, why = rules.lanes(500, Asked(), has_jobs=False)
        assert (settings.strategy, why) == ("individual", "this model has no batch jobs here")
    for rules, asked in ((Rules(), Asked(batch=True)), (Rules(strategy="batch"), Asked())):
        assert rules.lanes(500, asked, has_jobs=False)[0].strategy == "batch"


def test_decisions_are_told_with_their_estimates() -> None:
    """What, how long, against what, and why."""
    assert words(2) == "2 items → individual calls (~1.0s vs 40s batch; fewer than 10)"
    assert words(50) == "50 items → batch API (~40s vs 1.0s individual, saves $0.00012; 10 or more)"
    assert words(1, batch=True).startswith("1 item → batch API")
    auto = Rules(threshold="auto")
    assert words(50, rules=auto) == "50 items → individual calls (~1.0s vs 40s batch; by cost)"
    assert LONG in words(50, rules=auto, job_items=50)
    assert "hybrid, 20 of them by the batch API" in words(50, rules=auto, job_items=20)
    assert "hybrid, 25 of them" in words(30, rules=Rules(strategy="hybrid"))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"strategy": "fast"}, "strategy must be one of auto, individual, batch, hybrid"),
        ({"threshold": 0}, "batch_threshold"),
        ({"threshold": "ten"}, "batch_threshold"),
        ({"threshold": True}, "batch_threshold"),
        ({"parallel": 0}, "parallel must be at least 1"),
        ({"poll_s": 0.0}, "poll_s must be more than 0"),
        ({"patience_s": -1.0}, "patience_s must be more than 0"),
    ],
)
def test_wrong_rules_are_refused_when_made(wrong: dict[str, Any], said: str) -> None:
    """A client that could not work is not made."""
    with pytest.raises(UsageError, match=said):
        Rules(**wrong)
