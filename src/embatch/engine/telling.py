"""Tells an observer what a pipeline does; tells nobody, at no cost, where there is none.

It looks and reckons nothing that the run needs: what it tells is for reports.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from embatch.engine.outcomes import padded_tokens
from embatch.seen import BatchSeen
from embatch.seen_lanes import BlockSeen, FailureSeen, TunerSeen, WindowSeen
from embatch.types import CostRule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.engine.window import Window
    from embatch.seen_lanes import RunObserver, RunSeen
    from embatch.types import BatchRecord, Block, IntArray, ItemFailure

_log = logging.getLogger(__name__)

PLAIN_ITEMS = 32
"""Texts of a batch where nothing is planned: what most programs do."""
_MESSAGE_CHARS = 300


class Quiet:
    """An observer whose failures disturb nobody: the first is logged, and it is told on.

    Args:
        observer: an `Observer` or a `RunObserver`; should never raise, but may be anybody's.
    """

    def __init__(self, observer: Any) -> None:
        self._observer = observer
        self._failed = False

    def see(self, seen: RunSeen) -> None:
        """Hand it on."""
        try:
            self._observer.see(seen)
        except Exception:  # noqa: BLE001  # looking on must not end what is looked at
            if not self._failed:
                self._failed = True
                _log.exception("an observer has failed; more of its failures are not logged")


class Teller:
    """What one run tells.

    Args:
        observer: is told; None tells nobody.
        cost: of the backend: whether shorter items are padded.
    """

    def __init__(self, observer: RunObserver | None, cost: CostRule) -> None:
        self._observer = None if observer is None else Quiet(observer)
        self._cost = cost

    def batch(self, record: BatchRecord, stream: int, *, error: str = "") -> None:
        """A batch came back from a stream just now, or failed."""
        if self._observer is None:
            return
        self._observer.see(
            BatchSeen(
                at=time.time() - record.seconds,
                seconds=record.seconds,
                stream=stream,
                items=record.items,
                longest=record.longest,
                tokens=record.tokens,
                padded_tokens=padded_tokens(record, self._cost),
                budget=record.budget,
                fresh=record.fresh,
                error=error,
            )
        )

    def window(self, window: Window, seconds: float) -> None:
        """A window was read and tokenised, just now, in so many seconds."""
        if self._observer is None:
            return
        lengths = window.lengths
        plain = plain_tokens(lengths) if self._cost is CostRule.PADDED else int(lengths.sum())
        self._observer.see(
            WindowSeen(
                at=time.time() - seconds,
                seconds=seconds,
                rows=len(window.items),
                units=len(lengths),
                tokens=int(lengths.sum()),
                plain_tokens=plain,
                lengths=by_length(lengths),
            )
        )

    def handed_over(self, block: Block, seconds: float) -> None:
        """Whoever took a block was busy with it for so long."""
        if self._observer is not None:
            self._observer.see(BlockSeen(at=time.time() - seconds, seconds=seconds, rows=len(block.items)))

    def tuner(self, budget: int, memory: float) -> None:
        """The tuner was looked at."""
        if self._observer is not None:
            self._observer.see(TunerSeen(at=time.time(), budget=budget, memory=memory))

    def failures(self, failures: Sequence[ItemFailure]) -> None:
        """Rows have no vector."""
        if self._observer is not None:
            tell_failures(self._observer, failures)


def tell_failures(observer: RunObserver, failures: Sequence[ItemFailure]) -> None:
    """Name rows that have no result."""
    for failure in failures:
        observer.see(
            FailureSeen(
                at=time.time(),
                row=failure.row,
                key=str(failure.key),
                source=failure.source,
                error=type(failure.error).__name__,
                message=str(failure.error)[:_MESSAGE_CHARS],
            )
        )


def plain_tokens(lengths: IntArray) -> int:
    """Padded tokens of items `(n,)` in batches of 32, in the order given."""
    if not len(lengths):
        return 0
    starts = np.arange(0, len(lengths), PLAIN_ITEMS)
    sizes = np.minimum(PLAIN_ITEMS, len(lengths) - starts)
    return int((np.maximum.reduceat(lengths, starts).astype(np.int64) * sizes).sum())


def by_length(lengths: IntArray) -> tuple[int, ...]:
    """How many items `(n,)` have up to 2^i tokens and more than half of that, by i."""
    if not len(lengths):
        return ()
    powers = np.ceil(np.log2(np.maximum(1, lengths))).astype(np.int64)
    return tuple(np.bincount(powers).tolist())
