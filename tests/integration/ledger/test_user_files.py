"""The user's own files: which runs there were, and what was learned. Nothing about them may touch a run."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import pytest

from embatch.errors import OutputError
from embatch.storage.cache import MemoryStore
from embatch.storage.folders import user_folder
from embatch.storage.layered import Layered
from embatch.storage.learned import LearnedFacts
from embatch.storage.runs import RunRegistry

if TYPE_CHECKING:
    from pathlib import Path


def start(registry: RunRegistry, run_id: str, *, command: list[str] | None = None) -> None:
    registry.start(
        run_id, model="gemini:one", ledger="l", output="o", command=command or ["embed", "x"], folder="/f"
    )


# --- runs ------------------------------------------------------------------------------------------------------------


def test_runs_are_listed_and_found(tmp_path: Path) -> None:
    """A run is there from its start, with its end once it has one, and is found by the beginning of its name."""
    registry = RunRegistry(tmp_path / "folder" / "runs.sqlite")
    start(registry, "0aaa1111")
    start(registry, "0bbb2222", command=["embed", "two words"])
    registry.end("0aaa1111", "done", {"calls": 3})
    runs = {run.id: run for run in registry.runs()}
    assert (runs["0aaa1111"].state, runs["0aaa1111"].summary) == ("done", {"calls": 3})
    assert (runs["0bbb2222"].state, runs["0bbb2222"].command) == ("running", ["embed", "two words"])
    assert [run.id for run in registry.find("0b")] == ["0bbb2222"]
    assert len(registry.find("0")) == 2
    assert registry.find("f") == []


def test_a_run_that_goes_on_is_one_run(tmp_path: Path) -> None:
    """Started again, it runs again, under its newest command, and keeps the day of its first start."""
    registry = RunRegistry(tmp_path / "runs.sqlite")
    start(registry, "0aaa1111")
    first = registry.runs()[0].started
    registry.end("0aaa1111", "stopped", {})
    start(registry, "0aaa1111", command=["resume"])
    (run,) = registry.runs()
    assert (run.state, run.command, run.started) == ("running", ["resume"], first)


@pytest.mark.parametrize("prefix", ["", "%", "_", "0' OR 1=1", "0aaa%"])
def test_what_is_no_name_finds_nothing(tmp_path: Path, prefix: str) -> None:
    """Signs that mean something to a database are no names of runs."""
    registry = RunRegistry(tmp_path / "runs.sqlite")
    start(registry, "0aaa1111")
    assert registry.find(prefix) == []


def test_no_file_is_no_runs(tmp_path: Path) -> None:
    """Before the first run there is nothing to list, and looking makes no file."""
    registry = RunRegistry(tmp_path / "runs.sqlite")
    assert registry.runs() == []
    assert registry.find("0") == []
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_list_of_runs_stops_no_run(tmp_path: Path) -> None:
    """Writing to a file that is no database does nothing; reading it says what is wrong."""
    path = tmp_path / "runs.sqlite"
    path.write_bytes(b"no database" * 100)
    registry = RunRegistry(path)
    start(registry, "0aaa1111")
    registry.end("0aaa1111", "done", {})
    with pytest.raises(OutputError, match="no database"):
        registry.runs()


def test_many_runs_at_once_are_all_noted(tmp_path: Path) -> None:
    """Runs of several processes and threads note themselves at the same time, and none is lost."""
    registry = RunRegistry(tmp_path / "runs.sqlite")
    threads = [threading.Thread(target=start, args=(registry, f"{n:08x}")) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(registry.runs()) == 12
    assert len(registry.runs(limit=5)) == 5


# --- what was learned ------------------------------------------------------------------------------------------------


def test_what_was_learned_is_there_again(tmp_path: Path) -> None:
    """Facts are kept by key, the newest ones, for the next process."""
    path = tmp_path / "folder" / "providers.sqlite"
    LearnedFacts(path).save("gemini:one", {"ratio": 1.0})
    LearnedFacts(path).save("gemini:one", {"ratio": 1.5, "caps": {"items": None}})
    LearnedFacts(path).save("gemini:two", {})
    assert LearnedFacts(path).load("gemini:one") == {"ratio": 1.5, "caps": {"items": None}}
    assert LearnedFacts(path).load("other") == {}


def test_nothing_learned_is_nothing_made(tmp_path: Path) -> None:
    """Looking for what was learned makes no file."""
    assert LearnedFacts(tmp_path / "providers.sqlite").load("x") == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["[1, 2]", "7", "no JSON", "null"])
def test_what_makes_no_sense_is_nothing_learned(tmp_path: Path, content: str) -> None:
    """An entry that is no JSON object counts as none."""
    path = tmp_path / "providers.sqlite"
    LearnedFacts(path).save("x", {"a": 1})
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE learned SET facts = ?", (content,))
    assert LearnedFacts(path).load("x") == {}


def test_a_damaged_file_of_what_was_learned_stops_no_run(tmp_path: Path) -> None:
    """A file that is no database, or a folder in its place, is neither read nor written, and raises nothing."""
    path = tmp_path / "providers.sqlite"
    path.write_bytes(b"no database" * 100)
    for facts in (LearnedFacts(path), LearnedFacts(tmp_path), LearnedFacts(path / "below")):
        facts.save("x", {"a": 1})
        assert facts.load("x") == {}


# --- two stores as one -----------------------------------------------------------------------------------------------


def test_layered_stores_find_what_either_has() -> None:
    """Vectors are looked for in both, kept in both, and both are closed."""
    first, second = MemoryStore(), MemoryStore()
    digests = [bytes([n]) * 16 for n in range(4)]
    vectors = np.eye(4, dtype=np.float32)
    first.put(digests[:1], vectors[:1])
    second.put(digests[1:2], vectors[1:2])
    both = Layered(first, second)
    assert set(both.get(digests)) == set(digests[:2])
    both.put(digests[2:], vectors[2:])
    assert set(first.get(digests)) == {digests[0], *digests[2:]}
    assert set(second.get(digests)) == set(digests[1:])
    for digest, vector in both.get(digests).items():
        np.testing.assert_array_equal(vector, vectors[digests.index(digest)])
    both.close()
    assert not first.get(digests)
    assert not second.get(digests)


def test_the_users_folder_may_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`EMBATCH_CACHE` says where the user's files lie; otherwise the platform does."""
    monkeypatch.setenv("EMBATCH_CACHE", str(tmp_path / "mine"))
    assert user_folder() == tmp_path / "mine"
    monkeypatch.setenv("EMBATCH_CACHE", "~/mine")
    assert user_folder().is_absolute()
    monkeypatch.delenv("EMBATCH_CACHE")
    assert user_folder().name == "embatch"
