"""An input file, read from any line on: line by line to be checked, or in groups of rows that can share an ask.

Nothing is held but the group that is being made.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, Self

from embatch.frontends.server.jobs.rows import Wish, as_row, size_of, wish_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from embatch.frontends.server.jobs.rows import Row
    from embatch.frontends.server.settings import ServeSettings

GROUP_INPUTS = 64
"""Enough that what an ask costs does not count, few enough that several fill the backend's streams evenly."""
GROUP_BYTES = 1 << 20
INPUT_BYTES = 16 << 10
"""An input of more counts as several, wherever memory is to be bounded by a number of inputs."""
_SKIP_BYTES = 1 << 20


class Line(NamedTuple):
    """One line that is not blank."""

    number: int
    """From 1; blank ones count."""
    raw: bytes | None
    """None if it is longer than it may be."""
    end: int
    """Where the next one begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Consecutive rows that are asked together."""

    rows: Sequence[Row]
    wish: Wish
    inputs: Sequence[str | Sequence[int]]
    """Of all rows, in order."""
    upto: int
    """Where the line after them begins."""
    lines: int
    """Lines up to there, blank ones included."""
    weight: int
    """Inputs that it counts as."""


class InputLines:
    """The lines of a file.

    Args:
        path: the file.
        most_bytes: of a line; longer ones are passed over.
        offset: where to begin: the start of a line.
        number: how many lines there are before it.

    Raises:
        OSError: it cannot be read.
    """

    def __init__(self, path: Path, *, most_bytes: int, offset: int = 0, number: int = 0) -> None:
        self._stream = path.open("rb", buffering=1 << 18)
        self._stream.seek(offset)
        self._most = most_bytes
        self.offset = offset
        self.number = number

    def next(self) -> Line | None:
        """The next line; None at the end."""
        while raw := self._stream.readline(self._most + 1):
            self.offset += len(raw)
            self.number += 1
            is_long = len(raw) > self._most
            if is_long:
                self._skip(raw)
            if is_long or not raw.isspace():
                return Line(self.number, None if is_long else raw, self.offset)
        return None

    def take(self, count: int) -> list[Line]:
        """Up to so many; fewer only at the end."""
        lines: list[Line] = []
        size = 0
        while len(lines) < count and size < GROUP_BYTES and (line := self.next()) is not None:
            lines.append(line)
            size += len(line.raw or b"")
        return lines

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _skip(self, raw: bytes) -> None:
        while raw and not raw.endswith(b"\n"):
            raw = self._stream.readline(_SKIP_BYTES)
            self.offset += len(raw)


class GroupReader:
    """The rows of a file that was found valid, in groups.

    Args:
        lines: the file; closed by whoever opened it.
        settings: limits of a request.
        most_inputs: of a group, unless a single row has more.
    """

    def __init__(
        self, lines: InputLines, settings: ServeSettings, *, most_inputs: int = GROUP_INPUTS
    ) -> None:
        self._lines = lines
        self._settings = settings
        self._most_inputs = most_inputs
        self._held: tuple[Row, Line] | None = None
        self._at = lines.number

    def next(self) -> Group | None:
        """The next group; None at the end."""
        rows: list[Row] = []
        wish: Wish | None = None
        inputs = size = upto = number = 0
        while (found := self._next()) is not None:
            row, line = found
            wanted = None if row.asked is None else wish_of(row.asked.ask)
            bytes_ = size_of(row.inputs)
            if rows and (
                len(rows) >= self._most_inputs
                or inputs + len(row.inputs) > self._most_inputs
                or size + bytes_ > GROUP_BYTES
                or not (wish is None or wanted is None or wanted == wish)
            ):
                self._held = found
                break
            rows.append(row)
            wish = wanted if wish is None else wish
            inputs, size = inputs + len(row.inputs), size + bytes_
            upto, number = line.end, line.number
        if not rows:
            return None
        lines, self._at = number - self._at, number
        return Group(
            rows=rows,
            wish=wish or Wish(),
            inputs=list(chain.from_iterable(row.inputs for row in rows)),
            upto=upto,
            lines=lines,
            weight=max(1, inputs, -(-size // INPUT_BYTES)),
        )

    def _next(self) -> tuple[Row, Line] | None:
        found, self._held = self._held, None
        if found is not None:
            return found
        line = self._lines.next()
        return None if line is None else (as_row(line.raw or b"", line.number, self._settings), line)
