"""Which rows of a store are shown to somebody who wants all of them, or at most so many.

What the readers of all stores agree on, so that the same store always gives the same rows. It reads nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

SCANNED_ROWS = 2048
"""Chunks that a scan reads at a time."""


def sampled(count: int, most: int, seed: int) -> npt.NDArray[np.int64]:
    """Positions `(n,)` of at most `most` of `count` rows, rising: all of them, or a fair sample that `seed` names."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False)).astype(np.int64)


def slices(positions: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """The positions, some thousand at a time."""
    for first in range(0, len(positions), SCANNED_ROWS):
        yield positions[first : first + SCANNED_ROWS]
