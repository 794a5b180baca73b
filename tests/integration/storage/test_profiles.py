"""Learned budgets: kept between processes, and never in the way of a run."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from embatch.storage.profiles import TuningProfiles, default_profiles

if TYPE_CHECKING:
    from pathlib import Path


def test_a_saved_budget_is_loaded(tmp_path: Path) -> None:
    """Each key has its own budget; the last one saved counts."""
    path = tmp_path / "new" / "embatch.sqlite"
    profiles = TuningProfiles(path)
    profiles.save("model cpu short", 512, 14_000.0)
    profiles.save("model cpu long", 2048, 12_000.0)
    profiles.save("model cpu short", 640, 15_000.0)
    again = TuningProfiles(path)
    assert again.load("model cpu short") == 640
    assert again.load("model cpu long") == 2048
    assert again.load("model gpu short") is None


def test_loading_creates_nothing(tmp_path: Path) -> None:
    """A run that learns nothing leaves no file."""
    assert TuningProfiles(tmp_path / "embatch.sqlite").load("key") is None
    assert list(tmp_path.iterdir()) == []


def test_a_broken_file_is_no_profile(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Rubbish where the profiles should be is logged for those who look, and otherwise ignored."""
    path = tmp_path / "embatch.sqlite"
    path.write_text("rubbish\n" * 2000)
    with caplog.at_level(logging.DEBUG):
        TuningProfiles(path).save("key", 512, 1.0)
        assert TuningProfiles(path).load("key") is None
    assert len(caplog.records) == 2
    assert all(record.levelno == logging.DEBUG for record in caplog.records)


def test_a_place_that_refuses_is_no_profile(read_only_folder: Path) -> None:
    """Without permission nothing is saved, nothing is found, and nothing is raised."""
    profiles = TuningProfiles(read_only_folder / "embatch.sqlite")
    profiles.save("key", 512, 1.0)
    assert profiles.load("key") is None


@pytest.mark.parametrize("value", ["'many'", "-5", "0", "NULL", "1.5"])
def test_a_budget_that_is_none_is_not_used(tmp_path: Path, value: str) -> None:
    """Only a positive whole number of tokens is a budget."""
    path = tmp_path / "embatch.sqlite"
    TuningProfiles(path).save("key", 512, 1.0)
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("PRAGMA writable_schema = ON")
        raw.execute("UPDATE sqlite_master SET sql = replace(sql, 'INTEGER NOT NULL', 'BLOB')")
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute(f"UPDATE profiles SET budget = {value}")
    assert TuningProfiles(path).load("key") is None


def test_the_default_place_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`EMBATCH_CACHE` names the folder; without it, it is the platform's."""
    monkeypatch.setenv("EMBATCH_CACHE", str(tmp_path))
    default_profiles().save("key", 512, 1.0)
    assert (tmp_path / "embatch.sqlite").exists()
    assert default_profiles().load("key") == 512
    monkeypatch.delenv("EMBATCH_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home" / "cache"))
    default_profiles().save("key", 1024, 1.0)
    assert [path.name for path in (tmp_path / "home").rglob("embatch.sqlite")] == ["embatch.sqlite"]
