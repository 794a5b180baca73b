"""From rounds to figures: ratios are taken within a round, and whoever missed a round is left out."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from benchmarks import harness
from benchmarks.kernels import MINILM
from benchmarks.stats import percentile, ratios, spread
from benchmarks.suites import throughput, tuner
from benchmarks.systems import HASHING, YARDSTICK, own, peers


@pytest.mark.parametrize("name", ["stats", "markdown", "kernels", "cranfield", "harness", "suites.tuner"])
def test_examples_in_docstrings(name: str) -> None:
    """The examples in the benchmarks' docstrings are true."""
    found = doctest.testmod(import_module(f"benchmarks.{name}"))
    assert found.attempted > 0
    assert found.failed == 0


def test_ratio_is_taken_within_a_round() -> None:
    """A machine that halves its speed between two rounds changes no ratio."""
    assert spread(ratios([2.0, 4.0, 2.0], [1.0, 2.0, 1.0])) == {"median": 2.0, "low": 2.0, "high": 2.0}


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (1.0, 100.0)])
def test_percentile_is_a_measured_value(share: float, expected: float) -> None:
    """Nearest rank: of 100 values, p99 is the 99th."""
    assert percentile([float(value) for value in range(1, 101)], share) == expected


def test_every_system_goes_first_once() -> None:
    """Over as many rounds as systems each has each place, and each system does each job once a round."""
    seen = list(harness.turns(["a", "b", "c"], ["x"], 3))
    assert [system for _, _, system in seen[::3]] == ["a", "b", "c"]
    assert len(set(seen)) == len(seen) == 9


def passes(system: str, seconds: list[float], **more: Any) -> list[dict[str, Any]]:
    """A system's passes over the one set, one a round."""
    return [
        {"round": r, "set": "mixed", "system": system, "seconds": s, **more} for r, s in enumerate(seconds)
    ]


def test_compared_systems_are_neighbours_in_a_round() -> None:
    """embatch stands between the two that it is measured against; nobody is lost, whoever could not be set up."""
    names = [system.name for system in [*own(), *peers(Path("model")), HASHING]]
    order = throughput.in_turn(names)
    at = order.index("embatch auto")
    assert order[at - 1 : at + 2] == [throughput.STRONGEST, "embatch auto", YARDSTICK]
    assert sorted(order) == sorted(names)
    assert throughput.in_turn(["b", YARDSTICK, "a"]) == [YARDSTICK, "b", "a"]


def test_throughput_summary() -> None:
    """Rates, ratios to the yardstick, and the share of the ceiling in the system's own precision."""
    found = throughput.summarise(
        [*passes(YARDSTICK, [4.0, 8.0]), *passes("embatch auto", [1.0, 2.0], precision="bf16")],
        [{"fp32": {"best": 100.0}, "bf16": {"best": 400.0}}] * 2,
        {"mixed": [100] * 50},
        {},
    )
    one = found["sets"]["mixed"]["embatch auto"]
    assert one["texts_per_s"] == {"median": 37.5, "low": 25.0, "high": 50.0}
    assert one["ratio"]["median"] == 4.0
    work = MINILM.operations([100] * 50) / 1e9
    assert one["ceiling_share"]["high"] == pytest.approx(work / 400.0, rel=1e-3)
    assert found["sets"]["mixed"][YARDSTICK]["ratio"]["median"] == 1.0


def test_who_missed_a_round_is_left_out() -> None:
    """A peer that failed half-way has no figures: its rounds would not be the others' rounds."""
    found = throughput.summarise(
        [*passes(YARDSTICK, [4.0, 8.0]), *passes("infinity", [4.0])], [], {"mixed": [10]}, {}
    )
    assert list(found["sets"]["mixed"]) == [YARDSTICK]


def test_throughput_tables_without_peers() -> None:
    """Tables can be rendered when no peer could be installed."""
    result = {
        "summary": throughput.summarise(passes("embatch auto", [1.0]), [], {"mixed": [10]}, {}),
        "parameters": {"settings": {"embatch auto": ""}},
        "machine": {"processor": "p", "family": "f", "cores": 2, "memory_gib": 8.0, "kernel": "k"},
        "commit": "c",
        "date": "d",
        "not_run": {"fastembed": "not set up"},
    }
    tables = throughput.tables(result)
    assert "| embatch auto | 1 |" in tables["throughput"]
    assert "Not run: fastembed: not set up." in tables["throughput"]


def way(number: int, name: str, seconds: float, **more: Any) -> dict[str, Any]:
    """One pass of the tuner's suite."""
    return {"round": number, "way": name, "seconds": seconds, **more}


def duel(final: int, seconds: float, *, best: float) -> list[dict[str, Any]]:
    """Both sides' passes, with one that something else held up."""
    sides = ((tuner.mine_in_duel(final), seconds), (tuner.best_in_duel(final), best))
    return [
        way(n, name, s * (9 if n == 3 and name == sides[0][0] else 1))
        for name, s in sides
        for n in range(tuner.DUELS)
    ]


def priced(cold: float, best: float) -> list[dict[str, Any]]:
    """Pairs of runs that get slower."""
    return [way(n, name, s + n) for n in range(3) for name, s in (("cold run", cold), ("best run", best))]


def test_a_tuner_that_ends_with_the_best_needs_no_duel() -> None:
    """Its speed against the best is 1, however the passes of the sweep came out."""
    rounds = [
        [
            way(number, "cold", 11.0, budget=512, settled=True),
            way(number, "512", 1.0 + number),
            *(way(number, other, 2.0) for other in ("count", "count in order", "documents")),
        ]
        for number in range(2)
    ]
    measured = [one for passes_ in [*rounds, priced(2.0, 2.0)] for one in passes_]
    found = tuner.summarise(measured, priced_texts=1000)
    assert found["final_against_best"] == {"median": 1.0, "low": 1.0, "high": 1.0}


def test_tuner_summary() -> None:
    """The tuner's final budget is compared in the duel, its cost is that of runs in turn with the best's."""
    rounds = [
        [
            way(number, "cold", 11.0, budget=512, settled=True),
            way(number, "512", 1.1),
            way(number, "1024", 1.0),
            way(number, "count", 1.54),
            way(number, "count in order", 2.2),
            way(number, "documents", 1.1),
        ]
        for number in range(2)
    ]
    measured = [
        one for passes_ in [*rounds, duel(512, 1.25, best=1.2), priced(11.0, 10.0)] for one in passes_
    ]
    found = tuner.summarise(measured, priced_texts=1000)
    assert found["best_budget"] == 1024
    assert found["final_budgets"] == [512, 512]
    assert found["final_against_best"]["median"] == pytest.approx(1.2 / 1.25, rel=1e-3)
    assert found["cost_in_10000_texts"]["median"] == pytest.approx(0.1 / 11.0, rel=1e-3)
    assert found["against_count_in_order"]["median"] == 2.0
    assert found["against_count_sorted"]["median"] == 1.4
    assert found["documents_against_count_in_order"]["median"] == 2.0
    assert found["documents_against_count_sorted"]["median"] == 1.4


def test_best_budget_ignores_those_that_left_the_race() -> None:
    """A budget that was lucky once and not repeated cannot be the best."""
    measured = [way(0, "64", 0.1), way(0, "128", 1.0), way(1, "128", 1.0)]
    assert tuner.best_budget(measured) == 128
