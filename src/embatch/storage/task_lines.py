"""Lines of a task file and what they say: JSON objects with a vector each, read and written many at a time.

Stands under `task_file`. A line of a vector of 384 numbers is some 5 kB of digits, so that reading is nearly all about
them: they are cut out of their lines and read together, by Arrow; what is left of a line is read as JSON. It opens no
files.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embatch.errors import RowError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from embatch.types import FloatArray

VECTOR = "embedding"
"""The key that holds the vector."""
_KEY = b'"embedding"'
_OPENING = re.compile(rb"\s*:\s*\[")
_PLACE = b'"embedding": null'
_TOGETHER = 4096  # lines whose numbers are read at once: 20 MB of digits


@dataclass(frozen=True, slots=True, kw_only=True)
class LineProblem:
    """A line that is no record. It stays in the file."""

    line: int
    """From 1."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLines:
    """What a range of lines holds. Row `i` of `vectors` belongs to `records[i]`, which stands on line `lines[i]`."""

    records: list[dict[str, Any]]
    """Without their vectors."""
    lines: list[int]
    vectors: FloatArray
    """`(n, dimensions)` float32, as they stand in the file."""
    problems: list[LineProblem]


def read_lines(lines: Iterable[bytes], *, dimensions: int) -> ReadLines:
    """Read lines of a task file; blank ones are passed over.

    Args:
        lines: each without its line feed.
        dimensions: numbers that a vector must have.
    """
    reader = _Reader(dimensions)
    for number, line in enumerate(lines, start=1):
        if line and not line.isspace():
            reader.take(number, line)
    return reader.result()


def read_object(line: bytes) -> dict[str, Any]:
    """The JSON object on one line.

    Raises:
        RowError: it is none.
    """
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise RowError(f"not UTF-8 text: {error.reason} at byte {error.start}") from error
    except ValueError as error:
        raise RowError(f"not JSON: {error}") from error
    except RecursionError as error:
        raise RowError("JSON that is nested too deeply") from error
    if not isinstance(value, dict):
        raise RowError(f"a JSON object is wanted, not {type(value).__name__}")
    return value


def write_lines(records: Sequence[Mapping[str, Any]], vectors: FloatArray) -> list[bytes]:
    """Each record with its vector as one line with a line feed. Numbers are the shortest that read back the same.

    Args:
        records: JSON objects; a vector that they hold is replaced, in its place.
        vectors: `(len(records), dimensions)` float32, finite.
    """
    digits = vectors_as_text(vectors)
    return [write_line(record, one) + b"\n" for record, one in zip(records, digits, strict=True)]


def check_record(record: Mapping[str, Any]) -> None:
    """Make sure that a record can be written.

    Raises:
        RowError: it holds something that JSON cannot say.
    """
    try:
        json.dumps(record, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise RowError(f"the task holds something that JSON cannot say: {error}") from error


def vectors_as_text(vectors: FloatArray) -> list[bytes]:
    """`(n, d)` float32 as `n` lists of numbers, `0.1,0.25,…`, by Arrow's shortest digits."""
    import pyarrow as pa
    from pyarrow import csv

    if not len(vectors):
        return []
    columns = [pa.array(column) for column in np.ascontiguousarray(vectors.T)]
    table = pa.table(columns, names=[str(place) for place in range(len(columns))])
    out = pa.BufferOutputStream()
    csv.write_csv(table, out, csv.WriteOptions(include_header=False))
    text: bytes = out.getvalue().to_pybytes()
    return text.splitlines()


def write_line(record: Mapping[str, Any], digits: bytes) -> bytes:
    """A record with its vector, in digits that `vectors_as_text` gave, as one line without a line feed."""
    if VECTOR not in record:  # after the id, where people look for it
        first = {name: record[name] for name in ("task_id",) if name in record}
        record = {**first, VECTOR: None, **{k: v for k, v in record.items() if k not in first}}
    parts = [
        b'"%s": [%s]' % (VECTOR.encode(), digits) if name == VECTOR else _encoded({name: value})[1:-1]
        for name, value in record.items()
    ]
    return b"{" + b", ".join(parts) + b"}"


def _encoded(record: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # lone surrogates, which JSON's escapes can say
        return json.dumps(record).encode()


class _Reader:
    """Takes lines one by one, reads their numbers together."""

    def __init__(self, dimensions: int) -> None:
        self._dimensions = dimensions
        self._records: list[dict[str, Any]] = []
        self._lines: list[int] = []
        self._blocks: list[FloatArray] = []
        self._problems: list[LineProblem] = []
        self._waiting: list[tuple[int, dict[str, Any], bytes]] = []

    def take(self, number: int, line: bytes) -> None:
        try:
            record, digits = self._parted(line)
        except RowError as error:
            self._problems.append(LineProblem(line=number, reason=str(error)))
            return
        self._waiting.append((number, record, digits))
        if len(self._waiting) >= _TOGETHER:
            self._read_waiting()

    def result(self) -> ReadLines:
        self._read_waiting()
        blocks = self._blocks or [np.empty((0, self._dimensions), np.float32)]
        problems = sorted(self._problems, key=lambda problem: problem.line)
        return ReadLines(
            records=self._records, lines=self._lines, vectors=np.concatenate(blocks), problems=problems
        )

    def _parted(self, line: bytes) -> tuple[dict[str, Any], bytes]:
        """A line's record without its vector, and the vector's digits."""
        span = _numbers_span(line)
        if span is None:
            return self._slowly(line)
        key, start, end = span
        record = read_object(line[:key] + _PLACE + line[end + 1 :])
        if record.get(VECTOR, 0) is not None or line.find(_KEY, end) >= 0:
            return self._slowly(line)  # the numbers found lay within something else
        digits = line[start:end]
        _check_record_keys(record)
        self._check_size(digits.count(b",") + 1 if digits.strip() else 0)
        return record, digits

    def _slowly(self, line: bytes) -> tuple[dict[str, Any], bytes]:
        record = read_object(line)
        _check_record_keys(record)
        vector = record.get(VECTOR)
        if not isinstance(vector, list):
            raise RowError(f"no list of numbers under {VECTOR!r}")
        self._check_size(len(vector))
        if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in vector):
            raise RowError(f"something under {VECTOR!r} is no number")
        record[VECTOR] = None
        return record, b",".join(repr(float(one)).encode() for one in vector)

    def _check_size(self, count: int) -> None:
        if count != self._dimensions:
            raise RowError(f"the vector has {count} numbers, not {self._dimensions}")

    def _read_waiting(self) -> None:
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        vectors = _numbers([digits for _, _, digits in waiting], self._dimensions)
        sound = np.isfinite(vectors).all(axis=1) & np.any(vectors != 0, axis=1)
        for row, (number, record, _) in enumerate(waiting):
            if sound[row]:
                self._records.append(record)
                self._lines.append(number)
            else:
                reason = "the vector is zero, or something in it is no number"
                self._problems.append(LineProblem(line=number, reason=reason))
        self._blocks.append(vectors[sound])


def _numbers_span(line: bytes) -> tuple[int, int, int] | None:
    """Where the first key of a vector begins, and where the numbers under it begin and end."""
    key = line.find(_KEY)
    opening = _OPENING.match(line, key + len(_KEY)) if key >= 0 else None
    if opening is None:
        return None
    start, end = opening.end(), line.find(b"]", opening.end())
    if end < 0 or line.find(b'"', start, end) >= 0 or line.find(b"[", start, end) >= 0:
        return None
    return key, start, end


def _check_record_keys(record: Mapping[str, Any]) -> None:
    if not isinstance(record.get("task_id"), str) or not record["task_id"]:
        raise RowError("no task_id")


def _numbers(digits: list[bytes], dimensions: int) -> FloatArray:
    """Many lists of numbers at once; a row of NaN where one is broken."""
    try:
        return _parsed(digits, dimensions)
    except ValueError:
        if len(digits) == 1:
            return np.full((1, dimensions), np.nan, np.float32)
    half = len(digits) // 2
    return np.concatenate([_numbers(digits[:half], dimensions), _numbers(digits[half:], dimensions)])


def _parsed(digits: list[bytes], dimensions: int) -> FloatArray:
    import pyarrow as pa
    from pyarrow import csv

    names = [str(place) for place in range(dimensions)]
    rows = b"\n".join(digits)
    if b"\r" in rows:
        rows = rows.replace(b"\r", b" ")
    try:
        table = csv.read_csv(
            pa.BufferReader(rows),
            read_options=csv.ReadOptions(column_names=names),
            parse_options=csv.ParseOptions(quote_char=False, ignore_empty_lines=False),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.float32()), null_values=[]
            ),
        )
    except pa.ArrowInvalid as error:
        raise ValueError(str(error)) from error
    vectors: FloatArray = np.column_stack([column.to_numpy() for column in table.columns])
    return vectors
