"""`embatch tasks` from end to end: answers as JSON, exit codes 0, 1 and 130, messages with the way out."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Tell = Callable[..., Any]

FULL = [
    "--title", "Add user authentication", "--description", "Implement JWT-based auth", "--files", "src/b.ts, src/a.ts",
    "--outcome", "success", "--quality", "high", "--complexity_score", "2.5", "--embedding-mode", "tfidf",
]  # fmt: skip


def vectors(workspace: Path) -> list[dict[str, Any]]:
    path = workspace / "state" / "quality_graph" / "task_vectors.jsonl"
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.mark.parametrize("spelling", ["--duration_ms", "--duration-ms"])
def test_a_task_is_recorded_and_found(workspace: Path, tell: Tell, spelling: str) -> None:
    """The record has all keys of the founding documents, the answer all but the vector."""
    told = tell("record", workspace, "T1", *FULL, spelling, "7200000")
    assert told.code == 0
    assert (told.answer["success"], told.answer["recorded"]) == (True, ["T1"])
    assert "ms each" in told.err
    (row,) = vectors(workspace)
    assert np.linalg.norm(row["embedding"]) == pytest.approx(1, abs=1e-5)
    assert len(row["embedding"]) == 384
    assert {k: v for k, v in row.items() if not k.startswith(("embedding", "timestamp"))} == {
        "task_id": "T1",
        "outcome": {"status": "success"},
        "title": "Add user authentication",
        "description": "Implement JWT-based auth",
        "files_touched": ["src/b.ts", "src/a.ts"],
        "duration_ms": 7_200_000,
        "quality": "high",
        "complexity_score": 2.5,
    }
    told = tell(
        "query", workspace, "--title", "Add authentication of a user", "--k", 5, "--min-similarity", 0.3
    )
    assert told.code == 0
    assert (told.answer["success"], told.answer["count"]) == (True, 1)
    (found,) = told.answer["similar_tasks"]
    assert found["task_id"] == "T1"
    assert found["is_confident"] is (found["similarity"] > 0.5)
    assert not {"embedding", "embedding_model", "embedding_fingerprint"} & set(found)


def test_many_from_a_file_are_recorded_as_one_by_one(workspace: Path, tmp_path: Path, tell: Tell) -> None:
    """Objects and ids; an unknown id and a broken line are named, the rest go on, and the exit code is 1."""
    tell("record", workspace, "T1", *FULL)
    source = tmp_path / "tasks.txt"
    source.write_text('T1\n{"task_id": "T2", "title": "Draw a chart", "outcome": "failure"}\nT9\n\n{broken\n')
    told = tell("record", workspace, "--batch-from-file", source, "--batch-size", 8)
    assert told.code == 1
    assert told.answer["recorded"] == ["T1", "T2"]
    assert {failure["task"] for failure in told.answer["failed"]} == {"T9", "line 5"}
    assert "'T9' is not known here" in told.err
    rows = vectors(workspace)
    assert [row["task_id"] for row in rows] == ["T1", "T1", "T2"]
    assert rows[0]["embedding"] == rows[1]["embedding"]
    assert rows[2]["outcome"] == {"status": "failure"}
    told = tell(
        "record", workspace, "--batch-from-file", source, "--outcome", "abandoned", "--reason", "late"
    )
    assert vectors(workspace)[-1]["outcome"] == {"status": "abandoned", "reason": "late"}


def test_many_questions_are_answered_by_task_id(workspace: Path, tmp_path: Path, tell: Tell) -> None:
    """Each answer is what the single question gives, without the task itself."""
    for name, title in (("T1", "Add user login"), ("T2", "Add a user login page"), ("T3", "Draw a chart")):
        tell("record", workspace, name, "--title", title, "--outcome", "success")
    source = tmp_path / "ids.txt"
    source.write_text("T1\nT9\n" + json.dumps({"task_id": "new", "title": "Draw a new chart"}))
    told = tell("query", workspace, "--batch-query", source)
    assert told.code == 1
    found = told.answer["similar_tasks"]
    assert list(found) == ["T1", "new"]
    assert [task["task_id"] for task in found["T1"]] == ["T2"]
    assert told.answer["failed"][0]["task"] == "T9"
    single = tell("query", workspace, "--title", "Draw a new chart").answer["similar_tasks"]
    assert [task["task_id"] for task in single] == [task["task_id"] for task in found["new"]] == ["T3"]
    assert single[0]["similarity"] == pytest.approx(found["new"][0]["similarity"], abs=1e-5)


def test_filters_of_a_question(workspace: Path, tell: Tell) -> None:
    """Abandoned tasks are left out unless asked for; failures only on request."""
    for outcome in ("success", "failure", "abandoned"):
        tell("record", workspace, outcome, "--title", "Add user login", "--outcome", outcome)

    def ask(*options: str) -> set[str]:
        told = tell("query", workspace, "--title", "Add user login", *options)
        return {task["task_id"] for task in told.answer["similar_tasks"]}

    assert ask() == ask("--exclude-abandoned") == {"success", "failure"}
    assert ask("--no-exclude-abandoned") == {"success", "failure", "abandoned"}
    assert ask("--success-only") == {"success"}


def test_another_models_tasks_are_named_with_the_way_out(
    workspace: Path, tell: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command that is named works, and then all are found."""
    monkeypatch.setenv("QUALITY_GRAPH_EMBED_MODEL_NAME", "hashing-384")
    tell("record", workspace, "T1", *FULL)
    told = tell("query", workspace, "--title", "Add user authentication", "--embedding-mode", "neural")
    assert told.code == 0
    assert (told.answer["count"], told.answer["not_compared"]) == (0, 1)
    assert f"embatch tasks reindex {workspace} --embedding-mode neural" in told.err
    dry = tell("reindex", workspace, "--embedding-mode", "neural", "--dry-run")
    assert (dry.code, dry.answer["reindexed"], dry.answer["output"]) == (0, 1, None)
    done = tell("reindex", workspace, "--embedding-mode", "neural", "--backup", "--quiet")
    assert (done.code, done.answer["stale"], done.err) == (0, 1, "")
    assert (workspace / "state/quality_graph/task_vectors.jsonl.bak").exists()
    told = tell("query", workspace, "--title", "Add user authentication", "--embedding_mode", "neural")
    assert told.answer["count"] == 1


def test_a_reindex_that_could_not_do_all_ends_with_two(workspace: Path, tmp_path: Path, tell: Tell) -> None:
    """The others are done, into the file that was asked for."""
    tell("record", workspace, "T1", *FULL)
    path = workspace / "state" / "quality_graph" / "task_vectors.jsonl"
    with path.open("a") as file:
        file.write(
            json.dumps(
                {
                    **vectors(workspace)[0],
                    "task_id": "T2",
                    "title": "",
                    "description": "",
                    "files_touched": [],
                }
            )
            + "\n"
        )
    before = path.read_bytes()
    told = tell("reindex", workspace, "--output", tmp_path / "new" / "out.jsonl")
    assert told.code == 2
    assert [failure["task"] for failure in told.answer["failed"]] == ["T2"]
    assert told.answer["reindexed"] == 1
    assert path.read_bytes() == before
    assert len((tmp_path / "new" / "out.jsonl").read_bytes().splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["record", "nowhere", "T1", "--title", "a", "--outcome", "success"], "no workspace folder"),
        (["record", "WS"], "TASK_ID"),
        (["record", "WS", "T1", "--title", "a"], "--outcome"),
        (["record", "WS", "T1", "--title", "a", "--outcome", "great"], "great"),
        (["record", "WS", "T1", "--outcome", "success"], "not known here"),
        (["record", "WS", "T1", "--title", "a", "--outcome", "success", "--duration-ms", "-5"], "duration"),
        (["record", "WS", "--batch-from-file", "none.txt"], "no file"),
        (["record", "WS", "--batch-from-file", "WS"], "cannot read"),
        (["record", "WS", "--batch-from-file", "BINARY"], "no text"),
        (["record", "WS", "--batch-from-file", "BINARY", "--title", "a"], "--title"),
        (["query", "WS"], "--title"),
        (["query", "nowhere", "--title", "a"], "no workspace folder"),
        (["query", "WS", "--title", "a", "--batch-query", "BINARY"], "not both"),
        (["query", "WS", "--title", "a", "--k", "0"], "--k"),
        (["query", "WS", "--title", "a", "--embedding-mode", "magic"], "magic"),
        (["query", "WS", "--nonsense"], "nonsense"),
        (["reindex", "nowhere"], "no workspace folder"),
        (["monitor", "WS", "--spool", "nowhere"], "no spool folder"),
        (["monitor", "WS", "--stdin", "--once"], "--once"),
    ],
)  # fmt: skip
def test_mistakes_end_with_one_and_a_message(
    workspace: Path, tmp_path: Path, tell: Tell, arguments: list[str], message: str
) -> None:
    """Never a traceback; programs find the same on standard output."""
    (tmp_path / "binary").write_bytes(b"\0\1\2")
    known = {"WS": str(workspace), "BINARY": str(tmp_path / "binary")}
    told = tell(*(known.get(one, one) for one in arguments))
    assert told.code == 1
    assert told.answer["success"] is False
    assert message in told.err
    assert "Traceback" not in told.err


def test_a_file_of_another_kind_is_refused(workspace: Path, tell: Tell) -> None:
    """Neither asked nor recorded into, and left as it is."""
    path = workspace / "state" / "quality_graph" / "task_vectors.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("a,b\n1,2\n")
    for arguments in (["query", workspace, "--title", "a"], ["record", workspace, "T1", *FULL]):
        told = tell(*arguments)
        assert told.code == 1
        assert "no file of task vectors" in told.answer["error"]
    assert path.read_text() == "a,b\n1,2\n"


def test_broken_lines_are_told_and_passed_over(workspace: Path, tell: Tell) -> None:
    """A question goes on without them."""
    tell("record", workspace, "T1", *FULL)
    with (workspace / "state" / "quality_graph" / "task_vectors.jsonl").open("a") as file:
        file.write('{"task_id": "T2", "embedding": [1]}\n{"task_id": "T')
    told = tell("query", workspace, "--title", "Add user authentication")
    assert (told.code, told.answer["count"]) == (0, 1)
    assert "Line 2" in told.err
    assert "unfinished line" in told.err


def test_a_monitor_takes_what_lies_in_the_spool(workspace: Path, tell: Tell) -> None:
    """With --once it ends when the folder is empty; each batch is confirmed as JSON."""
    spool = workspace / "spool"
    spool.mkdir()
    for number in range(5):
        (spool / f"{number}.json").write_text(
            json.dumps({"task_id": f"T{number}", "title": f"Task {number}"})
        )
    told = tell("monitor", workspace, "--spool", spool, "--once")
    assert told.code == 0
    assert told.answer["recorded"] == [f"T{number}" for number in range(5)]
    assert not list(spool.glob("*.json"))


def test_a_monitor_takes_lines_from_standard_input(
    workspace: Path, tell: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends with the input, and with 1 if something failed."""
    lines = io.BytesIO(b'{"task_id": "T1", "title": "One"}\n{broken\n{"task_id": "T2", "title": "Two"}\n')
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(lines))
    told = tell("monitor", workspace, "--stdin", "--wait-ms", 5)
    assert told.code == 1
    assert [row["task_id"] for row in vectors(workspace)] == ["T1", "T2"]
    assert "Recorded 2 tasks" in told.err


@pytest.mark.kill
@pytest.mark.parametrize("source", [["--stdin"], []])
def test_ctrl_c_ends_a_monitor_with_130(workspace: Path, source: list[str]) -> None:
    """What was confirmed before is in the file."""
    command = [sys.executable, "-m", "embatch", "tasks", "monitor", str(workspace), *source]
    line = json.dumps({"task_id": "T1", "title": "One"})
    if not source:
        spool = workspace / "state" / "quality_graph" / "spool"
        spool.mkdir(parents=True)
        (spool / "a.json").write_text(line)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(line + "\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["recorded"] == ["T1"]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert "Traceback" not in process.stderr.read()
    assert [row["task_id"] for row in vectors(workspace)] == ["T1"]
