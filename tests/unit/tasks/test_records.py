"""What a record of a task may hold, and what becomes of a line of a list."""

from __future__ import annotations

from typing import Any

import pytest

from embatch.errors import RowError
from embatch.frontends.tasks.records import (
    completed,
    last_of_each,
    make_record,
    read_entry,
    shown,
)

NOW = "2026-01-02T03:04:05.000Z"


def test_a_record_has_its_keys_and_keeps_foreign_ones() -> None:
    """What is not known stays; what says how an older record was made goes."""
    record = make_record(
        {
            "task_id": 7,
            "title": "a",
            "files_touched": "x, y",
            "epic": {"id": 1},
            "embedding": [1],
            "embedding_model": "old",
            "quality": None,
        },
        now=NOW,
        outcome="failure",
    )
    assert record == {
        "task_id": "7",
        "embedding": None,
        "timestamp": NOW,
        "outcome": {"status": "failure"},
        "title": "a",
        "files_touched": ["x", "y"],
        "epic": {"id": 1},
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"task_id": ""},
        {"task_id": None},
        {"task_id": True},
        {"outcome": "great"},
        {"outcome": {"status": "x"}},
        {"outcome": {"status": "success", "reason": 5}},
        {"duration_ms": "5"},
        {"duration_ms": -1},
        {"duration_ms": True},
        {"complexity_score": float("nan")},
        {"quality": "best"},
        {"timestamp": 5},
        {"title": ["x"]},
        {"note": float("inf")},
        {"note": {1, 2}},
    ],
)
def test_what_a_key_may_not_hold_is_named(wrong: dict[str, Any]) -> None:
    """A wrong value is an error of this task, with the key's name in it."""
    with pytest.raises(
        RowError, match=r"task_id|outcome|duration_ms|complexity_score|quality|timestamp|title|JSON"
    ):
        make_record({"task_id": "T", "title": "a", **wrong}, now=NOW)


def test_a_task_keeps_its_own_time_and_outcome() -> None:
    """Without an outcome of the command the task's own counts, and its reason stays."""
    task = {
        "task_id": "T",
        "title": "a",
        "timestamp": "then",
        "outcome": {"status": "abandoned", "reason": "r"},
    }
    record = make_record(task, now=NOW)
    assert record["timestamp"] == "then"
    assert record["outcome"] == {"status": "abandoned", "reason": "r"}


def test_lines_are_ids_or_objects() -> None:
    """A line is an id, or an object whose `id` and `files` are understood; a blank one is nothing."""
    entry = read_entry(b" T 1 \r", 1)
    assert entry is not None
    assert entry.task == {"task_id": "T 1"}
    entry = read_entry(b'{"id": "T2", "files": ["a"]}', 2)
    assert entry is not None
    assert entry.task == {"task_id": "T2", "files_touched": ["a"]}
    assert read_entry(b"  ", 3) is None
    for broken in (b"{x", b"\xff"):
        with pytest.raises(RowError):
            read_entry(broken, 4)


def test_a_task_without_a_text_takes_what_is_known() -> None:
    """Its own fields come first; how the known record was made is not taken over."""
    known = {
        "task_id": "T",
        "title": "a",
        "quality": "low",
        "epic": 1,
        "timestamp": "old",
        "embedding_model": "m",
    }
    assert completed({"task_id": "T", "quality": "high"}, known) == {
        "task_id": "T",
        "title": "a",
        "quality": "high",
        "epic": 1,
    }
    with pytest.raises(RowError, match="not known"):
        completed({"task_id": "T"}, None)


def test_the_last_record_of_a_task_counts() -> None:
    """Of each task the last place is given, in order."""
    assert last_of_each([{"task_id": name} for name in "abcab"]) == [2, 3, 4]


def test_an_answer_is_confident_above_a_half() -> None:
    """A similarity of exactly one half is not confident, and vectors are not shown."""
    record = {"task_id": "T", "embedding": None, "embedding_model": "m", "title": "a"}
    assert shown(record, 0.5, confident_above=0.5) == {
        "task_id": "T",
        "title": "a",
        "similarity": 0.5,
        "is_confident": False,
    }
    assert shown(record, 0.500001, confident_above=0.5)["is_confident"] is True
