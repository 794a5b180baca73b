"""Digests are computed once per version of a file."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import pytest

from embatch.backends import digests
from embatch.errors import CorruptModelError

if TYPE_CHECKING:
    from pathlib import Path


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_digest_is_remembered(tmp_path: Path, cache: Path) -> None:
    """The second time, the note is believed and the file is not read."""
    file = tmp_path / "weights"
    file.write_text("abc", encoding="utf-8")
    assert digests.remembered(file) == sha256("abc")
    digests.remember(file, "0" * 64)
    assert digests.remembered(file) == "0" * 64
    assert digests.compute(file) == sha256("abc")
    assert len(list((cache / "digests").iterdir())) == 1


@pytest.mark.parametrize("change", ["size", "time"])
def test_a_changed_file_is_read_again(tmp_path: Path, change: str) -> None:
    """Another size or another modification time makes the note worthless."""
    file = tmp_path / "weights"
    file.write_text("abc", encoding="utf-8")
    digests.remember(file, "0" * 64)
    file.write_text("abcd" if change == "size" else "abd", encoding="utf-8")
    os.utime(file, ns=(1, 1))
    assert digests.remembered(file) == digests.compute(file)


def test_a_broken_note_is_replaced(tmp_path: Path, cache: Path) -> None:
    """Whatever lies where the note should be costs one reading of the file, no failure."""
    file = tmp_path / "weights"
    file.write_text("abc", encoding="utf-8")
    digests.remembered(file)
    note = next((cache / "digests").iterdir())
    for content in ("", "[]", "{", '{"state": 3}'):
        note.write_text(content, encoding="utf-8")
        assert digests.remembered(file) == sha256("abc")


def test_a_cache_that_cannot_be_written(tmp_path: Path, cache: Path) -> None:
    """Without a place for notes, digests are right all the same."""
    cache.write_text("a file where the folder should be", encoding="utf-8")
    file = tmp_path / "weights"
    file.write_text("abc", encoding="utf-8")
    assert digests.remembered(file) == sha256("abc")


def test_links_share_a_note(tmp_path: Path, cache: Path) -> None:
    """The hub's cache links many names to one file: it is read once."""
    file = tmp_path / "blob"
    file.write_text("abc", encoding="utf-8")
    (tmp_path / "link").symlink_to(file)
    assert digests.remembered(tmp_path / "link") == digests.remembered(file)
    assert len(list((cache / "digests").iterdir())) == 1


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    """A folder in a file's place, or no file at all, is a corrupt model."""
    with pytest.raises(CorruptModelError, match="weights"):
        digests.compute(tmp_path / "weights")


def test_revision_of_one_file_is_its_digest(tmp_path: Path) -> None:
    """The usual case can be compared with what `sha256sum` prints."""
    file = tmp_path / "model.safetensors"
    file.write_text("abc", encoding="utf-8")
    assert digests.revision_of(tmp_path, [file]) == sha256("abc")[:16]


def test_revision_of_several_files(tmp_path: Path) -> None:
    """Shards are pinned together: their order does not matter, their names and contents do."""
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text("1", encoding="utf-8")
    b.write_text("2", encoding="utf-8")
    revision = digests.revision_of(tmp_path, [a, b])
    assert revision == digests.revision_of(tmp_path, [b, a])
    a.write_text("22", encoding="utf-8")
    b.write_text("11", encoding="utf-8")
    assert revision != digests.revision_of(tmp_path, [a, b])
    assert len(revision) == 16
