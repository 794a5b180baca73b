"""What kind of file a name and its first bytes announce, and so which reader gets it.

Used by `reading`. Endings decide what has structure; everything else is text if it looks like text, so that no list of
programming languages has to be kept.
"""

from __future__ import annotations

from enum import Enum
from pathlib import PurePath
from typing import NamedTuple

from embatch.storage.sources.records import is_array_of_records


class Kind(Enum):
    """How a file is read."""

    TEXT = "text"  # one document
    HTML = "html"  # one document, its visible text
    JSON_LINES = "json lines"  # a record a line
    JSON = "json"  # an array of records, or one document
    COMMAS = ","  # a table
    TABS = "\t"  # a table
    PARQUET = "parquet"  # a table
    BINARY = "binary"  # not read


TABLES = frozenset({Kind.JSON_LINES, Kind.JSON, Kind.COMMAS, Kind.TABS, Kind.PARQUET})
"""Kinds in which a text column can be missing."""

_BY_ENDING = {
    "html": Kind.HTML,
    "htm": Kind.HTML,
    "xhtml": Kind.HTML,
    "jsonl": Kind.JSON_LINES,
    "ndjson": Kind.JSON_LINES,
    "json": Kind.JSON,
    "csv": Kind.COMMAS,
    "tsv": Kind.TABS,
    "tab": Kind.TABS,
    "parquet": Kind.PARQUET,
    "pq": Kind.PARQUET,
}

# Formats without a NUL byte early on, or whose few text-like files are none. Others show what they are.
_NOT_TEXT = (
    "7z aac accdb aiff apk arrow avi avif bin blend bmp br bz2 cab class db db3 deb dll dmg doc docx dylib eot "
    "epub exe feather flac flv gguf gif h5 hdf5 heic ico icns iso jar jpeg jpg jxl lz4 lzma m4a m4v mdb mid mkv "
    "mov mp3 mp4 mpeg mpg msgpack msi node npy npz o odp ods odt ogg onnx opus orc otf pdf pickle pkl png ppt "
    "pptx psd pt pth pyc pyd rar rlib rpm safetensors so sqlite sqlite3 svgz swf tar tbz2 tflite tgz tif tiff "
    "ttc ttf txz wasm wav webm webp whl wma wmv woff woff2 xls xlsb xlsx xz zip zst"
)
_BINARY = frozenset(_NOT_TEXT.split())


class Announced(NamedTuple):
    """What a file's name says."""

    kind: Kind
    compressed: bool = False


def announced(path: str) -> Announced:
    """The kind by the ending; `.gz` may stand behind any that can be read as a stream.

    >>> announced("a/b.JSONL.gz")
    Announced(kind=<Kind.JSON_LINES: 'json lines'>, compressed=True)
    """
    endings = [part.lower().lstrip(".") for part in PurePath(path).suffixes[-2:]]
    compressed = endings[-1:] == ["gz"]
    if compressed:
        endings.pop()
    ending = endings[-1] if endings else ""
    kind = Kind.BINARY if ending in _BINARY else _BY_ENDING.get(ending, Kind.TEXT)
    if compressed and kind is Kind.PARQUET:
        kind = Kind.BINARY
    return Announced(kind, compressed)


def settled(kind: Kind, head: str) -> Kind:
    """The kind after a look at the first bytes: a `.json` file may be a document."""
    return Kind.TEXT if kind is Kind.JSON and not is_array_of_records(head) else kind
