"""Plain text and HTML as items: a file as one, a long file as several pieces, or a line as one.

One of the readers of source → items. It cuts by size alone, so that a log of any length passes through little memory;
cutting to what a model takes is `decisions.chunking`'s matter.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from embatch.errors import SourceFormatError
from embatch.storage.sources.rows import broken_text
from embatch.storage.sources.streams import not_utf8
from embatch.types import BadItem, Item

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embatch.storage.sources.listing import SourceFile
    from embatch.storage.sources.streams import Input

PIECE_CHARS = 8 << 20
"""A longer text is handed on in pieces of at most this many characters, `KEY#1`, `KEY#2` …"""

MAX_PAGE_BYTES = 64 << 20
"""A longer HTML page is refused: its tree would take a dozen times its size in memory."""

_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?([A-Za-z0-9._:-]{1,40})", re.IGNORECASE)


def read_text(opened: Input, file: SourceFile) -> Iterator[Item]:
    """The file's text, in pieces cut at paragraph borders, else line borders, else spaces.

    Raises:
        SourceFormatError: it is not UTF-8 from some byte on. Pieces before that have been handed over.
    """
    pieces = _pieces(_unix(opened.text()))
    first = next(pieces, None)
    if first is None:
        return
    second = next(pieces, None)
    if second is None:
        yield Item(file.key, first, file.key)
        return
    yield Item(f"{file.key}#1", first, file.key)
    yield Item(f"{file.key}#2", second, file.key)
    for number, piece in enumerate(pieces, start=3):
        yield Item(f"{file.key}#{number}", piece, file.key)


def read_lines(opened: Input, file: SourceFile) -> Iterator[Item | BadItem]:
    """Each line as a text; blank ones are none."""
    for number, line in enumerate(opened.lines(), start=1):
        place = f"{file.key}:{number}"
        if isinstance(line, bytes):
            yield broken_text(place, None)
        elif line and not line.isspace():
            yield Item(place, line.removesuffix("\r"), place)


def read_html(opened: Input, file: SourceFile) -> Iterator[Item]:
    """The visible text of a page, its title first.

    Raises:
        SourceFormatError: the page is longer than `MAX_PAGE_BYTES`, or its bytes are not what it declares.
    """
    from embatch.storage.sources.html import page_text

    page = bytearray()
    for block in opened.blocks():
        page += block
        if len(page) > MAX_PAGE_BYTES:
            raise SourceFormatError(
                f"{file.key!r} is an HTML page of more than {MAX_PAGE_BYTES >> 20} MB.",
                hint="Convert it to text, or split it.",
            )
    yield Item(file.key, page_text(_page(bytes(page), file.key)), file.key)


def _unix(blocks: Iterator[str]) -> Iterator[str]:
    r"""The same text with `\n` for `\r\n`."""
    held = ""  # a `\r` that may be half of a line end
    for block in blocks:
        text = held + block
        held = "\r" if text.endswith("\r") else ""
        yield (text[:-1] if held else text).replace("\r\n", "\n")
    yield held


def _pieces(blocks: Iterator[str]) -> Iterator[str]:
    pending: list[str] = []
    size = 0
    for block in blocks:
        pending.append(block)
        size += len(block)
        if size < PIECE_CHARS:
            continue
        text = "".join(pending)
        while len(text) >= PIECE_CHARS:
            border = _border(text)
            yield text[:border]
            text = text[border:]
        pending, size = [text], len(text)
    rest = "".join(pending)
    if rest:
        yield rest


def _border(text: str) -> int:
    """Where to cut `text` so that the first piece is at most `PIECE_CHARS` and at least half of that."""
    for separator in ("\n\n", "\n", " "):
        found = text.rfind(separator, PIECE_CHARS // 2, PIECE_CHARS)
        if found >= 0:
            return found + len(separator)
    return PIECE_CHARS


def _page(page: bytes, key: str) -> str:
    """The page decoded: UTF-8, else what its `meta` element declares."""
    try:
        return page.decode()
    except UnicodeDecodeError as error:
        declared = _CHARSET.search(page[:4096])
        try:
            if declared is not None:
                return page.decode(declared[1].decode("ascii"))
        except (LookupError, UnicodeDecodeError):
            pass  # what it declares is no help: report what is wrong with it as UTF-8
        raise not_utf8(key, error.start, error) from error
