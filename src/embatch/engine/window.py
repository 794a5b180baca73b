"""A window: consecutive rows made ready for batches, and put together again afterwards.

`WindowMaker` reads rows through a bounded look-ahead, names what cannot be embedded, finds texts that were seen before
or are stored, and tokenises the rest. `Window` holds the vectors while batches come back in any order, and ends as a
`Block` in the order of the input. It forms no batches and runs no model.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np

from embatch.decisions.vectors import cut, weighted_mean
from embatch.errors import EmptyTextError, EncodingError, ItemError, NotTextError, TooLongError
from embatch.types import BadItem, Block, Item, ItemFailure

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from embatch.types import Backend, FloatArray, IntArray, ModelSpec, Report

# The first window is small, so that the device starts while the rest is still being read.
_FIRST_ITEMS, _ITEMS_GROWTH = 256, 4
_FIRST_CHARS, _CHARS_GROWTH = 1 << 16, 8
_WINDOW_CHARS = 8_000_000  # bounds memory when the texts are long
_GROWN = 8  # windows after which both have long reached their bounds


@dataclass(slots=True)
class Window:
    """Rows in flight. A *slot* is a distinct text; a *unit* is what the backend computes: a text, or a piece of one."""

    number: int
    first_row: int
    items: list[Item]
    slots: list[int]
    """Row → slot, −1 for a row that failed before it got one."""
    digests: list[bytes]
    """Slot → digest of its text."""
    vectors: FloatArray
    """`(slots, dim)`; filled as batches come back."""
    failures: dict[int, ItemFailure] = field(default_factory=dict)
    """Row → failure, for rows that have no slot."""
    slot_errors: dict[int, ItemError] = field(default_factory=dict)
    aliases: list[tuple[int, int]] = field(default_factory=list)
    """(slot, earlier row): texts that an earlier window holds, whose vector may still be being computed."""
    payloads: Sequence[object] = ()
    """Unit → what the backend takes."""
    lengths: IntArray = field(default_factory=lambda: np.empty(0, np.int32))
    """Unit → tokens."""
    unit_slots: list[int] = field(default_factory=list)
    pieces: dict[int, list[int]] = field(default_factory=dict)
    """Slot → its units, for texts that are averaged over windows of the model."""
    unit_vectors: FloatArray | None = None
    """`(units, dim)`, only where there are pieces; otherwise units write their slot at once."""
    truncated: frozenset[int] = frozenset()
    """Slots whose text was cut."""
    pending: int = 0
    """Units that have neither a vector nor an error yet."""
    last: bool = False
    """Whether no row comes after it."""

    def set_units(self, units: Sequence[int], vectors: FloatArray) -> None:
        """Take the vectors `(len(units), dim)` of some units."""
        if self.unit_vectors is not None:
            self.unit_vectors[units] = vectors
        else:
            self.vectors[[self.unit_slots[unit] for unit in units]] = vectors

    def fail_unit(self, unit: int, error: ItemError) -> None:
        """Record that a unit, and with it its text, has no vector."""
        self.slot_errors[self.unit_slots[unit]] = error

    def average_pieces(self, *, normalize: bool) -> tuple[list[int], FloatArray]:
        """Put texts of several units together: the mean of their vectors, weighted by tokens.

        Returns:
            The slots that were computed here, and their vectors `(n, backend's dim)`.
        """
        if self.unit_vectors is None:
            return [], self.vectors[:0]
        slots = [slot for slot in dict.fromkeys(self.unit_slots) if slot not in self.slot_errors]
        units = {slot: [unit] for unit, slot in enumerate(self.unit_slots)} | self.pieces
        means = np.empty((len(slots), self.unit_vectors.shape[1]), np.float32)
        for row, slot in enumerate(slots):
            own = units[slot]
            if len(own) == 1:
                means[row] = self.unit_vectors[own[0]]
            else:
                weights = self.lengths[own].astype(np.float32)
                means[row] = weighted_mean(self.unit_vectors[own], weights, normalize=normalize)
        return slots, means

    def block(self) -> Block:
        """The finished rows, in input order; a failed row's vector is NaN."""
        failures = dict(self.failures)
        for row, slot in enumerate(self.slots):
            if slot >= 0 and slot in self.slot_errors:
                item = self.items[row]
                failures[row] = ItemFailure(
                    row=self.first_row + row,
                    key=item.key,
                    error=self.slot_errors[slot],
                    source=item.source,
                )
        if not failures and len(self.digests) == len(self.items):
            vectors = self.vectors
        else:
            vectors = np.full((len(self.items), self.vectors.shape[1]), np.nan, np.float32)
            good = [row for row in range(len(self.items)) if row not in failures]
            vectors[good] = self.vectors[[self.slots[row] for row in good]]
        return Block(self.first_row, self.items, vectors, tuple(failures[row] for row in sorted(failures)))


class WindowMaker:
    """Makes windows of rows, one after the other.

    Args:
        backend: tokenises.
        spec: what comes out; its prompt and its rule for overlong texts are applied here.
        report: counts what is seen here.
        window_items: most rows in one window.
        remember: how many rows back a repeated text is found; None finds it however far back.
    """

    def __init__(
        self, backend: Backend, spec: ModelSpec, report: Report, *, window_items: int, remember: int | None
    ) -> None:
        self._backend = backend
        self._spec = spec
        self._report = report
        self._window_items = window_items
        self._remember = remember
        self._seen: OrderedDict[bytes, int] = OrderedDict()  # digest -> first row
        self._reader = _RowReader()
        self._number = 0
        self._row = 0

    @property
    def rows(self) -> int:
        """Rows read so far."""
        return self._row

    def read(self, rows: Iterator[Item | BadItem]) -> Window | None:
        """The next window's rows, validated and with repeats found; None at the end. Nothing is tokenised yet."""
        grown = min(self._number, _GROWN)
        size = min(self._window_items, _FIRST_ITEMS * _ITEMS_GROWTH**grown)
        chars = min(_WINDOW_CHARS, _FIRST_CHARS * _CHARS_GROWTH**grown)
        taken = self._reader.take(rows, size, chars)
        if not taken:
            return None
        window = Window(self._number, self._row, [], [], [], np.empty((0, 0), np.float32))
        window.last = self._reader.ended(rows)
        local: dict[bytes, int] = {}
        for offset, row in enumerate(taken):
            digest = self._admit(window, offset, row)
            if digest is None:
                window.slots.append(-1)
                continue
            slot = local.setdefault(digest, len(window.digests))
            if slot == len(window.digests):
                window.digests.append(digest)
            window.slots.append(slot)
        self._link(window)
        window.vectors = np.empty((len(window.digests), self._spec.dimensions), np.float32)
        self._number += 1
        self._row += len(taken)
        return window

    def tokenize(self, window: Window, slots: Sequence[int]) -> None:
        """Make units of the texts in `slots`: those that neither an earlier window nor a store has."""
        if not slots:
            return
        row_of: dict[int, int] = {}
        for row, slot in enumerate(window.slots):
            row_of.setdefault(slot, row)
        texts = [window.items[row_of[slot]].text for slot in slots]
        tokenized = self._backend.tokenize(texts, prompt=self._spec.prompt)
        overlong = np.flatnonzero(tokenized.truncated).tolist()
        if not overlong or self._spec.overlong == "truncate":
            window.truncated = frozenset(slots[i] for i in overlong)
            window.payloads, window.lengths = tokenized.payloads, tokenized.lengths
            window.unit_slots = list(slots)
        elif self._spec.overlong == "error":
            self._refuse(window, slots, set(overlong), tokenized.payloads, tokenized.lengths)
        else:
            self._pool(window, slots, texts, set(overlong))
        window.pending = len(window.unit_slots)

    def _admit(self, window: Window, offset: int, row: Item | BadItem) -> bytes | None:
        """Add a row; the digest of its text, or None if it has no usable one."""
        if isinstance(row, BadItem):
            window.items.append(Item(row.key, "", row.source))
            window.failures[offset] = ItemFailure(
                row=self._row + offset, key=row.key, error=row.error, source=row.source
            )
            return None
        window.items.append(row)
        error = check_text(row.text)
        if error is None:
            return text_digest(row.text)
        window.failures[offset] = ItemFailure(
            row=self._row + offset, key=row.key, error=error, source=row.source
        )
        return None

    def _link(self, window: Window) -> None:
        """Find texts that an earlier window holds, and remember this one's."""
        if self._remember is not None:
            while self._seen and next(iter(self._seen.values())) < window.first_row - self._remember:
                self._seen.popitem(last=False)
        rows: dict[int, int] = {}
        for row, slot in enumerate(window.slots):
            rows.setdefault(slot, window.first_row + row)
        for slot, digest in enumerate(window.digests):
            earlier = self._seen.setdefault(digest, rows[slot])
            if earlier < window.first_row:
                window.aliases.append((slot, earlier))

    def _refuse(
        self,
        window: Window,
        slots: Sequence[int],
        overlong: set[int],
        payloads: Sequence[object],
        lengths: IntArray,
    ) -> None:
        for i in overlong:
            window.slot_errors[slots[i]] = TooLongError(
                f"the text is longer than the {self._spec.max_tokens} tokens that {self._spec.model} takes"
            )
        kept = [i for i in range(len(slots)) if i not in overlong]
        window.payloads = [payloads[i] for i in kept]
        window.lengths = lengths[kept]
        window.unit_slots = [slots[i] for i in kept]

    def _pool(self, window: Window, slots: Sequence[int], texts: list[str], overlong: set[int]) -> None:
        units: list[str] = []
        for i, slot in enumerate(slots):
            pieces = self._split(texts[i]) if i in overlong else [texts[i]]
            if i in overlong:
                window.pieces[slot] = list(range(len(units), len(units) + len(pieces)))
            units.extend(pieces)
            window.unit_slots.extend([slot] * len(pieces))
        tokenized = self._backend.tokenize(units, prompt=self._spec.prompt)
        window.payloads, window.lengths = tokenized.payloads, tokenized.lengths
        window.unit_vectors = np.zeros((len(units), self._backend.spec.dimensions), np.float32)

    def _split(self, text: str) -> list[str]:
        pieces = self._backend.split(text, prompt=self._spec.prompt)
        return [piece for piece in pieces if not piece.isspace()]


class _RowReader:
    """Takes rows by the window and looks one row ahead; what the source raises comes after the rows before it."""

    def __init__(self) -> None:
        self._held: list[Item | BadItem] = []
        self._error: Exception | None = None

    def take(self, rows: Iterator[Item | BadItem], size: int, chars: int) -> list[Item | BadItem]:
        """Up to `size` rows, the last of which is the one that fills `chars` characters of text."""
        if self._error is not None:
            raise self._error
        taken: list[Item | BadItem] = []
        held, self._held = self._held, []
        try:
            for row in islice(chain(held, rows), size):
                taken.append(row)
                if isinstance(row, Item) and isinstance(row.text, str):
                    chars -= len(row.text)
                    if chars <= 0:
                        break
        except Exception as error:
            if not taken:
                raise
            self._error = error
        return taken

    def ended(self, rows: Iterator[Item | BadItem]) -> bool:
        """Whether nothing comes any more, not even an error."""
        if self._error is None:
            try:
                self._held = list(islice(rows, 1))
            except Exception as error:  # noqa: BLE001  # raised when its turn comes
                self._error = error
        return not self._held and self._error is None


def finish_vectors(vectors: FloatArray, spec: ModelSpec) -> FloatArray:
    """Cut the backend's vectors to the dimensions asked for, and normalise again where the model does."""
    if vectors.shape[1] == spec.dimensions:
        return vectors
    return cut(vectors, spec.dimensions, normalize=spec.normalize)


def text_digest(text: str) -> bytes:
    """16 bytes that stand for a text in stores."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def check_text(text: object) -> ItemError | None:
    """Why this value cannot be embedded; None if it can."""
    if not isinstance(text, str):
        kind = "None" if text is None else f"of type {type(text).__name__}"
        return NotTextError(f"the value is {kind}, not text")
    if not text or text.isspace():
        return EmptyTextError("the text is empty" if not text else "the text is white space only")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            culprit = text[error.start]
            return EncodingError(f"character {error.start} is {culprit!r}, which is no Unicode text")
    return None


def as_items(texts: Iterable[object], *, keys: Iterable[str] | None = None) -> Iterator[Item | BadItem]:
    """Number texts, or name them by `keys`; what is no text at all still keeps its place, as a failure."""
    if keys is None:
        for row, text in enumerate(texts):
            yield Item(str(row), text)  # type: ignore[arg-type]  # checked when the window is made
    else:
        for key, text in zip(keys, texts, strict=True):
            yield Item(key, text)  # type: ignore[arg-type]  # checked when the window is made
