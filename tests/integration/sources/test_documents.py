"""Text and HTML files as items."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from embatch.errors import SourceFormatError, SourceUnreadableError
from embatch.storage.sources import open_sources
from embatch.types import Item

if TYPE_CHECKING:
    from collections.abc import Callable

    Write = Callable[..., None]
    Items = Callable[..., dict[str, str]]
    Errors = Callable[..., dict[str, tuple[str, str]]]

MEMORY = """
import resource, sys
from embatch.storage.sources import open_sources
list(open_sources([sys.argv[1]]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count = sum(len(row.text) for row in open_sources([sys.argv[2]]))
print(count, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize(
    "name", ["a.txt", "a.md", "a.rst", "a.py", "a.unknown", "Makefile", "a.log", "a.svg"]
)
def test_any_text_file_is_one_item(write: Write, items: Items, name: str) -> None:
    """No list of endings decides what is text."""
    write(name, "Some text,\n\nas it is. \n")
    assert items(name) == {name: "Some text,\n\nas it is. \n"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be"])
def test_a_byte_order_mark_tells_the_encoding(write: Write, items: Items, encoding: str) -> None:
    """UTF-8, -16 and -32 with a mark are read, and the mark is no part of the text."""
    mark = "\ufeff" if encoding.endswith("e") else ""
    write("a.txt", (mark + "grüße 😀" * 1000).encode(encoding))
    assert items("a.txt") == {"a.txt": "grüße 😀" * 1000}


def test_windows_line_ends_become_newlines(write: Write, items: Items) -> None:
    r"""`\r\n` is `\n` wherever it falls, also between two blocks; a lone `\r` stays."""
    text = "x" * 8191 + "\r\ny\rz\r\n" + "a\r\n" * 1_000_000 + "\r"
    write("a.txt", text)
    assert items("a.txt") == {"a.txt": text.replace("\r\n", "\n")}


def test_broken_utf8_is_named_with_its_place(write: Write, errors: Errors) -> None:
    """The only input raises; in a folder it is a bad item, and the others go on."""
    for offset in (0, 5, 8192, 2_000_000):
        write("bad.txt", b"x" * offset + b"\xe9" + b"y" * 100)
        with pytest.raises(SourceFormatError, match=rf"byte {offset} \(0xe9\)") as caught:
            open_sources(["bad.txt"])
        assert "iconv" in caught.value.hint
    write("cut.txt", b"x" * 99 + "é".encode()[:1])
    with pytest.raises(SourceFormatError, match="byte 99 "):
        open_sources(["cut.txt"])
    write("good.txt")
    bad = errors(".")
    assert {key: name for key, (name, _) in bad.items()} == dict.fromkeys(
        ["bad.txt", "cut.txt"], "SourceFormatError"
    )
    assert errors("bad.txt", "good.txt").keys() == {"bad.txt"}


def test_bytes_that_are_not_what_their_mark_says_are_an_error(write: Write) -> None:
    """A broken UTF-16 file is named as such."""
    write("a.txt", b"\xff\xfe" + "text".encode("utf-16-le") + b"\x00\xd8\x00\xd8")
    with pytest.raises(SourceFormatError, match="UTF-16"):
        open_sources(["a.txt"])


def test_binary_files_are_skipped_and_refused_as_the_only_input(write: Write, items: Items) -> None:
    """Known endings and NUL bytes tell; a folder's other files go on."""
    write("d/a.png", "not even binary")
    write("d/b", b"\x7fELF\0\0")
    write("d/c.txt", b"text\0more")
    write("d/d.txt", "text")
    assert items("d") == {"d/d.txt": "text"}
    sources = open_sources(["d"])
    list(sources)
    assert sources.skipped_counts == {"binary": 3}
    for name in ("d/a.png", "d/b", "d/c.txt"):
        with pytest.raises(SourceFormatError, match="binary"):
            open_sources([name])


def test_empty_files_are_skipped(write: Write, items: Items) -> None:
    """Of whatever kind; white space is text, which the engine will name."""
    for name in ("a.txt", "a.jsonl", "a.csv", "a.json", "a.parquet", "a.html"):
        write(f"d/{name}", "")
    write("d/a.txt.gz", gzip.compress(b""))
    write("d/space.txt", " \n")
    assert items("d") == {"d/space.txt": " \n"}
    sources = open_sources(["d"])
    list(sources)
    assert sources.skipped_counts == {"empty": 7}
    assert items("d/a.txt") == {}


def test_a_file_that_vanishes_is_reported(write: Write, folder: Path) -> None:
    """Deleted between listing and reading: a bad item under its key, or an error if it was all there was."""
    write("d/a.md")
    write("d/b.md")
    sources = open_sources(["d"])
    (folder / "d/a.md").unlink()
    found = [(row.key, "" if isinstance(row, Item) else type(row.error).__name__) for row in sources]
    assert found == [("d/a.md", "SourceUnreadableError"), ("d/b.md", "")]
    alone = open_sources(["d/b.md"])
    (folder / "d/b.md").unlink()
    with pytest.raises(SourceUnreadableError, match=r"d/b\.md"):
        list(alone)


def test_a_folder_in_place_of_a_file_is_reported(write: Write, folder: Path) -> None:
    """What turned into something else meanwhile cannot be read, and is named."""
    write("d/a.md")
    write("d/b.md")
    sources = open_sources(["d"])
    (folder / "d/a.md").unlink()
    (folder / "d/a.md").mkdir()
    assert [type(row).__name__ for row in sources] == ["BadItem", "Item"]


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that lets nobody read it")
def test_a_file_that_cannot_be_read_is_reported(write: Write, folder: Path, errors: Errors) -> None:
    """An input error in the middle of a walk costs one file."""
    write("d/a.md")
    (folder / "d/b.md").symlink_to("/proc/self/mem")
    assert errors("d")["d/b.md"][0] == "SourceUnreadableError"
    with pytest.raises(SourceUnreadableError, match=r"d/b\.md"):
        open_sources(["d/b.md"])


def test_compressed_text_is_read(write: Write, items: Items) -> None:
    """`.gz` behind any ending; the key keeps it."""
    write("a.md.gz", gzip.compress("# Ü\r\n".encode()))
    write("b.gz", gzip.compress(b"text"))
    write("c.tar.gz", gzip.compress(b"text"))
    write("d.html.gz", gzip.compress(b"<p>text"))
    assert items(".") == {"a.md.gz": "# Ü\n", "b.gz": "text", "d.html.gz": "text"}


def test_broken_compression_is_named(write: Write, errors: Errors) -> None:
    """A truncated or false gzip file is a format error, not a traceback."""
    whole = gzip.compress(bytes(range(97, 123)) * 10_000)
    write("d/cut.txt.gz", whole[: len(whole) // 2])
    write("d/false.txt.gz", "no gzip")
    write("d/crc.txt.gz", whole[:-8] + b"12345678")
    bad = errors("d")
    assert {name for name, _ in bad.values()} == {"SourceFormatError"}
    assert set(bad) == {"d/cut.txt.gz", "d/false.txt.gz", "d/crc.txt.gz"}
    with pytest.raises(SourceFormatError, match="gzip"):
        open_sources(["d/cut.txt.gz"])


def test_a_long_file_comes_in_pieces(write: Write) -> None:
    """Cut at paragraph borders, numbered, and together the whole text."""
    paragraph = "words and words " * 1000
    text = "\n\n".join([paragraph] * 1200)
    write("long.txt", text)
    found = list(open_sources(["long.txt"]))
    assert [row.key for row in found] == ["long.txt#1", "long.txt#2", "long.txt#3"]
    texts = [row.text for row in found if isinstance(row, Item)]
    assert "".join(texts) == text
    assert all(part.endswith("\n\n") for part in texts[:-1])
    assert max(map(len, texts)) <= 8 << 20


@pytest.mark.parametrize("separator", ["\n", " ", ""])
def test_a_long_file_without_paragraphs_is_cut_at_the_next_best(write: Write, separator: str) -> None:
    """Lines, else spaces, else anywhere: nothing is lost."""
    text = separator.join(["wörd" * 10] * 500_000)
    write("long.txt", text)
    texts = [row.text for row in open_sources(["long.txt"]) if isinstance(row, Item)]
    assert "".join(texts) == text
    assert len(texts) > 1
    assert all(part.endswith(separator) for part in texts[:-1])


def test_what_was_read_before_an_error_is_kept(write: Write) -> None:
    """A long file that breaks late gives its pieces up to there, and a bad item for the rest."""
    write("long.txt", b"some line\n" * 2_000_000 + b"\xff")
    found = list(open_sources(["long.txt"]))
    assert [(row.key, type(row).__name__) for row in found] == [
        ("long.txt#1", "Item"),
        ("long.txt#2", "Item"),
        ("long.txt", "BadItem"),
    ]


@pytest.mark.parametrize("name", ["large.txt", "large.jsonl", "large.csv", "large.json"])
def test_memory_does_not_grow_with_a_file(write: Write, folder: Path, name: str) -> None:
    """A file of 40 MB is read within 25 MB more than a small one takes."""
    head, row, tail = {
        "large.txt": ("", "a line of a log file that goes on and on\n", ""),
        "large.jsonl": ("", '{"id": "a", "text": "a line of a log file"}\n', ""),
        "large.csv": ("id,text\n", "a,a line of a log file that goes on\n", ""),
        "large.json": ('[{"text": "x"}', ',\n{"id": "a", "text": "a line of a log file"}', "]"),
    }[name]
    write("small" + Path(name).suffix, head + row + tail)
    with (folder / name).open("w") as out:
        out.write(head)
        for _ in range(40):
            out.write(row * (1_000_000 // len(row)))
        out.write(tail)
    command = [sys.executable, "-c", MEMORY, "small" + Path(name).suffix, name]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    chars, grown_mb = map(int, done.stdout.split())
    assert chars > 14_000_000
    assert grown_mb < 25


def test_a_page_becomes_its_visible_text(write: Write, items: Items) -> None:
    """Title first; blocks are lines; scripts and styles are gone; code keeps its spaces, other text does not."""
    write(
        "a.html",
        """<!doctype html><html><head><title> A &amp; B\n </title><style>p {}</style></head><body>
        <nav>Menu</nav><h1>Head</h1><p>One <b>bo</b>ld\n   word<br>next<script>alert(1)</script></p>
        <ul><li>first<li>second</ul><pre>def f():\n    return 1</pre><template>no</template>
        <table><tr><th>x<th>y<tr><td>1<td>2</table>&lt;end&gt;<!-- note --></body></html>""",
    )
    assert items("a.html") == {
        "a.html": "A & B\n\nMenu\n\nHead\n\nOne bold word\nnext\n\nfirst\nsecond\n\ndef f():\n    return 1\n\n"
        "x y\n1 2\n\n<end>"
    }


def test_a_page_is_decoded_as_it_declares(write: Write, items: Items) -> None:
    """UTF-8, else what the page's meta element says; a false declaration is a format error."""
    write("a.htm", b'<meta charset="iso-8859-1"><p>caf\xe9')
    assert items("a.htm") == {"a.htm": "café"}
    write("b.htm", b'<meta charset="nonsense"><p>caf\xe9')
    with pytest.raises(SourceFormatError, match="not UTF-8"):
        open_sources(["b.htm"])


@pytest.mark.parametrize(
    "page", ["<", "<p", "no markup", "<b>" * 2000 + "x", "&#0;&#xD800;x", "<body></body>"]
)
def test_any_bytes_are_a_page(write: Write, items: Items, page: str) -> None:
    """Broken markup is read as a browser would, and always gives text that encodes."""
    write("a.html", page)
    assert items("a.html")["a.html"].encode() is not None


def test_a_page_beyond_measure_is_refused(write: Write, errors: Errors) -> None:
    """A page of more than 64 MB would take a gigabyte to parse: it is named, not read."""
    write("d/a.html", "<p>text</p>" * 6_200_000)
    write("d/b.html", "<p>text")
    assert errors("d")["d/a.html"] == ("SourceFormatError", "'d/a.html' is an HTML page of more than 64 MB.")
