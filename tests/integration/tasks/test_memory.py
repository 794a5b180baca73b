"""A workspace's memory from Python: recorded, found again, brought to another model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from embatch.errors import SourceNotFoundError
from embatch.tasks import NeuralBackend, TaskEmbedder, TaskMemory, TFIDFBackend

if TYPE_CHECKING:
    from pathlib import Path

TASKS: list[dict[str, Any]] = [
    {"task_id": "A", "title": "Fix the login timeout", "outcome": "success"},
    {"task_id": "B", "title": "Fix the login timeout again", "outcome": "failure"},
    {"task_id": "C", "title": "Fix the login timeout once more", "outcome": "abandoned"},
    {"task_id": "D", "title": "Draw a weather chart", "outcome": "success", "epic": {"id": 7}},
]


@pytest.fixture
def memory(workspace: Path) -> TaskMemory:
    memory = TaskMemory(workspace, "tfidf")
    assert not memory.record(TASKS).failed
    return memory


def neural(workspace: Path) -> TaskMemory:
    """The same workspace under another model, which needs no files."""
    return TaskMemory(workspace, embedder=TaskEmbedder("neural", model_name="hashing-384"))


def ask(memory: TaskMemory, title: str, **options: Any) -> list[str]:
    found, failed = memory.similar([{"task_id": "?", "title": title}], **options)
    assert not failed
    return [task["task_id"] for task in found["?"]]


def test_there_must_be_a_workspace(tmp_path: Path) -> None:
    """A folder that is not there is named, not made."""
    with pytest.raises(SourceNotFoundError, match="no workspace folder"):
        TaskMemory(tmp_path / "none", "tfidf")


def test_similar_tasks_come_first_and_filters_hold(memory: TaskMemory) -> None:
    """The nearest first, abandoned ones only if asked for, at most k, none below the least similarity."""
    assert ask(memory, "Fix the login timeout") == ["A", "B"]
    assert ask(memory, "Fix the login timeout", exclude_abandoned=False) == ["A", "C", "B"]
    assert ask(memory, "Fix the login timeout", success_only=True) == ["A"]
    assert ask(memory, "Fix the login timeout", k=1) == ["A"]
    assert set(ask(memory, "Fix the login timeout", min_similarity=-1)) == {"A", "B", "D"}
    assert ask(memory, "entirely different words") == []


def test_a_task_is_not_similar_to_itself(memory: TaskMemory) -> None:
    """A task that is asked for by its id is left out of its own answer."""
    found, failed = memory.similar([{"task_id": "A"}])
    assert not failed
    assert [task["task_id"] for task in found["A"]] == ["B"]


def test_recorded_again_the_last_record_counts(memory: TaskMemory) -> None:
    """An older record of a task is not found any more, but stays in the file."""
    memory.record([{"task_id": "A", "title": "Write release notes"}])
    assert ask(memory, "Fix the login timeout") == ["B"]
    assert ask(memory, "Write release notes") == ["A"]
    assert len(memory.file.path.read_bytes().splitlines()) == 5


def test_the_same_vectors_in_batches_and_one_by_one(workspace: Path, memory: TaskMemory) -> None:
    """The file is the same but for the times."""
    other = workspace / "other"
    other.mkdir()
    single = TaskMemory(other, "tfidf")
    for task in TASKS:
        single.record([task], batch_size=1)

    def content(one: TaskMemory) -> list[dict[str, Any]]:
        rows = [json.loads(line) for line in one.file.path.read_bytes().splitlines()]
        return [{**row, "timestamp": None} for row in rows]

    assert content(single) == content(memory)


def test_bad_tasks_do_not_hold_up_the_others(workspace: Path) -> None:
    """Each is named with its reason; all others are recorded."""
    report = TaskMemory(workspace, "tfidf").record(
        [TASKS[0], {"title": "no id"}, {"task_id": "E"}, {"task_id": "F", "title": "\ud800"}, TASKS[3]]
    )
    assert report.recorded == ["A", "D"]
    assert [failure.task for failure in report.failed] == ["(no id)", "E", "F"]


def test_what_is_known_comes_from_records_and_from_the_list(workspace: Path, memory: TaskMemory) -> None:
    """An id alone takes text and foreign keys from its record, or from tasks.jsonl; broken lines are passed over."""
    listed = {"id": "L", "title": "Speed up the import", "files": ["a.py"], "epic": 9}
    (memory.folder / "tasks.jsonl").write_text(json.dumps(listed) + "\n{broken\n[]\n\n", "utf-8")
    again = TaskMemory(workspace, "tfidf")
    report = again.record([{"task_id": "L"}, {"task_id": "D"}, {"task_id": "X"}])
    assert report.recorded == ["L", "D"]
    assert [failure.task for failure in report.failed] == ["X"]
    records = {record["task_id"]: record for record in again.corpus().records}
    assert records["L"]["files_touched"] == ["a.py"]
    assert records["L"]["epic"] == 9
    assert records["D"]["epic"] == {"id": 7}


def test_other_models_vectors_are_noticed_and_never_compared(workspace: Path, memory: TaskMemory) -> None:
    """They are counted by model; records that do not say how they were made count as another model's."""
    vector = TFIDFBackend().compute_embedding("Fix the login timeout").tolist()
    old = {
        "task_id": "old",
        "embedding": vector,
        "timestamp": "t",
        "outcome": {"status": "success"},
        "title": "x",
    }
    with memory.file.path.open("a") as file:
        file.write(json.dumps(old) + "\n")
    assert memory.corpus().other_models == {"": 1}
    assert "old" not in ask(memory, "Fix the login timeout")
    other = neural(workspace)
    assert other.corpus().other_models == {"hashing-384": 4, "": 1}
    assert ask(other, "Fix the login timeout", min_similarity=-1) == []


def test_reindexing_changes_vectors_and_nothing_else(workspace: Path, memory: TaskMemory) -> None:
    """All keys, foreign ones too, the order, older records and broken lines survive; then all can be compared."""
    memory.record([{"task_id": "A", "title": "Write release notes"}])
    with memory.file.path.open("a") as file:
        file.write("{broken\n")
    before = memory.file.path.read_bytes().splitlines()
    other = neural(workspace)
    report = other.reindex()
    assert (report.total, report.stale, report.reindexed, report.left) == (4, 4, 4, 0)
    assert [problem.line for problem in report.problems] == [6]
    after = memory.file.path.read_bytes().splitlines()
    assert after[5] == b"{broken"
    assert after[0] == before[0]  # the record of A that no longer counts
    for old, new in zip(before[1:5], after[1:5], strict=True):
        was, now = json.loads(old), json.loads(new)
        changed = {"embedding", "embedding_model", "embedding_fingerprint"}
        assert {k: v for k, v in was.items() if k not in changed} == {
            k: v for k, v in now.items() if k not in changed
        }
        assert list(was) == list(now)
        expected = NeuralBackend(model_name="hashing-384").compute_embedding(was["title"])
        np.testing.assert_array_equal(np.array(now["embedding"], np.float32), expected)
    assert other.corpus().other_models == {}
    assert ask(other, "Draw a weather chart") == ["D"]


def test_a_limit_goes_on_where_the_last_one_ended(workspace: Path, memory: TaskMemory) -> None:
    """Records of other models come first, so that repeated calls get through all of them."""
    other = neural(workspace)
    assert [other.reindex(limit=3).left, other.corpus().other_models] == [1, {"hashing-384": 1}]
    other.reindex(limit=3)
    assert other.corpus().other_models == {}
    assert len(memory.corpus().records) == 0


def test_a_dry_run_changes_nothing(workspace: Path, memory: TaskMemory) -> None:
    """It only counts."""
    before = memory.file.path.read_bytes()
    report = neural(workspace).reindex(dry_run=True, backup=True)
    assert report.reindexed == 4
    assert memory.file.path.read_bytes() == before
    assert not list(memory.folder.glob("*.bak"))


def test_a_record_without_a_text_keeps_its_vector_and_is_named(workspace: Path, memory: TaskMemory) -> None:
    """It cannot be brought to another model unless tasks.jsonl knows it."""
    vector = [1.0] + [0.0] * 383
    rows = [
        {"task_id": name, "embedding": vector, "timestamp": "t", "outcome": {"status": "success"}}
        for name in "XY"
    ]
    with memory.file.path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    (memory.folder / "tasks.jsonl").write_text('{"task_id": "Y", "title": "Known elsewhere"}\n')
    report = TaskMemory(workspace, "tfidf").reindex()
    assert [failure.task for failure in report.failed] == ["X"]
    assert report.reindexed == 5
    last = [json.loads(line) for line in memory.file.path.read_bytes().splitlines()][-2:]
    assert last[0] == rows[0]
    assert "title" not in last[1]
    assert last[1]["embedding"] != vector


def test_reindexing_nothing_makes_nothing(workspace: Path) -> None:
    """Without a file there is nothing to do."""
    report = TaskMemory(workspace, "tfidf").reindex(backup=True)
    assert (report.total, report.reindexed, report.output) == (0, 0, None)
    assert not (workspace / "state").exists()


def test_the_file_is_read_again_only_if_it_has_changed(workspace: Path, memory: TaskMemory) -> None:
    """Another process's record is found by the next question."""
    assert ask(memory, "Write release notes") == []
    TaskMemory(workspace, "tfidf").record([{"task_id": "E", "title": "Write release notes"}])
    assert ask(memory, "Write release notes") == ["E"]
