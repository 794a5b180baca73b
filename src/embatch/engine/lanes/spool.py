"""A job's results on their way from the provider to the store: all of them are seen before any is believed.

Rows come in any order, some without a key, some twice. Two rows under one key that differ mean that keys were mixed up,
and neither is taken. Values wait in a temporary file, so that memory does not grow with the job.
"""

from __future__ import annotations

import json
import tempfile
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from embatch.errors import ProviderError
from embatch.remote import ErrorKind, Generated

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from embatch.remote import JobRow
    from embatch.types import FloatArray


class _Place(NamedTuple):
    offset: int
    size: int
    vector: bool


class JobSpool:
    """The rows of one job. Written by one thread, then read by another; close it when done."""

    def __init__(self) -> None:
        self.tokens = 0
        """Billed, as far as the rows say."""
        self.counted = False
        """Whether every good row said how many tokens it had."""
        self.broken = 0
        """Rows that belong to no key: cut off, or without one."""
        self._file = tempfile.TemporaryFile(prefix="embatch-job-")  # noqa: SIM115  # closed by `close`
        self._good: dict[str, _Place] = {}
        self._bad: dict[str, ProviderError] = {}
        self._doubtful: set[str] = set()
        self._uncounted = 0

    def add(self, row: JobRow) -> None:
        """Take one row."""
        if row.tokens is None:
            self._uncounted += not isinstance(row.result, ProviderError)
        else:
            self.tokens += row.tokens
        if row.key is None:
            self.broken += 1
        elif isinstance(row.result, ProviderError):
            self._bad.setdefault(row.key, row.result)
        else:
            self._keep(row.key, row.result)

    def finish(self) -> None:
        """All rows are there."""
        self.counted = bool(self._good) and not self._uncounted
        for key in self._doubtful:
            self._good.pop(key, None)
            self._bad[key] = ProviderError(
                "the job's results hold this key twice, with different values", kind=ErrorKind.PROTOCOL
            )

    @property
    def good(self) -> list[str]:
        """Keys with a result."""
        return list(self._good)

    @property
    def bad(self) -> dict[str, ProviderError]:
        """Keys without one, and why."""
        return {key: error for key, error in self._bad.items() if key not in self._good}

    def values(self, keys: Sequence[str]) -> Iterator[FloatArray | Generated]:
        """The results under these keys, in their order."""
        for key in keys:
            yield self._read(self._good[key])

    def close(self) -> None:
        """Drop the file. Closing twice is allowed."""
        self._file.close()

    def _keep(self, key: str, result: FloatArray | Generated) -> None:
        data = json.dumps(result).encode() if isinstance(result, Generated) else result.tobytes()
        known = self._good.get(key)
        if known is not None:
            if self._bytes(known) != data:
                self._doubtful.add(key)
            return
        offset = self._file.seek(0, 2)
        self._file.write(data)
        self._good[key] = _Place(offset, len(data), not isinstance(result, Generated))

    def _bytes(self, place: _Place) -> bytes:
        self._file.seek(place.offset)
        return self._file.read(place.size)

    def _read(self, place: _Place) -> FloatArray | Generated:
        data = self._bytes(place)
        return np.frombuffer(data, np.float32) if place.vector else Generated(*json.loads(data))
