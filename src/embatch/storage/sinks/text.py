"""Strings and numbers as JSON text, for the sinks that write lines.

Bulk work is Arrow's: it prints float32 with the fewest digits that read back as the same number, twice as fast as
Python's `%.9g` and five times as fast as `repr` of the number as a double.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

_ROWS = 1024  # rows turned into text at once: 5 MB of it for 384 dimensions

_plain = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_escaped = json.JSONEncoder(separators=(",", ":")).encode


def json_bytes(value: object) -> bytes:
    """A value as compact JSON in UTF-8. Lone surrogates (parts of odd file names) are escaped, and survive."""
    try:
        return _plain(value).encode()
    except UnicodeEncodeError:
        return _escaped(value).encode()


def json_numbers(numbers: npt.NDArray[Any]) -> list[str]:
    """Each row of `(n, width)` as numbers with commas between, without brackets."""
    import pyarrow as pa
    import pyarrow.compute as pc

    width = numbers.shape[1]
    texts: list[str] = []
    for start in range(0, len(numbers), _ROWS):
        rows = numbers[start : start + _ROWS]
        if rows.dtype == np.float16:
            rows = rows.astype(np.float32)  # Arrow would print it as a double
        words = pa.array(np.ascontiguousarray(rows).reshape(-1)).cast(pa.string())
        ends = pa.array(np.arange(0, rows.size + 1, width, dtype=np.int32))
        texts += pc.binary_join(pa.ListArray.from_arrays(ends, words), ",").to_pylist()
    return texts


def storable(text: str) -> str:
    r"""The string, with code points that UTF-8 cannot hold (parts of odd file names) written as `\udcxx`."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace").decode()
    return text
