"""From a file's bytes to its text, in whatever encoding it is.

Used by `reading`. Byte order marks are believed, then UTF-8, then what the file declares about itself, then Windows'
Western code page. What is none of these well enough is binary. Other encodings are not guessed from their statistics.
"""

from __future__ import annotations

import codecs
import re
from typing import NamedTuple

_MARKS = (  # the longer first: UTF-16's little-endian mark begins UTF-32's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

# Python's PEP 263 and Emacs's mode lines, XML's declaration, HTML's meta element; all within the first bytes.
_DECLARED = re.compile(
    rb"(?:coding[:=]|encoding\s*=|charset\s*=)[ \t]*[\"']?([A-Za-z][A-Za-z0-9._:-]{1,40})", re.IGNORECASE
)
_DECLARED_BYTES = 1024

_CONTROL = bytes(code for code in range(32) if code not in b"\t\n\v\f\r\x1a\x1b")
_MOST_CONTROL = 0.003
"""A larger share of control characters is no text in a single-byte encoding."""

_WELL_OVER_BROKEN = 4
"""So many good characters beyond ASCII for each broken one: then it is UTF-8 with flaws, and nothing else."""


class Decoded(NamedTuple):
    """A text and how it was had."""

    text: str
    r"""Without a mark, its lines ended by `\n`."""
    encoding: str
    """Such as `utf-8`, `utf-16`, `cp1252`; `utf-8, 3 bytes broken` if these became `U+FFFD`."""


def decode(raw: bytes) -> Decoded | None:
    """The text of a file; None if it is binary."""
    for mark, encoding in _MARKS:
        if raw.startswith(mark):
            return _marked(raw, encoding)
    if b"\0" in raw:
        return None
    try:
        return Decoded(_unix(raw.decode()), "utf-8")
    except UnicodeDecodeError:
        return _declared(raw) or _flawed(raw) or _western(raw)


def is_text(head: bytes) -> bool:
    """Whether a file that begins so may be text. One that may not need not be read."""
    return head.startswith(tuple(mark for mark, _ in _MARKS)) or b"\0" not in head


def as_unicode(text: str) -> str:
    """The text without the surrogates that JSON and PDF can smuggle in."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _marked(raw: bytes, encoding: str) -> Decoded | None:
    """What the mark promises. UTF-8 may hold NUL even so, and is then binary; the others have NUL bytes anyway."""
    text = raw.decode(encoding, "replace").removeprefix("\ufeff")
    broken = text.count("\ufffd")
    if "\0" in text or broken * _WELL_OVER_BROKEN > len(text):
        return None
    return Decoded(_unix(text), f"{encoding}, {broken} characters broken" if broken else encoding)


def _declared(raw: bytes) -> Decoded | None:
    found = _DECLARED.search(raw[:_DECLARED_BYTES])
    if found is None:
        return None
    name = found[1].decode("ascii")
    try:
        text = raw.decode(name)
    except (LookupError, ValueError):  # unknown, no encoding of text, or not what the bytes are
        return None
    return None if "\0" in text else Decoded(_unix(as_unicode(text)), codecs.lookup(name).name)


def _flawed(raw: bytes) -> Decoded | None:
    text = raw.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    good = len(text) - broken - len(raw.translate(None, bytes(range(128, 256))))
    if good < _WELL_OVER_BROKEN * broken:
        return None
    return Decoded(_unix(text), f"utf-8, {broken} bytes broken")


def _western(raw: bytes) -> Decoded | None:
    control = len(raw) - len(raw.translate(None, _CONTROL))
    if control > _MOST_CONTROL * len(raw):
        return None
    try:
        return Decoded(_unix(raw.decode("cp1252")), "cp1252")
    except UnicodeDecodeError:
        return Decoded(_unix(raw.decode("latin-1")), "latin-1")


def _unix(text: str) -> str:
    r"""The same text with `\n` for `\r\n`, and for `\r` where no other line end is."""
    if "\r" not in text:
        return text
    return text.replace("\r\n", "\n") if "\n" in text else text.replace("\r", "\n")
