"""The task file: whole lines or none, whatever crashes, whoever else writes, and however full the disk is."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from filelock import FileLock

from embatch.errors import (
    DiskFullError,
    OutputBusyError,
    OutputMismatchError,
    OutputNotWritableError,
    SourceFormatError,
    SourceUnreadableError,
)
from embatch.storage.task_file import TaskFile, free_backup
from embatch.storage.task_lines import write_lines

if TYPE_CHECKING:
    from pathlib import Path


def lines(*names: str) -> list[bytes]:
    return write_lines([{"task_id": name} for name in names], np.ones((len(names), 2), np.float32))


def names(file: TaskFile) -> list[str]:
    return [record["task_id"] for record in file.read(dimensions=2).content.records]


@pytest.fixture
def file(tmp_path: Path) -> TaskFile:
    return TaskFile(tmp_path / "deep" / "vectors.jsonl")


def test_no_file_holds_nothing(file: TaskFile) -> None:
    """Before the first append there is nothing, and reading makes nothing."""
    assert names(file) == []
    assert not file.path.parent.exists()


def test_lines_are_appended_in_order(file: TaskFile) -> None:
    """The first append makes file and folder."""
    file.append(lines("a", "b"))
    file.append([])
    file.append(lines("c"))
    assert names(file) == ["a", "b", "c"]


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_is_kept_aside(file: TaskFile, cut: int, caplog: pytest.LogCaptureFixture) -> None:
    """What a crash tore is passed over in reading, and moved beside the file, with a word, by the next append."""
    file.append(lines("a", "b"))
    whole = file.path.read_bytes()
    torn = lines("torn")[0][:cut]
    file.path.write_bytes(whole + torn)
    assert names(file) == ["a", "b"]
    assert file.read(dimensions=2).torn
    file.append(lines("c"))
    assert names(file) == ["a", "b", "c"]
    assert not file.read(dimensions=2).torn
    assert file.aside.read_bytes() == torn + b"\n"
    assert "kept in" in caplog.text


def test_a_last_line_without_its_line_feed_counts(file: TaskFile) -> None:
    """Another program may end its file so; the next append begins on a line of its own."""
    file.append(lines("a"))
    file.path.write_bytes(file.path.read_bytes().rstrip(b"\n"))
    assert names(file) == ["a"]
    file.append(lines("b"))
    assert names(file) == ["a", "b"]
    assert not file.aside.exists()


def test_a_long_torn_line_is_found(file: TaskFile) -> None:
    """Its beginning may lie further back than one block."""
    file.append(lines("a"))
    with file.path.open("ab") as raw:
        raw.write(b'{"task_id": "' + b"x" * 3_000_000)
    file.append(lines("b"))
    assert names(file) == ["a", "b"]
    assert file.aside.stat().st_size == 3_000_014


def test_broken_lines_stay_in_the_file(file: TaskFile) -> None:
    """They are reported by reading, and neither appending nor replacing drops them."""
    file.append(lines("a"))
    with file.path.open("ab") as raw:
        raw.write(b"{broken\n")
    file.append(lines("b"))
    seen = file.read(dimensions=2)
    assert [problem.line for problem in seen.content.problems] == [2]
    file.replace(seen, lambda _, line: line.replace(b'"a"', b'"z"'))
    assert names(file) == ["z", "b"]
    assert b"{broken\n" in file.path.read_bytes()


def test_a_file_of_another_kind_is_left_alone(file: TaskFile) -> None:
    """Neither read nor appended to: the message says to move it away."""
    file.path.parent.mkdir()
    file.path.write_bytes(b"id,vector\n1,2\n")
    with pytest.raises(SourceFormatError, match="no file of task vectors"):
        file.read(dimensions=2)
    with pytest.raises(SourceFormatError):
        file.append(lines("a"))
    assert file.path.read_bytes() == b"id,vector\n1,2\n"


def test_what_was_appended_meanwhile_survives_a_replacement(file: TaskFile) -> None:
    """Records of other processes come after the others, as they are, and no temporary file is left."""
    file.append(lines("a", "b"))
    seen = file.read(dimensions=2)
    file.append(lines("c"))
    backup = free_backup(file.path)
    file.replace(
        seen, lambda number, line: line.replace(b'"b"', b'"B"') if number == 2 else line, backup=backup
    )
    assert names(file) == ["a", "B", "c"]
    assert names(TaskFile(backup)) == ["a", "b", "c"]
    assert {path.name for path in file.path.parent.iterdir()} == {
        "vectors.jsonl",
        "vectors.jsonl.bak",
        "vectors.jsonl.lock",
    }
    assert free_backup(file.path).name == "vectors.jsonl.bak.2"


def test_a_file_that_was_replaced_meanwhile_is_not_overwritten(file: TaskFile) -> None:
    """Two reindexes at once: the second is told, and changes nothing."""
    file.append(lines("a"))
    seen = file.read(dimensions=2)
    file.replace(seen, lambda _, line: line.replace(b"a", b"z", 1))
    now = file.path.read_bytes()
    with pytest.raises(OutputMismatchError, match="another process has replaced"):
        file.replace(seen, lambda _, line: line)
    assert file.path.read_bytes() == now


def test_another_output_leaves_the_file_alone(file: TaskFile, tmp_path: Path) -> None:
    """Its folder is made."""
    file.append(lines("a"))
    before = file.path.read_bytes()
    other = tmp_path / "new" / "out.jsonl"
    file.replace(file.read(dimensions=2), lambda _, line: line.replace(b'"a"', b'"z"'), output=other)
    assert file.path.read_bytes() == before
    assert names(TaskFile(other)) == ["z"]


def test_a_failed_replacement_leaves_the_file_as_it_was(file: TaskFile) -> None:
    """An error half way leaves neither half a file nor a temporary one."""
    file.append(lines("a", "b"))
    before = file.path.read_bytes()

    def broken(number: int, line: bytes) -> bytes:
        if number == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return line

    with pytest.raises(DiskFullError):
        file.replace(file.read(dimensions=2), broken)
    assert file.path.read_bytes() == before
    assert not list(file.path.parent.glob("*.part")) + list(file.path.parent.glob(".*.part"))


def test_a_file_that_others_hold_too_long_is_busy(file: TaskFile) -> None:
    """The wait has an end, and the message says how long it was."""
    file.append(lines("a"))
    with FileLock(f"{file.path}.lock"), pytest.raises(OutputBusyError, match=r"0\.01 s"):
        TaskFile(file.path, lock_s=0.01).append(lines("b"))
    assert names(file) == ["a"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A file where a folder should be, and a folder where the file should be."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputNotWritableError):
        TaskFile(tmp_path / "file" / "vectors.jsonl").append(lines("a"))
    with pytest.raises(OutputNotWritableError):
        TaskFile(tmp_path).append(lines("a"))
    with pytest.raises(SourceUnreadableError):
        TaskFile(tmp_path).read(dimensions=2)


def test_a_full_disk_leaves_whole_lines_only(file: TaskFile) -> None:
    """What did not fit is taken back to the last byte; the limit on a file's size stands for the disk's end."""
    file.append(lines("a"))
    before = file.path.read_bytes()
    many = lines(*map(str, range(1000)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(DiskFullError, match="no space left"):
            file.append(many)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    assert file.path.read_bytes() == before
    file.append(many)
    assert len(names(file)) == 1001


WRITER = """
import sys
from pathlib import Path
import numpy as np
from embatch.storage.task_file import TaskFile
from embatch.storage.task_lines import write_lines
file = TaskFile(Path(sys.argv[1]))
for number in range(60):
    file.append(write_lines([{"task_id": f"{sys.argv[2]}-{number}"}], np.ones((1, 2), np.float32)))
"""


def test_two_processes_lose_nothing(file: TaskFile) -> None:
    """Both append to one file at once: every line is whole, and each one's are in its order."""
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(file.path), name], env=dict(os.environ))
        for name in ("left", "right")
    ]
    assert [process.wait() for process in processes] == [0, 0]
    found = file.read(dimensions=2)
    assert not found.content.problems
    for name in ("left", "right"):
        mine = [record["task_id"] for record in found.content.records if record["task_id"].startswith(name)]
        assert mine == [f"{name}-{number}" for number in range(60)]
