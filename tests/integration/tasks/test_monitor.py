"""`MonitorRunner`: batches of what has arrived, one warm model, and nothing lost that was handed over."""

from __future__ import annotations

import json
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from embatch.errors import DiskFullError, OutputBusyError, RowError, SourceUnreadableError
from embatch.frontends.tasks.spool import Spool
from embatch.tasks import MonitorRunner, TaskEmbedder, TaskMemory, submit_task

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from embatch.frontends.tasks.workspace import RecordReport
    from embatch.types import FloatArray, ItemFailure


class Counting(TaskEmbedder):
    """Hashed words; remembers how many tasks each call of the batch method got, and fails when told to."""

    def __init__(self) -> None:
        super().__init__("tfidf")
        self.batches: list[int] = []
        self.fail = False
        real = self.backend.embed_tasks

        def counted(
            tasks: Sequence[Any], batch_size: int = 32, **options: Any
        ) -> tuple[FloatArray, list[ItemFailure]]:
            self.batches.append(len(tasks))
            if self.fail:
                raise DiskFullError("no space left")
            return real(tasks, batch_size, **options)

        self.embed_tasks = counted


def task(name: object, **more: Any) -> dict[str, Any]:
    return {"task_id": str(name), "title": f"Fix part {name}", **more}


def recorded(workspace: Path) -> list[str]:
    return [record["task_id"] for record in TaskMemory(workspace, "tfidf").corpus().records]


def runner(workspace: Path, **options: Any) -> MonitorRunner:
    return MonitorRunner(workspace, "tfidf", wait_s=0, settled_s=0, **options)


def test_monitor_runner_uses_the_batch_api(workspace: Path) -> None:
    """Seventy waiting tasks are computed in three calls, not in seventy."""
    embedder = Counting()
    monitor = MonitorRunner(workspace, embedder=embedder, wait_s=0)
    for number in range(70):
        monitor.submit(task(number))
    total = monitor.run_spool(once=True)
    assert embedder.batches == [32, 32, 6]
    assert (total.recorded, total.batches, total.failed) == (70, 3, 0)
    assert recorded(workspace) == [str(number) for number in range(70)]
    assert [path.name for path in monitor.spool_folder.iterdir()] == [".taken"]


def test_a_task_leaves_the_spool_only_when_it_is_durable(workspace: Path) -> None:
    """When recording fails, every file stays, and the next run takes them in their order."""
    embedder = Counting()
    monitor = MonitorRunner(workspace, embedder=embedder, wait_s=0)
    for title in ("old", "new"):
        monitor.submit({"task_id": "T", "title": title})
    embedder.fail = True
    with pytest.raises(DiskFullError):
        monitor.run_spool(once=True)
    assert recorded(workspace) == []
    embedder.fail = False
    assert monitor.run_spool(once=True).recorded == 2
    (record,) = TaskMemory(workspace, "tfidf").corpus().records
    assert record["title"] == "new"


def test_files_that_are_no_tasks_are_put_aside_with_the_reason(workspace: Path, tmp_path: Path) -> None:
    """Good ones among them are recorded; whatever is broken ends in failed/, and its reason beside it."""
    spool = tmp_path / "spool"
    spool.mkdir()
    contents = {
        "a.json": json.dumps(task(1)),
        "b.json": "{broken",
        "c.json": '{"title": "no id"}',
        "d.json": '{"task_id": "silent"}',
        "e.json": json.dumps(task(2, outcome={"status": "failure"}, epic=3)),
        "ignored.txt": "x",
        ".hidden.json": "x",
    }
    for name, text in contents.items():
        (spool / name).write_text(text)
    seen: list[RecordReport] = []
    total = runner(workspace, on_batch=seen.append).run_spool(spool, once=True, keep=True)
    assert (total.recorded, total.failed) == (2, 3)
    assert recorded(workspace) == ["1", "2"]
    assert sorted(path.name for path in (spool / "done").iterdir()) == ["a.json", "e.json"]
    failed = {path.name for path in (spool / "failed").iterdir()}
    assert failed == {f"{one}{end}" for one in "bcd" for end in (".json", ".error.txt")}
    assert "not JSON" in (spool / "failed" / "b.error.txt").read_text()
    assert (spool / "ignored.txt").exists()
    assert (spool / ".hidden.json").exists()
    assert {failure.task for report in seen for failure in report.failed} == {
        f"failed/{one}.json" for one in "bcd"
    }


def test_a_file_that_is_still_being_written_is_left_until_it_is_whole(
    workspace: Path, tmp_path: Path
) -> None:
    """A young file that is no JSON yet is neither recorded nor put aside."""
    spool = Spool(tmp_path / "spool", settled_s=1000)
    path = tmp_path / "spool" / "a.json"
    with spool.claimed():
        path.write_text(json.dumps(task(1))[:10])
        assert spool.take(spool.waiting()) == []
        (tmp_path / "spool" / ".taken" / "a.json").write_text(json.dumps(task(1)))
        (found,) = spool.take(spool.waiting())
        assert found.entry is not None
        assert found.entry.name == "1"
    assert workspace.exists()


def test_one_monitor_a_folder(workspace: Path) -> None:
    """A second one is told that another process is at it."""
    with Spool(workspace / "state/quality_graph/spool").claimed(), pytest.raises(OutputBusyError):
        runner(workspace).run_spool(once=True)


def test_what_a_crash_left_claimed_comes_first(workspace: Path) -> None:
    """A file that was claimed before is older than all others."""
    spool = Spool(workspace / "state/quality_graph/spool")
    first = submit_task(workspace, {"task_id": "T", "title": "first"})
    with spool.claimed():
        assert len(spool.take([first.name])) == 1
    submit_task(workspace, {"task_id": "T", "title": "second"})
    runner(workspace).run_spool(once=True)
    (record,) = TaskMemory(workspace, "tfidf").corpus().records
    assert record["title"] == "second"


def test_handing_over_checks_what_it_can(workspace: Path) -> None:
    """A task without an id, or with something that JSON cannot say, is refused at the door."""
    for wrong in ({"title": "a"}, {"task_id": "T", "x": {1}}):
        with pytest.raises(RowError):
            submit_task(workspace, wrong)
    assert not list(workspace.rglob("*.json"))


def test_it_runs_until_it_is_stopped(workspace: Path) -> None:
    """Tasks that come later are recorded, and `stop` from another thread ends the run."""
    done = threading.Event()
    monitor = runner(workspace, on_batch=lambda _: done.set())
    thread = threading.Thread(target=monitor.run_spool)
    thread.start()
    monitor.submit(task(1))
    assert done.wait(30)
    done.clear()
    monitor.submit(task(2))
    assert done.wait(30)
    monitor.stop()
    thread.join(30)
    assert not thread.is_alive()
    assert recorded(workspace) == ["1", "2"]


def test_lines_are_recorded_in_batches_of_what_has_come(workspace: Path) -> None:
    """Broken lines are named by their number, unknown ids too, and the end of the lines is the end of the run."""
    lines = [json.dumps(task(number)).encode() for number in range(40)]
    lines[3] = b"{broken"
    lines[4] = b"UNKNOWN"
    lines.insert(5, b"\n")
    seen: list[RecordReport] = []
    monitor = runner(workspace, on_batch=seen.append, batch_size=16)
    total = monitor.run_lines(lines)
    assert (total.recorded, total.failed) == (38, 2)
    assert [failure.task for report in seen for failure in report.failed] == ["line 4", "UNKNOWN"]
    assert len(recorded(workspace)) == 38
    assert max(len(report.recorded) for report in seen) <= 16


def test_lines_that_break_off_are_an_error_after_what_came(workspace: Path) -> None:
    """What was read before is recorded first."""

    def lines() -> Iterator[bytes]:
        yield json.dumps(task(1)).encode()
        raise OSError("the pipe burst")

    with pytest.raises(SourceUnreadableError, match="the pipe burst"):
        runner(workspace).run_lines(lines())
    assert recorded(workspace) == ["1"]


def test_a_task_that_cannot_be_read_is_put_aside(workspace: Path, tmp_path: Path) -> None:
    """A folder under a task's name is no task, and does not stop the others."""
    spool = tmp_path / "spool"
    (spool / "a.json").mkdir(parents=True)
    (spool / "b.json").write_text(json.dumps(task(1)))
    os.utime(spool / "a.json", (1, 1))
    total = runner(workspace).run_spool(spool, once=True)
    assert (total.recorded, total.failed) == (1, 1)
    assert (spool / "failed" / "a.json").is_dir()
