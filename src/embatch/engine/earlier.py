"""What later rows of a run may repeat: vectors and errors of rows that were handed over.

Used by the pipeline of a model on this machine. It finds no repeats, windows do, and keeps no more rows than asked.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from embatch.errors import ItemError

if TYPE_CHECKING:
    from collections.abc import Callable

    from embatch.types import Block, FloatArray, ItemFailure

    Recall = Callable[[list[int]], FloatArray]


class Earlier:
    """Vectors and errors of rows that later rows may repeat."""

    def __init__(self, remember: int | None, recall: Recall | None) -> None:
        self.errors: dict[int, ItemError] = {}
        self._remember = remember
        self._recall = recall
        self._blocks: deque[Block] = deque()

    def add(self, block: Block) -> None:
        """Remember a finished block, and forget those that no later row can refer to."""
        for failure in block.failures:
            self._add_error(failure)
        if self._recall is not None or self._remember is None:
            return
        self._blocks.append(block)
        oldest = block.first_row + len(block.items) - self._remember
        while self._blocks and self._blocks[0].first_row + len(self._blocks[0].items) <= oldest:
            dropped = self._blocks.popleft()
            for failure in dropped.failures:
                self.errors.pop(failure.row, None)

    def vectors(self, rows: list[int]) -> FloatArray:
        """`(len(rows), dim)` vectors of earlier rows."""
        if self._recall is not None:
            return self._recall(rows)
        starts = [block.first_row for block in self._blocks]
        found = []
        for row in rows:
            block = self._blocks[bisect_right(starts, row) - 1]
            found.append(block.vectors[row - block.first_row])
        return np.stack(found)

    def _add_error(self, failure: ItemFailure) -> None:
        # A row that could not be read (RowError) has no text that a later one could repeat.
        if isinstance(failure.error, ItemError):
            self.errors[failure.row] = failure.error
