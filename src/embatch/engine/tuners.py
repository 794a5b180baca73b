"""What decides the size of the next batch, as the pipeline's streams ask for it: thread-safe, one protocol.

`SharedTuner` learns a token budget, `CountTuner` a number of documents through `BatchTuner`, `FixedCount` learns
nothing. They put pure deciders behind a lock and form no batches.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

from embatch.decisions.planning import Budget
from embatch.decisions.tuning import is_full

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.decisions.batch_tuner import BatchTuner
    from embatch.decisions.tuning import BudgetTuner
    from embatch.types import BatchRecord, Limits

_CHARACTERS_PER_TOKEN = 4  # of English; exact enough where only ratios count


class Tuner(Protocol):
    """Decides budgets and learns from batches. Any number of threads may ask and tell."""

    @property
    def budget(self) -> int:
        """The token budget in use when nothing is tried; 0 where batches are not formed by tokens."""
        ...

    @property
    def learned(self) -> bool:
        """Whether `budget` comes from measurement and is worth keeping."""
        ...

    def next_budget(self) -> Budget:
        """What the next batch may hold."""
        ...

    def record(self, batch: BatchRecord) -> None:
        """Take what a batch did."""
        ...

    def pressure(self, used: float) -> None:
        """Take how full the memory is, 0 to 1."""
        ...


class SharedTuner:
    """A token budget that is searched, settled and watched."""

    def __init__(self, tuner: BudgetTuner) -> None:
        self._tuner = tuner
        self._lock = threading.Lock()

    @property
    def budget(self) -> int:
        """The budget in use when nothing is tried, in tokens."""
        with self._lock:
            return self._tuner.budget

    @property
    def settled(self) -> bool:
        """Whether the search has ended for now."""
        with self._lock:
            return self._tuner.settled

    @property
    def learned(self) -> bool:
        """Whether `budget` comes from measurement and is worth keeping."""
        with self._lock:
            return self._tuner.learned

    def next_budget(self) -> Budget:
        """What the next batch may hold, in tokens."""
        with self._lock:
            return Budget(tokens=self._tuner.next_budget())

    def record(self, batch: BatchRecord) -> None:
        """Take what a batch did."""
        with self._lock:
            self._tuner.record(batch)

    def pressure(self, used: float) -> None:
        """Take how full the memory is, 0 to 1."""
        with self._lock:
            self._tuner.pressure(used)


class FixedCount:
    """Always the same number of texts, halved while memory is short."""

    budget = 0
    learned = False

    def __init__(self, items: int) -> None:
        self._items = items
        self._now = items

    def next_budget(self) -> Budget:
        """What the next batch may hold, in texts."""
        return Budget(items=self._now)

    def record(self, batch: BatchRecord) -> None:
        """A fixed count learns nothing."""

    def pressure(self, used: float) -> None:
        """Halve above 90 % of the memory, come back below 75 %."""
        if used > 0.9:
            self._now = max(1, self._now // 2)
        elif used < 0.75:
            self._now = min(self._items, self._now * 2)


class CountTuner:
    """A number of documents a batch, asked from a `BatchTuner` and told to it.

    The number holds for documents of mean length: batches get the tokens that so many of those have, since a batch of
    the longest documents costs ten times one of the shortest. What is searched is the same curve.

    Args:
        tuner: the decider, which reads the memory itself.
        documents: the texts of this call: how long they are is the prior.
        document_type: the kind of documents, for a profile of its own.
        limits: of the backend: where its budgets start.
        max_tokens: longest document in tokens; what is longer counts as this long.
        lock: one for all calls that share the tuner.
    """

    budget = 0
    learned = False  # `BatchTuner` keeps its own profiles

    def __init__(
        self,
        tuner: BatchTuner,
        documents: Sequence[str],
        document_type: str | None,
        *,
        limits: Limits,
        max_tokens: int,
        lock: threading.Lock,
    ) -> None:
        self._tuner = tuner
        self._documents = documents
        self._type = document_type
        self._lock = lock
        count = max(1, len(documents))
        self._characters = sum(map(len, documents)) / count
        cut = (min(max_tokens, 1 + len(document) / _CHARACTERS_PER_TOKEN) for document in documents)
        self._mean_tokens = max(1.0, sum(cut) / count)
        self._suggested: dict[int, int] = {}  # budget in tokens -> suggestion behind it
        with lock:
            tuner.begin(round(limits.first_budget / self._mean_tokens), document_type=document_type)

    def next_budget(self) -> Budget:
        """What the next batch may hold: the tokens of so many documents, and no more of them than the tuner may say."""
        with self._lock:
            size = self._tuner.suggest_batch_size(self._documents, document_type=self._type)
            tokens = round(size * self._mean_tokens)
            self._suggested[tokens] = size
            return Budget(tokens=tokens, items=self._tuner.max_size)

    def record(self, batch: BatchRecord) -> None:
        """Take what a batch did."""
        followed = self._suggested.get(batch.budget, 0) if is_full(batch) else 0
        with self._lock:
            self._tuner.record(
                batch_size=batch.items,
                suggested=None if batch.out_of_memory else followed,
                seconds=batch.seconds,
                characters=round(self._characters * batch.items),
                tokens=batch.tokens,
                document_type=self._type,
                out_of_memory=batch.out_of_memory,
            )

    def pressure(self, used: float) -> None:
        """Nothing: `BatchTuner` reads the memory when it is asked."""
