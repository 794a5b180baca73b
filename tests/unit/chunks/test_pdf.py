"""PDF files as documents, a page each."""

from __future__ import annotations

import importlib.util
import io
from typing import TYPE_CHECKING, Any

import pytest

from embatch.search.chunks import read_file
from embatch.search.chunks.pdf import NO_EXTRA, read_pdf
from embatch.storage.sources.listing import SourceFile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def pdf(pages: Sequence[str], password: str = "") -> bytes:
    """A PDF file with a line of text on each page."""
    pypdf = pytest.importorskip("pypdf")
    generic = pypdf.generic
    writer = pypdf.PdfWriter()
    for text in pages:
        page = writer.add_blank_page(200, 200)
        font = generic.DictionaryObject(
            {
                generic.NameObject("/Type"): generic.NameObject("/Font"),
                generic.NameObject("/Subtype"): generic.NameObject("/Type1"),
                generic.NameObject("/BaseFont"): generic.NameObject("/Helvetica"),
            }
        )
        fonts = generic.DictionaryObject({generic.NameObject("/F1"): font})
        page[generic.NameObject("/Resources")] = generic.DictionaryObject(
            {generic.NameObject("/Font"): fonts}
        )
        stream = generic.DecodedStreamObject()
        lines = " T* ".join(f"({line}) Tj" for line in text.split("\n")) if text else ""
        stream.set_data(f"BT /F1 12 Tf 14 TL 10 100 Td {lines} ET".encode())
        page[generic.NameObject("/Contents")] = stream
    if password:
        writer.encrypt(password, algorithm="RC4-128")
    written = io.BytesIO()
    writer.write(written)
    return written.getvalue()


def test_each_page_is_a_document() -> None:
    """Pages keep their numbers, those without text are passed over, lines go on from page to page."""
    documents, problem = read_pdf("a.pdf", pdf(["First page\nmore", "", "Third page"]))
    assert problem is None
    assert [(d.part, d.text.split(), d.first_line, d.language) for d in documents] == [
        ("page 1", ["First", "page", "more"], 1, "text"),
        ("page 3", ["Third", "page"], 3, "text"),
    ]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"%PDF-1.7\nbroken", "no readable PDF"),
        (b"words", "no readable PDF"),
    ],
)
def test_a_broken_file_is_named(raw: bytes, words: str) -> None:
    """Whatever the library raises becomes a problem with the file's name in it."""
    pytest.importorskip("pypdf")
    documents, problem = read_pdf("a.pdf", raw)
    assert documents == []
    assert words in str(problem)
    assert "'a.pdf'" in str(problem)


def test_an_encrypted_file_is_named() -> None:
    """Without its password nothing can be read, and that is said."""
    documents, problem = read_pdf("a.pdf", pdf(["secret"], password="key"))
    assert documents == []
    assert "encrypted" in str(problem)


def test_pages_without_text_are_named() -> None:
    """A scan needs its text recognised first."""
    documents, problem = read_pdf("a.pdf", pdf(["", ""]))
    assert documents == []
    assert problem is not None
    assert "OCR" in problem.hint


def test_a_broken_page_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages that can be read are documents, the others are named."""
    pypdf = pytest.importorskip("pypdf")
    plain = pypdf.PageObject.extract_text

    def extract_text(page: Any) -> str:
        if page.page_number == 1:
            raise RecursionError
        return str(plain(page))

    monkeypatch.setattr(pypdf.PageObject, "extract_text", extract_text)
    documents, problem = read_pdf("a.pdf", pdf(["First", "Second", "Third"]))
    assert [d.part for d in documents] == ["page 1", "page 3"]
    assert "1 pages that cannot be read: 2" in str(problem)


def test_without_the_extra_files_are_counted_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason names what to install; the file is not opened."""
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    plain = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> Any:
        return None if name == "pypdf" else plain(name, package)

    monkeypatch.setattr("embatch.search.chunks.pdf.find_spec", without)
    content = read_file(SourceFile(str(tmp_path / "a.pdf"), "a.pdf", 4))
    assert content.skipped == NO_EXTRA
    assert 'pip install "embatch[pdf]"' in content.skipped
