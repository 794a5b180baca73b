"""The file of rows without a vector: there if there are any, and only then."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from embatch.errors import BadVectorError, DiskFullError, OutputNotWritableError, TooLongError
from embatch.storage.sinks import ErrorFile, write_errors
from embatch.types import ItemFailure

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

FAILURES = [
    ItemFailure(
        row=4, key="näme\n\udcff", error=TooLongError("300 tokens", hint="Cut it."), source="a.txt:5"
    ),
    ItemFailure(row=9, key="k9", error=BadVectorError("NaN")),
]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_each_failure_is_a_line(tmp_path: Path) -> None:
    """Row, key, source, kind of error, message and way out."""
    path = write_errors(tmp_path / "x.parquet", FAILURES)
    assert path == tmp_path / "x.parquet.errors.jsonl"
    first, second = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert first == {
        "row": 4,
        "key": "näme\n\udcff",
        "source": "a.txt:5",
        "error": "TooLongError",
        "message": "300 tokens",
        "hint": "Cut it.",
    }
    assert second["hint"] == BadVectorError.default_hint


def test_no_failures_no_file(tmp_path: Path) -> None:
    """A run without failures leaves none, and removes one that an earlier run left."""
    assert write_errors(tmp_path / "x.parquet", []) is None
    assert names(tmp_path) == []
    write_errors(tmp_path / "x.parquet", FAILURES)
    assert write_errors(tmp_path / "x.parquet", []) is None
    assert names(tmp_path) == []


def test_what_a_killed_run_left_is_cleared(tmp_path: Path) -> None:
    """A temporary file of a dead process goes even if the repeated run has no failures."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    (tmp_path / f".x.parquet.errors.jsonl.{process.pid}.tmp").write_text("left over")
    write_errors(tmp_path / "x.parquet", [])
    assert names(tmp_path) == []


def test_an_earlier_file_stays_until_commit(tmp_path: Path) -> None:
    """A run that is aborted changes nothing."""
    path = write_errors(tmp_path / "x.parquet", FAILURES)
    assert path is not None
    before = path.read_bytes()
    with ErrorFile(tmp_path / "x.parquet") as file:
        file.write(FAILURES[:1])
    assert path.read_bytes() == before
    assert names(tmp_path) == ["x.parquet.errors.jsonl"]


def test_failures_are_written_as_they_come(tmp_path: Path) -> None:
    """Piece by piece, in order, and ending twice does nothing."""
    with ErrorFile(tmp_path / "x.parquet") as file:
        for failure in FAILURES:
            file.write([failure])
            file.write([])
        assert file.commit() == file.path
        file.abort()
    assert [json.loads(line)["row"] for line in file.path.read_bytes().splitlines()] == [4, 9]


def test_a_folder_that_refuses(read_only_folder: Path) -> None:
    """The error file's own trouble is named too."""
    with pytest.raises(OutputNotWritableError):
        write_errors(read_only_folder / "x.parquet", FAILURES)


def test_no_space_left(tmp_path: Path, largest_file: Callable[[int], AbstractContextManager[None]]) -> None:
    """A full disk is named, and nothing half is left."""
    with largest_file(1000), pytest.raises(DiskFullError):
        write_errors(tmp_path / "x.parquet", FAILURES * 20_000)
    assert names(tmp_path) == []
