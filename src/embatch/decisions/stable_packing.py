"""Which neighbouring units of a text go into one chunk, so that an edit moves only the borders near it.

Used by `search/chunks`, where a changed file is to cost the chunks that were changed. `packing` fills chunks from left
to right and so moves all that follow an edit; here neighbours are merged wherever the border between them is a worse
one than those next to it. Nothing is tokenised here, and nothing is cut: that is done before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Sequence

ROUNDS = 20
"""Neighbours are merged so often at most. A round merges about a third of what can be merged, so that a chunk is filled
from hundreds of units; few rounds are needed in practice."""

_ANY = 12
"""From this round on all borders count as equally good: ones that get better and better would take too many rounds."""

_SHUT = 1 << 62  # above every key: this border stays
_CHOICE = (1 << 32) - 1  # the bits of a key that content chooses


class Unit(NamedTuple):
    """A part of a text that is not to be cut."""

    tokens: int
    """What it adds to a chunk: counted or estimated, but from nothing else than its content."""
    border: int
    """How good a place for a cut is before it: from 0, the higher the better. The first one's means nothing."""
    content: str
    """Decides, among borders that are equally good."""


def pack_stable(units: Sequence[Unit], *, limit: int, wall: int | None = None) -> list[tuple[int, int]]:
    """The groups in order, each as its first unit and the one behind its last. Every unit is in exactly one.

    No group has more tokens than `limit`, unless it is one unit. Two neighbours have more than `limit` together, so
    that groups are more than half full on average, unless a wall is between them or units are smaller than a
    hundredth of it. Cuts fall on the better borders.

    An edit moves no border that is more than `4 * ROUNDS * limit` tokens away from it, and hardly any that is more than
    four times `limit` away. Where units repeat each other, groups are counted from the first of them: an edit among
    them moves the borders up to their end.

    Args:
        units: consecutive ones.
        limit: most tokens of a group.
        wall: borders at least so good are always cut.
    """
    if not units:
        return []
    starts = list(range(len(units)))
    tokens = [unit.tokens for unit in units]
    keys = _borders(units, _SHUT if wall is None else wall)
    for turn in range(ROUNDS):
        if turn == _ANY:
            keys = [key if key == _SHUT else key & _CHOICE for key in keys]
        merged = _lowest(_keys(tokens, keys, limit))
        if not merged:
            break
        for at in merged:
            tokens[at] += tokens[at - 1]
        gone = {at - 1 for at in merged}
        tokens = [size for at, size in enumerate(tokens) if at not in gone]
        gone = set(merged)
        starts = [start for at, start in enumerate(starts) if at not in gone]
        keys = [key for at, key in enumerate(keys) if at not in gone]
    return list(zip(starts, [*starts[1:], len(units)], strict=True))


def _borders(units: Sequence[Unit], wall: int) -> list[int]:
    """For the border before each unit: how good it is, and 32 bits that its two sides choose."""
    keys = []
    before = b""
    for unit in units:
        content = unit.content.encode("utf-8", "surrogatepass")
        keys.append(_SHUT if unit.border >= wall else unit.border << 40 | crc32(content, crc32(before)))
        before = content
    return keys


def _keys(tokens: Sequence[int], borders: Sequence[int], limit: int) -> list[int]:
    """What to merge first, for the border before each group: worse borders, then smaller groups, then any."""
    keys = [_SHUT] * len(tokens)
    for at in range(1, len(tokens)):
        size = tokens[at - 1] + tokens[at]
        if size <= limit and borders[at] < _SHUT:
            keys[at] = borders[at] | size.bit_length() << 32
    return keys


def _lowest(keys: Sequence[int]) -> list[int]:
    """Positions whose key is below those next to it; of equal ones in a row every other, from the first."""
    found: list[int] = []
    before = _SHUT
    at, last = 0, len(keys)
    while at < last:
        key = keys[at]
        end = at + 1
        while end < last and keys[end] == key:
            end += 1
        if key < before and (end == last or keys[end] > key):
            found.extend(range(at, end, 2))
        before = key
        at = end
    return found
