"""Where an index lies, and what files are called in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from embatch.errors import IndexNotFoundError, SourceNotFoundError
from embatch.search.places import FOLDER, Place, above, root_of

if TYPE_CHECKING:
    from pathlib import Path


def test_a_folder_s_index_lies_below_it(tmp_path: Path) -> None:
    """Without one above, a folder gets an index of its own, and paths are relative to it."""
    place = Place.to_write([str(tmp_path)], None)
    assert place == Place(str(tmp_path / FOLDER), tmp_path)
    assert place.key(str(tmp_path / "a" / "b.py")) == "a/b.py"
    assert place.about() == {}
    assert root_of(place.location, {}) == tmp_path


def test_a_folder_inside_belongs_to_the_index_above(tmp_path: Path) -> None:
    """Indexing a part of an indexed folder brings that folder's index up to date."""
    (tmp_path / FOLDER).mkdir(parents=True)
    inner = tmp_path / "src" / "deep"
    inner.mkdir(parents=True)
    assert Place.to_write([str(inner)], None) == Place(str(tmp_path / FOLDER), tmp_path)
    assert above(inner) == tmp_path
    assert Place.to_read(None, inner) == str(tmp_path / FOLDER)


def test_several_paths_meet_in_the_folder_that_holds_them_all(tmp_path: Path) -> None:
    """Two folders and a file side by side are indexed where they stand side by side."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "three.md").write_text("three", "utf-8")
    paths = [str(tmp_path / name) for name in ("one", "two", "three.md")]
    assert Place.to_write(paths, None).root == tmp_path


def test_an_index_elsewhere_remembers_its_root(tmp_path: Path) -> None:
    """An index that does not lie below its root says where that is."""
    root = tmp_path / "docs"
    root.mkdir()
    place = Place.to_write([str(root)], str(tmp_path / "elsewhere"))
    assert place.root == root
    assert root_of(place.location, place.about()) == root


def test_files_outside_of_the_root_keep_their_whole_path(tmp_path: Path) -> None:
    """A path that leads out of the root is absolute, so that it means one file."""
    place = Place(str(tmp_path / "root" / FOLDER), tmp_path / "root")
    assert place.key(str(tmp_path / "other.md")) == str(tmp_path / "other.md")


def test_paths_are_shown_as_one_would_write_them_here(tmp_path: Path) -> None:
    """Below the current folder a path is relative to it, elsewhere it is whole."""
    place = Place(str(tmp_path / FOLDER), tmp_path)
    assert place.shown("src/a.py", tmp_path / "src") == "a.py"
    assert place.shown("b.py", tmp_path / "src") == str(tmp_path / "b.py")


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    """What does not exist cannot be indexed, and the message says which it is."""
    with pytest.raises(SourceNotFoundError, match="nowhere"):
        Place.to_write([str(tmp_path / "nowhere")], None)


def test_without_an_index_above_the_way_out_is_said(tmp_path: Path) -> None:
    """A query far from any index says how one is made."""
    with pytest.raises(IndexNotFoundError) as caught:
        Place.to_read(None, tmp_path)
    assert "embatch index" in caught.value.hint


def test_an_address_of_a_database_is_taken_as_it_is(tmp_path: Path) -> None:
    """A URL is no folder, and its root must be remembered."""
    place = Place.to_write([str(tmp_path)], "postgresql://host/db")
    assert place.location == "postgresql://host/db"
    assert place.about() == {"root": str(tmp_path)}
