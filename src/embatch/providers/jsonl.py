"""Files of one JSON value a line: what jobs are given, and what they give back, with little of it in memory.

Lines end at a line feed and nowhere else: a text may hold U+2028 or U+0085, at which `str.splitlines` would break it.
"""

from __future__ import annotations

import errno
import json
import tempfile
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from embatch.errors import DiskFullError, OutputNotWritableError, ProviderError
from embatch.remote import ErrorKind, JobRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

_LONGEST_LINE = 64 * 1024 * 1024  # bytes; a row of 3,072 numbers has some 60,000


@contextmanager
def disk_errors() -> Iterator[None]:
    """What goes wrong with a temporary file, in our words: it is no fault of the provider."""
    try:
        yield
    except OSError as error:
        where = tempfile.gettempdir()
        if error.errno == errno.ENOSPC:
            raise DiskFullError(
                f"no space left in {where} for a job's file", hint="Free space there, or set TMPDIR."
            ) from error
        raise OutputNotWritableError(
            f"a job's file cannot be written in {where}: {error.strerror}",
            hint="Set TMPDIR to another folder.",
        ) from error


@contextmanager
def temporary_file() -> Iterator[IO[bytes]]:
    """A file without a name, gone when it is closed."""
    with disk_errors():
        file = tempfile.TemporaryFile(prefix="embatch-")  # noqa: SIM115  # closed two lines below
    with file:
        yield file


@contextmanager
def written(lines: Iterable[Mapping[str, Any]], *, most_bytes: int | None) -> Iterator[tuple[IO[bytes], int]]:
    """A temporary file with one line for each value, at its start for reading, and how many lines it has.

    Raises:
        ProviderError: TOO_MANY_TOKENS, when the file gets larger than a job takes; BAD_INPUT, when it has no line.
    """
    with temporary_file() as file:
        count = 0
        for line in lines:
            count += 1
            with disk_errors():
                file.write(_encoded(line))
            if most_bytes is not None and file.tell() > most_bytes:
                raise ProviderError(
                    f"a job's file may have {most_bytes:,} bytes, and {count:,} items already have more",
                    kind=ErrorKind.TOO_MANY_TOKENS if count > 1 else ErrorKind.INPUT_TOO_LONG,
                )
        if not count:
            raise ProviderError("a job needs at least one item", kind=ErrorKind.BAD_INPUT)
        with disk_errors():
            file.flush()
            file.seek(0)
        yield file, count


def _encoded(line: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(line, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode() + b"\n"
    except UnicodeEncodeError:  # a lone surrogate: the provider is to refuse this row, not we the job
        return json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def rows(file: IO[bytes], parse: Callable[[Mapping[str, Any]], JobRow]) -> Iterator[JobRow]:
    """The rows of a file of results, read line by line; a line that is none becomes a PROTOCOL row without a key."""
    while raw := file.readline(_LONGEST_LINE):
        if not raw.strip():
            continue
        try:
            line = json.loads(raw)
        except ValueError:  # UnicodeDecodeError is one too
            yield _broken(f"a line of the job's results is cut off or no JSON: {_shown(raw)}")
            continue
        if not isinstance(line, dict):
            yield _broken(f"a line of the job's results is no object: {_shown(raw)}")
            continue
        yield parse(line)


def _shown(raw: bytes) -> str:
    text = raw[:120].decode("utf-8", "replace").strip()
    return repr(text if len(raw) <= 120 else text[:80] + "…")


def _broken(message: str) -> JobRow:
    return JobRow(None, ProviderError(message, kind=ErrorKind.PROTOCOL))


def key_of(value: object) -> str | None:
    """A row's key, if it has one."""
    return value if isinstance(value, str) and value else None


def count_of(value: object) -> int | None:
    """A count that may come as a number or, as int64 does in Google's JSON, as a string; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return None
    try:
        return int(value)
    except ValueError:
        return None


def table(value: object) -> Mapping[str, Any]:
    """A JSON object, or an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}


def first(value: object) -> Mapping[str, Any]:
    """The first object of a JSON list, or an empty one."""
    return table(value[0]) if isinstance(value, list) and value else {}
