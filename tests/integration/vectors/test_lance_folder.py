"""The Lance store as files: damaged, missing, read-only, full, old and many."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import closing, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from tests.contract.chunk_stores.conftest import SPEC
from tests.contract.chunk_stores.making import EVERYTHING, chunk, found, put, state, texts, vector, vectors

from embatch.chunks import Where
from embatch.errors import (
    IndexBrokenError,
    IndexNotFoundError,
    OutputNotWritableError,
)
from embatch.storage.vectors import open_reader, open_writer

pytestmark = pytest.mark.search

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store with three chunks, published."""
    place = tmp_path / "index"
    writer = open_writer(place, spec=SPEC)
    put(writer, chunk("a.py", "one"), chunk("a.py", "two", at=1), chunk("b.py", "three"))
    writer.publish()
    writer.close()
    return place


def child(script: str, *arguments: str) -> str:
    """What a process of its own prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(find_spec("lancedb") is None, reason="LanceDB is not installed")
def test_lancedb_opens_the_table(folder: Path) -> None:
    """Connected to the store's folder, LanceDB finds a table `chunks` and searches it."""
    script = """
import json, sys, lancedb
table = lancedb.connect(sys.argv[1]).open_table("chunks")
hits = table.search(json.loads(sys.argv[2])).limit(1).to_list()
words = table.search("two", query_type="fts").limit(5).to_list()
print(json.dumps([table.count_rows(), [hit["text"] for hit in hits], [hit["text"] for hit in words]]))
"""
    query = json.dumps(vector("three").tolist())
    assert json.loads(child(script, str(folder), query)) == [3, ["three"], ["two"]]


def test_nothing_of_lance_is_printed(tmp_path: Path) -> None:
    """The library's own warnings do not reach the terminal."""
    script = """
import sys
from embatch.storage.vectors import open_reader, open_writer
from tests.contract.chunk_stores.conftest import SPEC
from tests.contract.chunk_stores.making import chunk, found, put, texts
writer = open_writer(sys.argv[1], spec=SPEC)
put(writer, chunk("a.py", "one"))
writer.publish()
writer.close()
reader = open_reader(sys.argv[1])
assert texts(reader) == found(reader, "one") == ["one"]
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "index")], cwd=ROOT, capture_output=True, check=True
    )
    assert (done.stdout, done.stderr) == (b"", b"")


@pytest.mark.parametrize(
    "victim", ["published.json", "chunks.lance/_versions", "chunks.lance/data", "chunks.lance", "files.db"]
)
@pytest.mark.parametrize("how", ["gone", "garbled", "cut"])
def test_damage_is_named_and_mended_by_starting_over(folder: Path, victim: str, how: str) -> None:
    """Whatever file is damaged or gone, readers and writers work or say so by name, and `fresh` makes it whole."""
    for path in damaged(folder / victim):
        if how == "gone":
            path.unlink()
        else:
            content = path.read_bytes()
            path.write_bytes(os.urandom(len(content)) if how == "garbled" else content[: len(content) // 2])
    with suppress(IndexBrokenError, IndexNotFoundError):
        reader = open_reader(folder)
        assert texts(reader) == ["one", "three", "two"]
        assert found(reader, "two") == ["two"]
    with suppress(IndexBrokenError), closing(open_writer(folder, spec=SPEC)) as writer:
        writer.files()
        put(writer, chunk("c.py", "four"))
        writer.publish()
    fresh = open_writer(folder, spec=SPEC, fresh=True)
    assert fresh.files() == {}
    put(fresh, chunk("d.py", "five"))
    fresh.publish()
    fresh.close()
    reader = open_reader(folder)
    assert texts(reader) == found(reader, "five") == ["five"]


def damaged(path: Path) -> list[Path]:
    return [path] if path.is_file() else [inner for inner in path.rglob("*") if inner.is_file()]


def test_a_lost_manifest_costs_no_vectors(folder: Path) -> None:
    """Without the manifest all files count as new, their vectors are still known, and old chunks go."""
    for path in folder.glob("files.db*"):
        path.unlink()
    writer = open_writer(folder, spec=SPEC)
    assert writer.files() == {}
    assert set(writer.known([chunk("a.py", "one").digest])) == {chunk("a.py", "one").digest}
    put(writer, chunk("a.py", "one"))
    writer.publish()
    writer.close()
    assert texts(open_reader(folder)) == ["one"]


def test_a_manifest_that_is_ahead_is_not_believed(folder: Path) -> None:
    """Notes of files whose chunks are not in the table, as a power cut may leave them, are taken away."""
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    writer = open_writer(folder, spec=SPEC)
    put(writer, chunk("c.py", "four"))
    put(writer, chunk("a.py", "five"))
    writer.close()
    for path in folder.glob("files.db*"):
        shutil.copy(path, copy / path.name)
    writer = open_writer(copy, spec=SPEC)
    assert set(writer.files()) == {"b.py"}
    writer.publish()
    writer.close()
    assert texts(open_reader(copy)) == ["three"]


def test_places_that_cannot_be_are_named(tmp_path: Path) -> None:
    """A file where the folder should be, or no folder at all, is a named error."""
    taken = tmp_path / "taken"
    taken.write_text("a file")
    for location in (tmp_path / "none", taken):
        with pytest.raises(IndexNotFoundError):
            open_reader(location)
    with pytest.raises(OutputNotWritableError):
        open_writer(taken, spec=SPEC)


@pytest.mark.skipif(sys.platform == "win32", reason="rights are those of Unix")
def test_a_read_only_folder_is_searched_and_not_written(folder: Path) -> None:
    """Readers need no right to write; writers say that they do."""
    script = """
import os, sys
import embatch.storage.vectors.lance_reader, embatch.storage.vectors.lance_writer
from embatch.errors import OutputNotWritableError
from embatch.storage.vectors import open_reader, open_writer
from tests.contract.chunk_stores.conftest import SPEC
from tests.contract.chunk_stores.making import found, texts
texts(open_reader(sys.argv[1]))  # loads what a user without rights may not be able to read
if os.geteuid() == 0:
    os.setuid(65534)  # root may write anywhere
reader = open_reader(sys.argv[1])
assert texts(reader) == ["one", "three", "two"]
assert found(reader, "two") == ["two"]
for fresh in (False, True):
    try:
        open_writer(sys.argv[1], spec=SPEC, fresh=fresh)
    except OutputNotWritableError as error:
        print(error.hint)
"""
    with tempfile.TemporaryDirectory() as outside:  # other users may not look into pytest's folder
        place = Path(outside) / "index"
        shutil.copytree(folder, place)
        for path in (place, *place.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        Path(outside).chmod(0o755)
        try:
            assert len(child(script, str(place)).splitlines()) == 2
        finally:
            for path in (place, *place.rglob("*")):
                path.chmod(0o755)


def test_reading_changes_nothing(folder: Path) -> None:
    """Opening and searching leave every file and its time as they were."""
    before = snapshot(folder)
    reader = open_reader(folder)
    texts(reader)
    found(reader, "one", where=Where(paths=("*.py",)))
    reader.at("a.py", 1)
    reader.stats()
    reader.refresh()
    reader.close()
    assert snapshot(folder) == before


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are set as on Unix")
def test_a_full_disk_is_named_and_loses_nothing(folder: Path) -> None:
    """Where no more fits, the writer says so, readers see what was published, and the next writer goes on."""
    script = """
import resource, sys
from embatch.errors import DiskFullError
from embatch.storage.vectors import open_writer
from tests.contract.chunk_stores.conftest import SPEC
from tests.contract.chunk_stores.making import chunk, put
writer = open_writer(sys.argv[1], spec=SPEC)
put(writer, chunk("c.py", "four"))
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
try:
    put(writer, *(chunk("d.py", f"much {n} " * 20, at=n) for n in range(3000)))
except DiskFullError as error:
    print(error.hint)
writer.close()
"""
    assert "Free space" in child(script, str(folder))
    assert texts(open_reader(folder)) == ["one", "three", "two"]
    writer = open_writer(folder, spec=SPEC)
    assert set(writer.files()) == {"a.py", "b.py", "c.py"}
    writer.publish()
    writer.close()
    assert texts(open_reader(folder)) == ["four", "one", "three", "two"]


def test_small_updates_leave_little_behind(folder: Path) -> None:
    """After hundreds of updates there are few files, and what they hold is what was written last."""
    writer = open_writer(folder, spec=SPEC)
    for number in range(120):
        put(writer, chunk(f"{number % 10}.py", f"text {number}"), mtime_ns=number)
        writer.publish()
    writer.close()
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) < 700
    assert sum(path.stat().st_size for path in files) < 8 << 20
    reader = open_reader(folder)
    assert reader.count() == 13
    assert texts(reader) == sorted([*(f"text {number}" for number in range(110, 120)), "one", "two", "three"])
    assert found(reader, "119") == ["text 119"]


def test_a_reader_moves_on_when_its_state_was_cleaned_away(folder: Path) -> None:
    """A reader that sleeps through many publishes answers from the newest state instead of failing."""
    reader = open_reader(folder)
    assert reader.count() == 3
    writer = open_writer(folder, spec=SPEC)
    for number in range(12):
        put(writer, chunk("a.py", f"text {number}"), mtime_ns=number)
        put(writer, *(chunk("b.py", f"other {number} {part}", at=part) for part in range(5)), mtime_ns=number)
        writer.publish()
    writer.close()
    assert texts(reader) == sorted(["text 11", *(f"other 11 {part}" for part in range(5))])
    assert found(reader, "text") == ["text 11"]


def test_fresh_rows_are_found_beside_the_index(folder: Path) -> None:
    """Rows that are in no index yet are found by their words, and rows of every age together."""
    writer = open_writer(folder, spec=SPEC)
    for number in range(5):
        put(writer, chunk(f"{number}.py", f"sparrow {number}"))
        writer.publish()
        reader = open_reader(folder)
        assert len(found(reader, "sparrow")) == number + 1
        assert found(reader, f"{number}") == [f"sparrow {number}"]
    many = [chunk("many.py", f"finch {number}", at=number) for number in range(700)]  # more than a tail
    for _ in range(2):
        writer.replace([state("many.py", 700)], many, vectors(many))
        writer.publish()
    assert len(found(open_reader(folder), "finch", k=1000)) == 700
    assert len(found(open_reader(folder), "sparrow", k=1000)) == 5
    writer.close()


def test_vectors_of_any_length_are_compared_by_cosine(tmp_path: Path) -> None:
    """Models that do not normalise give hits by cosine, and a vector of zeros is near to nothing."""
    rows = np.stack([vector("one") * 5, vector("two") * 0.1, np.zeros(16, np.float32)])
    chunks = [chunk("a.py", text, at=at) for at, text in enumerate(["one", "two", "zero"])]
    writer = open_writer(tmp_path / "index", spec=replace(SPEC, normalize=False))
    writer.replace([state("a.py", 3)], chunks, rows)
    writer.publish()
    np.testing.assert_array_equal(writer.known([chunks[0].digest])[chunks[0].digest], rows[0])
    writer.close()
    hits = open_reader(tmp_path / "index").nearest(vector("two")[None], k=3, where=EVERYTHING)[0]
    assert hits[0].chunk.text == "two"
    assert hits[0].score == pytest.approx(1.0, abs=1e-5)
    assert {hit.chunk.text: hit.score for hit in hits}["zero"] == 0.0
