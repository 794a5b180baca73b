"""What a walk finds changed, held against what an index knows."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from embatch.chunks import FileState
from embatch.search.places import FOLDER, Place
from embatch.search.survey import ADDED_INODE, survey

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A folder with a file, a folder and a file in it."""
    (tmp_path / "a.py").write_text("a = 1\n", "utf-8")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "b.py").write_text("b = 1\n", "utf-8")
    return Place(str(tmp_path / FOLDER), tmp_path)


def state(place: Place, name: str, **changes: object) -> FileState:
    """What an index knows of a file that it has just seen."""
    info = (place.root / name).stat()
    known = {"size_bytes": info.st_size, "mtime_ns": info.st_mtime_ns, "inode": info.st_ino, "chunks": 1}
    return FileState(path=name, digest=b"x" * 16, **{**known, **changes})  # type: ignore[arg-type]  # test data


def states(place: Place, *names: str) -> dict[str, FileState]:
    """The same by path."""
    return {name: state(place, name) for name in names}


def test_everything_is_new_to_an_empty_index(place: Place) -> None:
    """Files are to be read under the names that they have in the index."""
    found = survey([str(place.root)], place, {})
    assert [file.key for file in found.to_read] == ["a.py", "inner/b.py"]
    assert (found.listed, found.unchanged, found.gone) == (2, 0, [])


def test_what_has_its_size_and_time_is_not_read(place: Place) -> None:
    """An unchanged file costs a stat."""
    found = survey([str(place.root)], place, states(place, "a.py", "inner/b.py"))
    assert (found.to_read, found.unchanged) == ([], 2)


@pytest.mark.parametrize(
    "change", [{"size_bytes": 99}, {"mtime_ns": 5}, {"mtime_ns": -1}, {"inode": 5}, {"failed": 1}]
)
def test_what_differs_or_failed_is_read(place: Place, change: dict[str, int]) -> None:
    """Another size, time or inode, or chunks without a vector, are reasons to read a file."""
    known = {"a.py": state(place, "a.py", **change)}
    found = survey([str(place.root / "a.py")], place, known)
    assert [file.key for file in found.to_read] == ["a.py"]


def test_nothing_is_trusted_after_another_way_of_cutting(place: Place) -> None:
    """With another token limit everything is read again."""
    found = survey([str(place.root)], place, states(place, "a.py", "inner/b.py"), trust=False)
    assert len(found.to_read) == 2


def test_what_vanished_below_the_paths_is_gone(place: Place) -> None:
    """Only what lies below the paths that were walked can be gone."""
    known = {
        **states(place, "a.py"),
        "inner/old.py": state(place, "a.py"),
        "other.py": state(place, "a.py"),
    }
    assert survey([str(place.root / "inner")], place, known).gone == ["inner/old.py"]
    assert survey([str(place.root)], place, known).gone == ["inner/old.py", "other.py"]


def test_a_named_file_says_nothing_of_names_that_begin_alike(place: Place) -> None:
    """`inner` is a folder, not the beginning of `inner-other.py`."""
    known = {"inner-other.py": state(place, "a.py"), **states(place, "inner/b.py")}
    assert survey([str(place.root / "inner")], place, known).gone == []


def test_added_texts_are_never_gone(place: Place) -> None:
    """What a program added has no file, and no walk drops it."""
    known = {"note 1": state(place, "a.py", inode=ADDED_INODE)}
    assert survey([str(place.root)], place, known).gone == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_lies_below_an_unreadable_folder_is_not_gone(place: Place) -> None:
    """A folder that cannot be listed now keeps what the index has of it."""
    known = states(place, "inner/b.py")
    (place.root / "inner").chmod(0)
    try:
        found = survey([str(place.root)], place, known)
    finally:
        (place.root / "inner").chmod(0o755)
    assert found.gone == []


def test_links_in_circles_end(place: Place) -> None:
    """A link to a folder above is passed over, and counted."""
    (place.root / "inner" / "up").symlink_to(place.root)
    found = survey([str(place.root)], place, {})
    assert found.listed == 2
    assert found.skipped.counts["link to a folder"] == 1


def test_what_was_passed_over_before_is_counted_again(place: Place) -> None:
    """A binary file that has not changed is not read, and still counted with its reason."""
    known = {"a.py": state(place, "a.py", skipped="binary", chunks=0)}
    found = survey([str(place.root / "a.py")], place, known)
    assert found.skipped.counts == {"binary": 1}


def test_names_of_any_bytes_have_a_key(place: Place) -> None:
    """A name that is no UTF-8 gets a key that is, and can be found again."""
    name = os.fsdecode(b"caf\xe9.py")
    (place.root / name).write_text("c = 1\n", "utf-8")
    found = survey([str(place.root)], place, {})
    assert "caf\\xe9.py" in [file.key for file in found.to_read]
