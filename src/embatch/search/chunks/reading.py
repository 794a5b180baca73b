"""One listed file as documents to cut, or the reason why it is none.

The first step of *files → documents → chunks*. It opens files, decodes them and passes over what nobody wrote or nobody
reads; nothing that a file system can do ends in an exception. Which files there are is `storage/sources/listing`'s
matter, how documents are cut `chunker`'s.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Literal

from embatch.chunks import Document
from embatch.errors import SourceError, SourceUnreadableError
from embatch.search.chunks.decoding import decode, is_text
from embatch.search.chunks.generated import by_content, by_name
from embatch.search.chunks.languages import language_of
from embatch.search.chunks.notebooks import read_notebook
from embatch.search.chunks.pages import visible_lines
from embatch.search.chunks.pdf import NO_EXTRA, has_pypdf, read_pdf
from embatch.storage.sources.kinds import Kind, announced
from embatch.storage.sources.streams import HEAD_BYTES

if TYPE_CHECKING:
    from embatch.storage.sources.listing import SourceFile

Skipped = Literal[
    "binary",  # NUL bytes, control characters, or an ending that only binary files have
    "empty",  # nothing, or white space only
    "too large",  # above the limit of its kind
    "generated",  # says so itself, or by its name
    "minified",
    "lock file",
    "table",  # rows: for `embatch embed`
    "not a regular file",  # a pipe, a socket, a device, a folder
    'PDF: pip install "embatch[pdf]"',
]
"""Why a file has no documents, though nothing went wrong."""

_TABLES = frozenset({Kind.JSON_LINES, Kind.COMMAS, Kind.TABS, Kind.PARQUET})
_DATA_ENDINGS = "json jsonc json5 yaml yml toml xml ini cfg conf plist svg properties"
_DATA = frozenset(_DATA_ENDINGS.split())
_TRIES = 3
"""So often a file that changes while it is read is read again."""

_OPEN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
"""Without waiting for somebody who writes to a pipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """What is too large, and whether files that nobody wrote are read."""

    max_bytes: int = 2_000_000
    """Of code and prose."""
    max_data_bytes: int = 256_000
    """Of JSON, YAML, TOML, XML and INI files: larger ones are data, not configuration."""
    max_pdf_bytes: int = 64 << 20
    generated: bool = False
    """Read generated, minified and lock files as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileContent:
    """A file as it was read: documents, or why there are none."""

    documents: tuple[Document, ...] = ()
    digest: bytes = b""
    """16 bytes over the bytes of the file; empty if they were not read."""
    skipped: str = ""
    """One of `Skipped`; empty if it was not passed over."""
    problem: SourceError | None = None
    """What went wrong, if something did. With documents: some part of the file could not be read."""
    encoding: str = ""
    """Such as `utf-8`, `cp1252`, `utf-8, 3 bytes broken`; empty for PDF files."""


class _PassedError(Exception):
    """The file is passed over; the argument is the reason."""


def read_file(file: SourceFile, options: ReadOptions | None = None) -> FileContent:
    """The documents of a file. It raises nothing: what goes wrong is the result's `problem`.

    A file above its limit costs a look at its size, a binary one its first 8 KB.
    """
    options = options or ReadOptions()
    if file.problem:
        return FileContent(problem=SourceUnreadableError(file.problem))
    try:
        limit = _limit(file, options)
        raw = _bytes_of(file, limit)
    except _PassedError as passed:
        return FileContent(skipped=str(passed))
    except (OSError, ValueError) as error:  # ValueError: a name that no system call takes
        why = getattr(error, "strerror", None) or error
        return FileContent(problem=SourceUnreadableError(f"Cannot read {file.key!r}: {why}."))
    except SourceError as error:
        return FileContent(problem=error)
    return read_bytes(file.key, raw, options)


def read_bytes(key: str, raw: bytes, options: ReadOptions | None = None) -> FileContent:
    """The documents of a file whose bytes are at hand. See `read_file`."""
    digest = hashlib.blake2b(raw, digest_size=16).digest()
    try:
        documents, problem, encoding = _documents(key, raw, options or ReadOptions())
    except _PassedError as passed:
        return FileContent(digest=digest, skipped=str(passed))
    return FileContent(documents=tuple(documents), digest=digest, problem=problem, encoding=encoding)


def _limit(file: SourceFile, options: ReadOptions) -> int:
    """Most bytes of this file, by what its name says.

    Raises:
        _PassedError: its name or size say that it is not to be read.
    """
    ending = _ending(file.key)
    name_says = "" if options.generated else by_name(file.key)
    limit = options.max_data_bytes if ending in _DATA else options.max_bytes
    if ending == "pdf":
        limit = options.max_pdf_bytes
    else:
        kind, compressed = announced(file.key)
        if kind in _TABLES:
            raise _PassedError("table")
        if kind is Kind.BINARY or compressed:
            raise _PassedError("binary")
    if name_says:
        raise _PassedError(name_says)
    if file.size_bytes > limit:
        raise _PassedError("too large")
    if ending == "pdf" and not has_pypdf():
        raise _PassedError(NO_EXTRA)
    return limit


def _bytes_of(file: SourceFile, limit: int) -> bytes:
    """All of a file, from one moment.

    Raises:
        _PassedError: it is binary, too large by now, or no file.
        SourceUnreadableError: it changes all the time.
        OSError: it is gone, or may not be read.
    """
    for _ in range(_TRIES):
        with os.fdopen(os.open(file.path, _OPEN), "rb", buffering=0) as opened:
            before = os.fstat(opened.fileno())
            if not stat.S_ISREG(before.st_mode):
                raise _PassedError("not a regular file")
            if before.st_size > limit:
                raise _PassedError("too large")
            raw = _read(opened, limit, look=_ending(file.key) != "pdf")
            after = os.fstat(opened.fileno())
        if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
            return raw
    raise SourceUnreadableError(
        f"{file.key!r} changed while it was read, {_TRIES} times in a row.",
        hint="Index it when it is at rest, or leave it out.",
    )


def _read(opened: BinaryIO, limit: int, *, look: bool) -> bytes:
    head = opened.read(HEAD_BYTES) or b""
    if look and not is_text(head):
        raise _PassedError("binary")
    blocks, size = [head], len(head)
    while block := opened.read(
        limit + 1 - size
    ):  # a file without a size, such as /proc's, may still have content
        blocks.append(block)
        size += len(block)
        if size > limit:
            raise _PassedError("too large")
    return b"".join(blocks)


def _documents(key: str, raw: bytes, options: ReadOptions) -> tuple[list[Document], SourceError | None, str]:
    """The documents, what is wrong, and the encoding.

    Raises:
        _PassedError: there is nothing to read.
    """
    ending = _ending(key)
    if raw and ending == "pdf":
        return *read_pdf(key, raw), ""
    decoded = decode(raw)
    if decoded is None:
        raise _PassedError("binary")
    text, encoding = decoded
    if ending == "ipynb" and text.strip():
        cells, problem = read_notebook(key, text)
        if not cells and problem is None:
            raise _PassedError("empty")
        return cells, problem, encoding
    language = language_of(key, text[:HEAD_BYTES])
    reason = "" if options.generated else by_content(text, language)
    if reason:
        raise _PassedError(reason)
    if language == "html":
        text = visible_lines(text)
    if not text or text.isspace():  # nothing, or a page of scripts
        raise _PassedError("empty")
    return [Document(path=key, text=text, language=language)], None, encoding


def _ending(key: str) -> str:
    return PurePosixPath(key).suffix.lower().lstrip(".")
