"""Files as blocks of UTF-8 and as lines, in bounded memory, whatever they are compressed or encoded with.

The readers of documents, JSON and CSV stand on this; Parquet files are opened by pyarrow itself. What the operating
system and the decompressor raise is turned into errors of ours here and nowhere else.
"""

from __future__ import annotations

import codecs
import gzip
import zlib
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, BinaryIO, Self, cast

from embatch.errors import SourceFormatError, SourceUnreadableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

BLOCK_BYTES = 1 << 20
"""What is read at a time: large enough that Python's share is small, small enough for any machine."""

HEAD_BYTES = 8192
"""So much of a file tells text from binary and one format from another."""

MAX_LINE_BYTES = 256 << 20
"""A longer line is no row of a table, and would have to lie in memory whole."""

_MARKS = (  # the longer first: UTF-16's little-endian mark begins UTF-32's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class Input:
    """A file or pipe open for reading, decompressed, its first bytes known. Close it, or use `with`."""

    def __init__(self, raw: BinaryIO, *, key: str, compressed: bool = False, by_line: bool = False) -> None:
        """Take over `raw`, looking at its first bytes.

        Args:
            raw: the file.
            key: names it in errors.
            compressed: whether it is a gzip file.
            by_line: look no further than the first line needs, for a pipe that is still being written.
        """
        self._raw = raw
        self._key = key
        self._stream = cast("BinaryIO", gzip.GzipFile(fileobj=raw)) if compressed else raw
        self._read_some = getattr(self._stream, "read1", self._stream.read)
        self.head = b""
        while len(self.head) < HEAD_BYTES and not (by_line and b"\n" in self.head):
            more = self._read(HEAD_BYTES)
            if not more:
                break
            self.head += more

    @classmethod
    def open(cls, path: str, *, key: str, compressed: bool = False) -> Self:
        """Open a file. Errors are the operating system's: use it within `mapped_errors`."""
        raw = open(path, "rb")  # noqa: SIM115, PTH123  # closed by `close`; surrogates in names pass here
        try:
            return cls(raw, key=key, compressed=compressed)
        except BaseException:
            raw.close()
            raise

    @property
    def encoding(self) -> str | None:
        """What the byte order mark says: `utf-8`, `utf-16`, `utf-32`; `None` without one."""
        return next((name for mark, name in _MARKS if self.head.startswith(mark)), None)

    @property
    def nul_share(self) -> float:
        """Share of NUL bytes among the first bytes, 0 to 1, unless a mark explains them. Text has none."""
        if self.encoding not in {None, "utf-8"} or not self.head:
            return 0.0
        return self.head.count(b"\0") / len(self.head)

    @property
    def head_text(self) -> str:
        """The first bytes as text, as far as they are."""
        return self.head.decode(self.encoding or "utf-8", "replace").removeprefix("\ufeff")

    def position(self) -> int:
        """Bytes of the file consumed so far, as they lie on the disk. 0 once closed. Any thread may ask."""
        try:
            return self._raw.tell()
        except (OSError, ValueError):  # a pipe has no position, a closed file neither
            return 0

    def blocks(self) -> Iterator[bytes]:
        """The content from its start, in blocks, as UTF-8 without a mark. UTF-16 and UTF-32 are recoded.

        Raises:
            SourceFormatError: the mark promises UTF-16 or UTF-32, and the bytes are neither.
        """
        encoding = self.encoding
        if encoding is None or encoding == "utf-8":
            return self._bytes(0 if encoding is None else len(codecs.BOM_UTF8))
        return self._recoded(encoding)

    def lines(self) -> Iterator[str | bytes]:
        r"""The lines without their `\n`; those that are no UTF-8 as the bytes they are.

        Only `\n` ends a line: JSON may hold the other separators of Unicode as they are.

        Raises:
            SourceFormatError: a line is longer than `MAX_LINE_BYTES`, or see `blocks`.
        """
        # What has been read of a line that has not ended; joined once, or long lines would cost their square.
        pending: list[bytes] = []
        pending_bytes = 0
        for block in self.blocks():
            whole, newline, rest = block.rpartition(b"\n")
            if newline:
                yield from _decoded(b"".join([*pending, whole]))
                pending, pending_bytes = [rest], len(rest)
                continue
            pending.append(block)
            pending_bytes += len(block)
            if pending_bytes > MAX_LINE_BYTES:
                raise SourceFormatError(f"{self._key!r} has a line of more than {MAX_LINE_BYTES >> 20} MB.")
        last = b"".join(pending)
        if last:
            yield from _decoded(last)

    def text(self) -> Iterator[str]:
        """The content in blocks of text.

        Raises:
            SourceFormatError: a byte that is no UTF-8, with its offset in the file.
        """
        decoder = codecs.getincrementaldecoder("utf-8")()
        done = len(codecs.BOM_UTF8) if self.encoding == "utf-8" else 0
        for block in chain(self.blocks(), (b"",)):
            waiting = len(decoder.getstate()[0])  # bytes of a character that the last block cut in two
            try:
                yield decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                raise not_utf8(self._key, done - waiting + error.start, error) from error
            done += len(block)

    def _bytes(self, start: int) -> Iterator[bytes]:
        if self.head[start:]:
            yield self.head[start:]
        while block := self._read(BLOCK_BYTES):
            yield block

    def _recoded(self, encoding: str) -> Iterator[bytes]:
        decoder = codecs.getincrementaldecoder(encoding)()
        done = 0
        try:
            for block in self._bytes(0):
                if text := decoder.decode(block):
                    yield text.encode()
                done += len(block)
            decoder.decode(b"", final=True)
        except UnicodeError as error:
            raise SourceFormatError(
                f"{self._key!r} begins with the mark of {encoding.upper()}, but from about byte {done} on "
                f"it is not: {error}."
            ) from error

    def _read(self, most_bytes: int) -> bytes:
        """What is there now, at least one byte unless at the end: a pipe hands over early what it has."""
        return cast("bytes", self._read_some(most_bytes))

    def close(self) -> None:
        """Give the file back. Closing twice is allowed."""
        if self._stream is not self._raw:
            self._stream.close()
        self._raw.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def mapped_errors(key: str) -> Iterator[None]:
    """Turn what reading the file `key` raises into errors of ours."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SourceFormatError(
            f"{key!r} is no whole gzip file: {error}.", hint="Copy or compress the file again."
        ) from error
    except OSError as error:
        raise SourceUnreadableError(f"Cannot read {key!r}: {error.strerror or error}.") from error


def _decoded(whole: bytes) -> Iterator[str | bytes]:
    try:
        yield from whole.decode().split("\n")
    except UnicodeDecodeError:
        for line in whole.split(b"\n"):
            try:
                yield line.decode()
            except UnicodeDecodeError:
                yield line


def not_utf8(key: str, offset: int, error: UnicodeDecodeError) -> SourceFormatError:
    """The error of a file that is no UTF-8 from the byte `offset` on."""
    return SourceFormatError(
        f"{key!r} is not UTF-8: {error.reason} at byte {offset} (0x{error.object[error.start]:02x}).",
        hint="Convert it, for instance with `iconv -f latin1 -t utf-8`, or leave it out.",
    )
