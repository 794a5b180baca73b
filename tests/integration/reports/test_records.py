"""Records of runs on the disk: written as the run goes, read as far as they go, and never in the run's way."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from embatch.errors import InterruptedRunError, SourceFormatError, UsageError
from embatch.seen import BatchSeen
from embatch.seen_lanes import FailureSeen, LaneSeen
from embatch.storage.run_archive import KnownRecord, find_record, known_records, read_record
from embatch.storage.run_records import KEPT_FAILURES, open_record, prune

if TYPE_CHECKING:
    from pathlib import Path


def batch(at: float = 1.0) -> BatchSeen:
    """A batch like any other."""
    return BatchSeen(
        at=at, seconds=0.25, stream=1, items=4, longest=9, tokens=30, padded_tokens=36, budget=64
    )


def test_what_was_seen_is_read_again(tmp_path: Path) -> None:
    """Events come back as they were told, with the head before them and the end after them."""
    with open_record("embed", folder=tmp_path, model="m", command=["embed", "--api-key", "abc"]) as record:
        record.see(batch())
        record.see(FailureSeen(at=2.0, row=1, key="k", source="s", error="E", message="no"))
        record.end(report={"items": 5})
    found = read_record(find_record("last", tmp_path))
    assert [event for event, _ in found.events] == [
        batch(),
        FailureSeen(at=2.0, row=1, key="k", source="s", error="E", message="no"),
    ]
    assert found.state == "done"
    assert found.foot["report"] == {"items": 5}
    assert found.head["model"] == "m"
    assert "abc" not in record.path.read_text("utf-8")


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (InterruptedRunError("x"), "interrupted"),
        (ValueError("x"), "failed"),
    ],
)
def test_how_a_run_ended_is_told(tmp_path: Path, error: BaseException, state: str) -> None:
    """An interrupt is no failure, and an error passes through the record as it is."""
    with pytest.raises(type(error)), open_record("embed", folder=tmp_path):
        raise error
    assert read_record(find_record("last", tmp_path)).state == state


def test_a_damaged_record_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    """Lines that are cut off, of another version or no JSON at all are left out and counted."""
    with open_record("embed", folder=tmp_path) as record:
        record.see(batch())
    path = record.path
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(
        lines[0]
        + b'["FutureSeen",1,2]\n\xff\xfe\n["BatchSeen",1,"x"]\n7\n'
        + lines[1]
        + lines[1][: len(lines[1]) // 2]
    )
    found = read_record(find_record(record.id, tmp_path))
    assert [event for event, _ in found.events] == [batch()]
    assert found.damaged == 4
    assert found.state == "running"  # by this very process
    path.write_bytes(b"garbage\n")
    assert known_records(tmp_path) == []
    with pytest.raises(SourceFormatError):
        read_record(KnownRecord(id="x", path=path, head={}))


def test_a_record_without_an_end_whose_process_is_gone_was_killed(tmp_path: Path) -> None:
    """Whether a run without an end still goes on is told by its process."""
    with open_record("embed", folder=tmp_path) as record:
        pass
    head = json.loads(record.path.read_bytes().splitlines()[0])
    head[1]["pid"] = 2**22 + 1
    record.path.write_text(json.dumps(head) + "\n", "utf-8")
    assert read_record(find_record("last", tmp_path)).state == "killed"


def test_a_folder_that_cannot_be_written_leaves_the_run_alone(tmp_path: Path) -> None:
    """Where no record can be made the block runs as ever."""
    place = tmp_path / "file"
    place.write_text("no folder", "utf-8")
    with open_record("embed", folder=place) as record:
        record.see(batch())
    assert place.read_text("utf-8") == "no folder"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full")  # noqa: PTH110  # a device
def test_a_full_disk_leaves_the_run_alone(tmp_path: Path) -> None:
    """When writing fails in the middle, recording stops and the run goes on."""
    with open_record("embed", folder=tmp_path) as record:
        record.path.unlink()
        record.path.symlink_to("/dev/full")
        for _ in range(3):
            record.see(batch())
    with open_record("embed", folder=tmp_path) as other:
        other.see(batch())
    assert len(read_record(find_record(other.id, tmp_path)).events) == 1


def test_failures_are_named_up_to_a_number(tmp_path: Path) -> None:
    """A run of which everything fails leaves a small record all the same."""
    with open_record("embed", folder=tmp_path) as record:
        for row in range(KEPT_FAILURES + 50):
            record.see(FailureSeen(at=1.0, row=row, key="k", source="", error="E", message=""))
    assert len(read_record(find_record("last", tmp_path)).events) == KEPT_FAILURES


def test_a_run_over_a_provider_is_known_by_its_own_id(tmp_path: Path) -> None:
    """The record takes the run's id; that of an earlier part of the same run is set aside."""
    for number in (1, 2):
        with open_record("embed", folder=tmp_path) as record:
            record.see(LaneSeen(at=1.0, run_id="0123abcd", strategy="auto", items=number, tokens=1))
        assert record.id == "0123abcd"
    assert sorted(known.id for known in known_records(tmp_path)) == ["0123abcd", "0123abcd.1"]
    newest = read_record(find_record("0123abcd", tmp_path)).events[0][0]
    assert isinstance(newest, LaneSeen)
    assert newest.items == 2


def test_old_records_make_room(tmp_path: Path) -> None:
    """The newest are kept, the others go."""
    for number in range(5):
        path = tmp_path / f"{number}.jsonl"
        path.write_text("", "utf-8")
        os.utime(path, (number, number))
    prune(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3.jsonl", "4.jsonl"]


def test_a_run_is_found_by_what_names_it(tmp_path: Path) -> None:
    """An id, its beginning, its output or `last` name a run; anything else is answered with what is known."""
    with pytest.raises(UsageError, match="no run has been recorded"):
        find_record("last", tmp_path)
    output = tmp_path / "out.parquet"
    with open_record("embed", folder=tmp_path, output=str(output)) as first:
        pass
    with open_record("index", folder=tmp_path) as second:
        pass
    assert find_record("last", tmp_path).id == second.id
    assert find_record(first.id[:7], tmp_path).id == first.id
    assert find_record(str(output), tmp_path).id == first.id
    with pytest.raises(UsageError, match=first.id):
        find_record("nothing", tmp_path)


def test_recording_can_be_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the environment or by whoever opens it, nothing is written."""
    monkeypatch.setenv("EMBATCH_RECORD", "0")
    with open_record("embed", folder=tmp_path) as record:
        record.see(batch())
    monkeypatch.delenv("EMBATCH_RECORD")
    with open_record("embed", folder=tmp_path, enabled=False) as record:
        record.see(batch())
    assert list(tmp_path.iterdir()) == []
