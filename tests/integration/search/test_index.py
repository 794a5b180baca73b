"""An index of real files with a real store, kept in step and asked."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from tests.corpus import COLOURS, TOOLS, age

from embatch.errors import (
    IndexBusyError,
    IndexMismatchError,
    IndexNotFoundError,
    SourceNotFoundError,
    UsageError,
)
from embatch.frontends.embedder import Embedder
from embatch.frontends.searching.index import Index

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.search

GUIDE = "# Guide\n\n## Install\n\nRun the installer and restart.\n\n## Penguins\n\nPenguins cannot fly, but swim.\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two functions in a file, and a guide."""
    root = tmp_path / "project"
    (root / "src").mkdir(parents=True)
    (root / "src" / "tools.py").write_text(f"import time\n{TOOLS}", "utf-8")
    (root / "guide.md").write_text(GUIDE, "utf-8")
    age(root)
    return root


@pytest.fixture
def index(folder: Path) -> Iterator[Index]:
    """An index of that folder, with a model that needs no files."""
    with Index.open(folder, model="hashing", dimensions=256) as opened:
        opened.sync()
        yield opened


def found(index: Index, question: str, **options: Any) -> list[str]:
    """Paths and symbols of the hits."""
    return [f"{hit.chunk.path} {hit.chunk.symbol}" for hit in index.query(question, **options)]


def test_a_question_finds_its_place(index: Index) -> None:
    """Code is found by what it does, prose by what it says."""
    assert found(index, "wait before the request is sent again")[0] == "src/tools.py wait_for_server"
    assert found(index, "can penguins fly?")[0].startswith("guide.md")


@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
def test_every_mode_finds(index: Index, mode: str) -> None:
    """Words and meaning each find by themselves."""
    assert found(index, "colours of three channels", mode=mode)[0] == "src/tools.py mix_colours"


def test_filters_narrow(index: Index) -> None:
    """Paths, languages and kinds leave only what they allow."""
    assert all(place.startswith("guide.md") for place in found(index, "request", path="*.md"))
    assert all(place.startswith("src/") for place in found(index, "penguins", language="python"))
    assert {hit.chunk.kind for hit in index.query("penguins", kind="code")} <= {"function", "block"}
    assert all(place.startswith("src/") for place in found(index, "penguins", path="tools.py"))
    assert all(place.startswith("src/") for place in found(index, "penguins", path="src"))
    assert found(index, "penguins", path="!src") == found(index, "penguins", path="guide.md")
    assert found(index, "penguins", path="!guide.md") == found(index, "penguins", path="src/**")


def test_nothing_changed_embeds_nothing(index: Index) -> None:
    """A second sync looks at times, and neither reads nor embeds; it does not even open the model."""
    report = index.sync()
    assert (report.files, report.unchanged, report.embedded, report.chunks) == (2, 2, 0, 0)
    with Index.open(index.root) as again:
        again.sync()
        assert not again.model.opened


def test_a_changed_function_costs_one_chunk(index: Index, folder: Path) -> None:
    """The other chunks of the file take over the vectors that they have."""
    file = folder / "src" / "tools.py"
    file.write_text(file.read_text("utf-8").replace("range(10)", "range(20)"), "utf-8")
    report = index.sync()
    assert (report.changed, report.embedded) == (1, 1)
    assert report.reused == report.chunks - 1 > 0
    assert "range(20)" in index.query("wait before the request is sent again")[0].chunk.text


def test_a_moved_file_costs_nothing(index: Index, folder: Path) -> None:
    """Its vectors are those of its content, wherever it lies."""
    (folder / "src" / "tools.py").rename(folder / "moved.py")
    report = index.sync()
    assert (report.added, report.removed, report.embedded) == (1, 1, 0)
    assert found(index, "wait before the request is sent again")[0] == "moved.py wait_for_server"


def test_a_deleted_file_disappears(index: Index, folder: Path) -> None:
    """What is gone is found no more."""
    (folder / "guide.md").unlink()
    assert index.sync().removed == 1
    assert not [place for place in found(index, "penguins") if place.startswith("guide.md")]


def test_a_touched_file_is_read_and_costs_nothing(index: Index, folder: Path) -> None:
    """Another time with the same content is noted, and not read a second time."""
    os.utime(folder / "guide.md", (1_700_000_100, 1_700_000_100))
    report = index.sync()
    assert (report.same, report.embedded, report.chunks) == (1, 0, 0)
    assert index.sync().unchanged == 2


def test_a_file_that_may_still_change_is_read_again(index: Index, folder: Path) -> None:
    """A file as young as the look at it could change again with the same time and size."""
    (folder / "new.md").write_text("# New\n\nwords\n", "utf-8")
    assert index.sync().added == 1
    assert index.sync().same == 1


def test_a_part_of_the_folder_can_be_brought_up_to_date(index: Index, folder: Path) -> None:
    """A sync of a subfolder leaves the rest as it is, gone files included."""
    (folder / "guide.md").unlink()
    (folder / "src" / "more.py").write_text(COLOURS.replace("mix", "blend"), "utf-8")
    report = index.sync(folder / "src")
    assert (report.added, report.removed) == (1, 0)
    assert found(index, "penguins")[0].startswith("guide.md")


def test_another_model_is_refused(index: Index) -> None:
    """Vectors of two models never mix, and the message names both and the way out."""
    with pytest.raises(IndexMismatchError, match=r"256 dimensions.*128 dimensions") as caught:
        Index.open(index.root, model="hashing", dimensions=128)
    assert "--rebuild" in caught.value.hint


def test_another_open_embedder_is_refused(index: Index) -> None:
    """The same holds for a model that the caller brings."""
    with (
        Embedder("hashing", dimensions=64) as embedder,
        pytest.raises(IndexMismatchError),
    ):
        Index.open(index.root, embedder=embedder)


def test_an_index_made_with_an_open_embedder_can_be_opened_without(folder: Path) -> None:
    """The index remembers the model that the caller brought."""
    with Embedder("hashing", dimensions=64) as embedder, Index.open(folder, embedder=embedder) as first:
        first.sync()
    with Index.open(folder) as again:
        assert found(again, "can penguins fly?")[0].startswith("guide.md")


def test_rebuilding_takes_another_model(index: Index) -> None:
    """Starting over makes the index anew, and until it is done the old one answers."""
    with Index.open(index.root, model="hashing", dimensions=128, rebuild=True) as anew:
        assert index.query("penguins")
        assert anew.sync().embedded > 0
        assert anew.reader.spec.dimensions == 128
        assert found(anew, "can penguins fly?")[0].startswith("guide.md")


def test_the_model_is_remembered(index: Index) -> None:
    """Whoever opens an index again need not say its model."""
    with Index.open(index.root) as again:
        assert found(again, "can penguins fly?")[0].startswith("guide.md")
        assert again.model.get().spec.dimensions == 256


def test_a_task_of_the_model_is_used_and_remembered(folder: Path) -> None:
    """Documents embedded with another prompt than usual stay comparable with those that come later."""
    with Index.open(folder, model="hashing", dimensions=64, task="query") as first:
        first.sync()
        assert first.reader.spec == first.model.get().spec
    with Index.open(folder) as again:
        again.add({"note": "words"})
        assert again.model.get().spec == again.reader.spec


def test_texts_of_a_program_are_indexed_by_name(index: Index) -> None:
    """Added texts live beside files, survive their syncs, and cost nothing when they are added again."""
    report = index.add({"note/1": "The boiler is in the cellar.", "note/2": "The cat sleeps on the roof."})
    assert report.embedded == 2
    assert index.add({"note/1": "The boiler is in the cellar."}).embedded == 0
    index.sync()
    assert found(index, "where is the boiler?")[0].startswith("note/1")
    index.add({"note/1": "The boiler has moved to the garage."})
    assert "garage" in index.query("boiler")[0].chunk.text
    assert index.delete("note/1", "never was") == 1
    assert not [place for place in found(index, "boiler") if place.startswith("note/1")]


def test_the_same_name_twice_is_refused(index: Index) -> None:
    """Two texts of one name would overwrite each other in silence."""
    from embatch.chunks import Document

    twice = [Document(path="a", text="one", language="text"), Document(path="a", text="two", language="text")]
    with pytest.raises(UsageError, match="same name"):
        index.add(twice)


def test_many_questions_are_answered_in_their_order(index: Index) -> None:
    """A batch of questions gives what each would give by itself."""
    asked = ["can penguins fly?", "colours of three channels"]
    assert index.query_many(asked, k=3) == [index.query(question, k=3) for question in asked]


def test_what_is_like_a_place(index: Index) -> None:
    """The chunks nearest to a line's chunk, that one left out."""
    hits = index.similar("src/tools.py", 4)
    assert hits
    assert all(hit.chunk.symbol != "wait_for_server" for hit in hits)
    with pytest.raises(UsageError, match="nothing at"):
        index.similar("src/tools.py", 4_000)


def test_git_leaves_the_index_out(index: Index) -> None:
    """An index inside a repository is not committed by mistake."""
    assert (index.root / ".embatch" / ".gitignore").read_text("utf-8") == "*\n"


def test_an_empty_question_is_refused(index: Index) -> None:
    """There is nothing to look for."""
    with pytest.raises(UsageError, match="empty"):
        index.query("  ")


def test_without_an_index_the_way_out_is_said(tmp_path: Path) -> None:
    """Opening what is not there, only to ask, is an error that says what to do."""
    with pytest.raises(IndexNotFoundError) as caught:
        Index.open(tmp_path, create=False)
    assert "embatch index" in caught.value.hint


def test_an_empty_folder_makes_an_empty_index(tmp_path: Path) -> None:
    """No files are no error, and a question finds nothing."""
    with Index.open(tmp_path, model="hashing") as empty:
        assert empty.sync().files == 0
        assert empty.query("anything") == []


def test_one_process_changes_an_index_at_a_time(index: Index) -> None:
    """A second writer is refused, while questions are answered."""
    with Index.open(index.root) as second, index._writer(), pytest.raises(IndexBusyError):
        second.sync()
    assert index.query("penguins")


def test_what_cannot_be_read_is_reported_and_the_rest_goes_on(index: Index, folder: Path) -> None:
    """Pipes, links in circles, broken encodings, binary, giant and empty files end no sync."""
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to(folder)
    (folder / "dangling").symlink_to(folder / "nowhere")
    (folder / "latin.md").write_bytes("# Café\n\nEin Stück Kuchen\n".encode("latin-1"))
    (folder / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0")
    (folder / "empty.py").write_bytes(b"")
    with (folder / "giant.log").open("wb") as giant:
        giant.truncate(1 << 30)
    report = index.sync()
    assert report.skipped["not a regular file"] == 1
    assert report.skipped["link to a folder"] == 1
    assert report.skipped["binary"] == 1
    assert report.skipped["empty"] == 1
    assert report.skipped["too large"] == 1
    assert report.unreadable == 1  # the dangling link
    assert [problem.path for problem in report.problems] == ["dangling"]
    assert "Kuchen" in index.query("Kuchen", mode="text")[0].chunk.text


def test_a_file_that_vanishes_meanwhile_keeps_what_the_index_had(
    index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the walk and the reading a file may go: that is reported, and settled by the next sync."""
    from embatch.search.survey import survey

    def vanishing(*arguments: Any, **options: Any) -> Any:
        result = survey(*arguments, **options)
        (folder / "guide.md").unlink()
        return result

    (folder / "guide.md").write_text(f"{GUIDE}\nmore\n", "utf-8")
    with monkeypatch.context() as patch:
        patch.setattr("embatch.search.sync.survey", vanishing)
        report = index.sync()
    assert report.unreadable == 1
    assert found(index, "can penguins fly?")[0].startswith("guide.md")
    assert index.sync().removed == 1


def test_a_path_that_is_not_there_is_an_error(index: Index, folder: Path) -> None:
    """What was named must exist."""
    with pytest.raises(SourceNotFoundError):
        index.sync(folder / "nowhere")


def test_other_chunk_sizes_cut_everything_anew(index: Index, folder: Path) -> None:
    """Another token limit gives other chunks, of every file."""
    with Index.open(folder, chunk_tokens=24) as finer:
        report = finer.sync()
        assert report.unchanged == 0
        assert report.changed == 2
        assert finer.reader.count() > 3
    assert index.reader.about["chunk_tokens"] == "24"
