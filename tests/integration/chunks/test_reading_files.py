"""What a file system can do to a reader: nothing ends in an exception, everything has a reason."""

from __future__ import annotations

import hashlib
import os
import threading
from typing import TYPE_CHECKING

import pytest

from embatch.errors import SourceUnreadableError
from embatch.search.chunks import ReadOptions, read_file
from embatch.storage.sources.listing import SourceFile, list_files
from embatch.storage.sources.skips import SkipLog

if TYPE_CHECKING:
    from pathlib import Path

    from embatch.search.chunks import FileContent


def read(path: Path, options: ReadOptions | None = None) -> FileContent:
    """The file as the listing gives it."""
    (file,) = list_files([str(path)], SkipLog())
    return read_file(file, options)


def test_the_digest_is_of_the_bytes(tmp_path: Path) -> None:
    """Equal bytes have equal digests, whatever they are called and however they are decoded."""
    (tmp_path / "a.md").write_bytes(b"\xef\xbb\xbf# A\r\n")
    content = read(tmp_path / "a.md")
    assert content.digest == hashlib.blake2b(b"\xef\xbb\xbf# A\r\n", digest_size=16).digest()
    assert [document.text for document in content.documents] == ["# A\n"]


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    """A gigabyte costs a look at its size, for text and for PDF."""
    for name in ("a.txt", "a.pdf", "a.json"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(1 << 30)
        content = read(tmp_path / name)
        assert (content.skipped, content.digest, content.documents) == ("too large", b"", ())


def test_a_file_that_has_grown_since_is_too_large(tmp_path: Path) -> None:
    """The size is looked at again when the file is opened."""
    path = tmp_path / "a.txt"
    path.write_text("word " * 1000)
    assert read_file(SourceFile(str(path), "a.txt", 10), ReadOptions(max_bytes=100)).skipped == "too large"


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet", "A.CSV"])
def test_tables_are_for_embedding(tmp_path: Path, name: str) -> None:
    """Rows are no documents."""
    (tmp_path / name).write_text("a,b\n1,2\n")
    assert read(tmp_path / name).skipped == "table"


def test_binary_files_are_known_by_name_or_first_bytes(tmp_path: Path) -> None:
    """An ending that only binary files have saves opening them; NUL bytes tell the others."""
    (tmp_path / "a.png").write_text("not even read")
    (tmp_path / "a.dat").write_bytes(b"ab\0" * 9000)
    assert read(tmp_path / "a.png").skipped == "binary"
    content = read(tmp_path / "a.dat")
    assert (content.skipped, content.digest) == ("binary", b"")


def test_configuration_is_read_up_to_a_modest_size(tmp_path: Path) -> None:
    """A small JSON file is a document, a large one is data."""
    path = tmp_path / "a.json"
    path.write_text('{\n "a": 1\n}\n')
    assert [document.language for document in read(path).documents] == ["json"]
    path.write_text("{\n" + '"a": 1,\n' * 50_000 + "}")
    assert read(path).skipped == "too large"


def test_a_file_that_vanished_is_a_problem(tmp_path: Path) -> None:
    """Between listing and reading it may be gone, or a folder."""
    content = read_file(SourceFile(str(tmp_path / "gone.py"), "gone.py", 5))
    assert isinstance(content.problem, SourceUnreadableError)
    assert "gone.py" in str(content.problem)
    assert "No such file" in str(content.problem)
    folder = read_file(SourceFile(str(tmp_path), "folder.py", 5))
    assert folder.skipped == "not a regular file" or folder.problem is not None


def test_what_could_not_be_listed_is_a_problem() -> None:
    """The listing's own words are handed on."""
    content = read_file(SourceFile("x", "x", problem="Cannot read 'x': Permission denied."))
    assert str(content.problem) == "Cannot read 'x': Permission denied."


def test_a_link_to_itself_is_a_problem(tmp_path: Path) -> None:
    """It leads nowhere, and that is said with its name."""
    (tmp_path / "loop.py").symlink_to("loop.py")
    (file,) = list_files([str(tmp_path)], SkipLog())
    assert "loop.py" in str(read_file(file).problem)
    assert read_file(SourceFile(str(tmp_path / "loop.py"), "loop.py", 1)).problem is not None


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_without_permission_is_a_problem(tmp_path: Path) -> None:
    """It is named, with the system's reason."""
    path = tmp_path / "a.py"
    path.write_text("x = 1")
    path.chmod(0)
    assert "Permission denied" in str(read(path).problem)


def test_a_name_that_no_system_takes_is_a_problem() -> None:
    """A NUL in a path is named, not raised."""
    assert read_file(SourceFile("a\0b.py", "a.py", 5)).problem is not None


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """Nobody may ever write to it."""
    os.mkfifo(tmp_path / "pipe.py")
    found: list[FileContent] = []
    reader = threading.Thread(
        target=lambda: found.append(read_file(SourceFile(str(tmp_path / "pipe.py"), "pipe.py", 5))),
        daemon=True,
    )
    reader.start()
    reader.join(10)
    assert [content.skipped for content in found] == ["not a regular file"]


def test_a_name_in_any_encoding_is_read(tmp_path: Path) -> None:
    """The key is text, the path is what the system has."""
    raw = os.fsencode(tmp_path) + b"/na\xefve.md"
    with open(raw, "wb") as file:  # noqa: PTH123  # a name of bytes
        file.write(b"# A\n")
    (file_found,) = list_files([str(tmp_path)], SkipLog())
    (document,) = read_file(file_found).documents
    assert document.path.endswith("na\\xefve.md")
    document.path.encode()


def test_a_file_that_never_rests_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that changes during each of some readings is named; one that comes to rest is read."""
    path = tmp_path / "a.py"
    path.write_text("x = 1\n")
    file = SourceFile(str(path), "a.py", 6)
    plain, looks = os.fstat, 0

    def restless(until: int) -> None:
        def look(descriptor: int) -> os.stat_result:
            nonlocal looks
            looks += 1
            if looks <= until:
                os.utime(path, ns=(looks, looks))
            return plain(descriptor)

        nonlocal looks
        looks = 0
        monkeypatch.setattr(os, "fstat", look)

    restless(100)
    assert "changed while it was read" in str(read_file(file).problem)
    restless(2)
    assert read_file(file).documents
