"""A job's rows, what becomes of each, and in which order they come out: the same for both providers.

Leaves out how rows are read from a file and written to one: each provider's room knows its own lines.
"""

from __future__ import annotations

import random
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from embatch.emulator.ledger import Charge
from embatch.emulator.prose import generated

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from embatch.emulator.jobs import Job
    from embatch.emulator.options import RowFaults

POISON = "EMULATOR-POISON"
"""A text in which this occurs is a bad input, wherever it is sent."""

_SOME = 0.1  # of the rows meet a scripted fault that hits some of them; the first one always does
_PIECE_BYTES = 256 * 1024
_SHUFFLE_INLINE, _SHUFFLE_FILE = 1000, 2


class Piece(NamedTuple):
    """One text to embed, with all that changes its vector."""

    text: str | tuple[int, ...]
    task: str | None
    title: str | None
    dims: int
    tokens: int

    @property
    def charge(self) -> Charge:
        """What it is billed as."""
        text = self.text if isinstance(self.text, str) else "ids:" + " ".join(map(str, self.text))
        return Charge(text, self.tokens)


class Prompt(NamedTuple):
    """What is to be answered in text."""

    text: str
    tokens: int
    max_output_tokens: int | None = None

    @property
    def charge(self) -> Charge:
        """What it is billed as."""
        return Charge(self.text, self.tokens, generated(self.text, self.max_output_tokens).tokens)


class Problem(NamedTuple):
    """Why a row is refused."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None


class Row(NamedTuple):
    """One request of a job."""

    key: str | None
    pieces: tuple[Piece, ...] = ()
    prompt: Prompt | None = None
    problem: Problem | None = None
    base64: bool = False
    """Whether vectors are asked for in base64."""

    @property
    def tokens(self) -> int:
        """Of everything in it."""
        return sum(piece.tokens for piece in self.pieces) + (self.prompt.tokens if self.prompt else 0)


class Outcome(Enum):
    """What became of a row."""

    GOOD = "good"
    REFUSED = "refused"
    """It is a bad input."""
    TRANSIENT = "transient"
    """503: sent again, it works."""
    INTERNAL = "internal"
    """500."""
    UNDONE = "undone"
    """The job ended before its turn."""


def outcomes(job: Job, rows: Sequence[Row], faults: RowFaults, seed: int) -> list[Outcome]:
    """What becomes of each row, as far as the job got. The same answer at any time after its end."""
    draw = random.Random(f"{seed}:{job.id}:rows")  # noqa: S311  # a simulation
    some = _SOME if "row_transient" in job.quirks else 0.0
    found = []
    for place, row in enumerate(rows):
        luck = draw.random()
        if place >= job.completed:
            outcome = Outcome.UNDONE
        elif row.problem is not None:
            outcome = Outcome.REFUSED
        elif "all_rows_bad" in job.quirks or luck >= 1 - faults.internal:
            outcome = Outcome.INTERNAL
        elif luck < max(some, faults.transient) or (some and place == 0):
            outcome = Outcome.TRANSIENT
        else:
            outcome = Outcome.GOOD
        found.append(outcome)
    return found


def charges(rows: Sequence[Row], found: Sequence[Outcome]) -> Iterator[Charge]:
    """What the good rows are billed as."""
    for row, outcome in zip(rows, found, strict=True):
        if outcome is Outcome.GOOD:
            yield from (piece.charge for piece in row.pieces)
            if row.prompt is not None:
                yield row.prompt.charge


def order(job: Job, count: int, shuffle_from: int | None, seed: int) -> list[int]:
    """The places of the input's rows, in the order in which their results come out."""
    places = list(range(count))
    if shuffle_from is None:
        shuffle_from = _SHUFFLE_FILE if job.source else _SHUFFLE_INLINE
    draw = random.Random(f"{seed}:{job.id}:order")  # noqa: S311  # a simulation
    if count >= shuffle_from:
        draw.shuffle(places)
    if "rows_missing" in job.quirks:
        places = places[max(1, round(count * _SOME)) :]
    if "duplicate_keys" in job.quirks and count > 1:
        places[-1] = places[0]
    return places


def runs(places: Iterable[int], rows: Sequence[Row], most: int = 64) -> Iterator[list[int]]:
    """Places in groups whose single texts can be computed in one go; rows of another shape stand alone."""
    group: list[int] = []
    shape: tuple[object, ...] | None = None
    for place in places:
        now = _shape(rows[place])
        if group and (now is None or now != shape or len(group) >= most):
            yield group
            group = []
        group.append(place)
        shape = now
    if group:
        yield group


def _shape(row: Row) -> tuple[object, ...] | None:
    if len(row.pieces) != 1:
        return None
    return row.pieces[0][1:4]


def in_pieces(lines: Iterable[bytes], *, is_cut: bool = False) -> Iterator[bytes]:
    """A file of these lines, in pieces of some size; cut, it breaks off in the middle of its last line."""
    held: list[bytes] = []
    size = 0
    for line in lines:
        if size > _PIECE_BYTES:
            yield b"".join(held)
            held, size = [], 0
        held.append(line + b"\n")
        size += len(line)
    if held and is_cut:
        held[-1] = held[-1][: len(held[-1]) // 2]
    yield b"".join(held)
