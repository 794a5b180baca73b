"""A PDF file as one document a page.

Used by `reading`; needs the `pdf` extra. Scanned pages hold no text and are not recognised. The lines of the pages are
numbered as if they stood one below the other.
"""

from __future__ import annotations

import io
import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from embatch.chunks import Document
from embatch.errors import SourceFormatError
from embatch.search.chunks.decoding import as_unicode

if TYPE_CHECKING:
    from collections.abc import Sequence

NO_EXTRA = 'PDF: pip install "embatch[pdf]"'
"""The reason for which PDF files are passed over without the library that reads them."""

_NAMED_PAGES = 5


def has_pypdf() -> bool:
    """Whether PDF files can be read."""
    return find_spec("pypdf") is not None


def read_pdf(path: str, raw: bytes) -> tuple[list[Document], SourceFormatError | None]:
    """The pages that hold text, in order, and what is wrong with the file or with some of its pages."""
    import pypdf

    # Its remarks on how files break the rules would end up between the lines of a progress display.
    logger = logging.getLogger("pypdf")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    try:
        reader = pypdf.PdfReader(io.BytesIO(raw))
        if reader.is_encrypted and not reader.decrypt(""):
            return [], SourceFormatError(
                f"{path!r} is encrypted.", hint="Save it without a password, or leave it out."
            )
        pages = list(reader.pages)
    except Exception as error:  # noqa: BLE001  # whatever a broken file makes the library raise
        return [], SourceFormatError(
            f"{path!r} is no readable PDF file: {_short(error)}.", hint="Save it anew, or leave it out."
        )
    return _pages(path, pages)


def _pages(path: str, pages: Sequence[Any]) -> tuple[list[Document], SourceFormatError | None]:
    documents: list[Document] = []
    broken: list[int] = []
    first_line = 1
    for number, page in enumerate(pages, start=1):
        try:
            text = as_unicode(page.extract_text() or "").replace("\0", " ")
        except Exception:  # noqa: BLE001  # the other pages may be whole
            broken.append(number)
            continue
        if text.strip():
            documents.append(
                Document(path=path, text=text, language="text", first_line=first_line, part=f"page {number}")
            )
            first_line += text.count("\n") + 1
    return documents, _problem(path, broken, empty=not documents)


def _problem(path: str, broken: Sequence[int], *, empty: bool) -> SourceFormatError | None:
    if broken:
        named = ", ".join(map(str, broken[:_NAMED_PAGES])) + (", …" if len(broken) > _NAMED_PAGES else "")
        return SourceFormatError(
            f"{path!r} has {len(broken)} pages that cannot be read: {named}.",
            hint="Save it anew, or leave it out.",
        )
    if empty:
        return SourceFormatError(
            f"{path!r} holds no text, only images.", hint="Recognise its text first (OCR), or leave it out."
        )
    return None


def _short(error: Exception) -> str:
    return (str(error) or type(error).__name__).rstrip(".")[:200]
