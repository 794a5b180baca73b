"""How the rounds of the benchmark of tasks become its table."""

from __future__ import annotations

from typing import Any

from benchmarks.suites.tasks import NEURAL, SINGLE, summarise, tables, way_name
from benchmarks.systems import YARDSTICK


def passed(system: str, size: int, *seconds: float) -> list[dict[str, Any]]:
    return [
        {"round": number, "way": way_name(system, size), "count": 100, "seconds": s}
        for number, s in enumerate(seconds)
    ]


def test_ratios_are_taken_within_a_round() -> None:
    """The median of the rounds' ratios, not the ratio of the medians; no ratio where the yardstick is missing."""
    passes = [*passed(YARDSTICK, SINGLE, 1.0, 10.0, 4.0), *passed(NEURAL, 32, 0.1, 0.5, 0.4)]
    summary = summarise(passes)["100"]
    assert summary["embatch tasks, batches of 32"]["ratio"]["median"] == 10
    assert summary["embatch tasks, batches of 32"]["ms_per_task"]["median"] == 4
    assert "ratio" not in summarise(passed(NEURAL, 32, 0.1))["100"]["embatch tasks, batches of 32"]


def test_the_table_has_a_row_for_each_way_and_says_what_memory_it_took() -> None:
    """Milliseconds and ratio by pile; below it memory and cosines."""
    passes = [*passed(YARDSTICK, SINGLE, 1.0), *passed(NEURAL, 32, 0.1)]
    machine = {"processor": "p", "family": "1", "cores": 2, "memory_gib": 4, "kernel": "k"}
    result = {
        "machine": machine,
        "commit": "c",
        "date": "d",
        "not_run": {},
        "summary": {
            "piles": summarise(passes),
            "cosines": {"min": 0.99991},
            "recording": {"tasks": 1000, "seconds": 2.5, "peak_mib": 300.0},
        },
    }
    text = tables(result)["tasks"]
    assert "| sentence-transformers, one at a time | 10 (1.0) |" in text
    assert "| embatch tasks, batches of 32 | 1 (10.0) |" in text
    assert "1,000 tasks took 2.5 s, start included, and 300 MiB at most" in text
    assert "0.99991" in text
