"""How many documents to embed in one call: `BatchTuner`, a decider with a prior, per kind of document.

Before anything is measured it goes by how long the documents are; then it searches the whole range by what calls of
each size reached, per document type, and keeps what it has learned visible. It measures nothing itself.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from embatch.decisions.tuning import Search
from embatch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Characters per document above which the prior is this many documents a call: the longer, the fewer.
_PRIORS = ((10_000, 10), (5_000, 20), (1_000, 50))
_PRIOR_SHORT = 100
_STEPS_PER_DOUBLING = 2
_DEFAULT_TYPE = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class CountRecord:
    """What one call did."""

    size: int
    """Documents in the call."""
    characters: int
    """Of all its documents."""
    seconds: float
    memory_percent: float | None = None


class BatchTuner:
    """Suggests how many documents to embed at once, and learns from what the calls did.

    Args:
        initial_size: what `reset` goes back to, and what an empty list is answered with.
        min_size: smallest suggestion.
        max_size: largest suggestion.
        memory_threshold: percent of memory in use above which suggestions are halved.
        history_size: calls that are kept for the statistics.
        memory_percent: reads how full the memory is, 0 to 100: the host's, its control group's, the device's.
    """

    def __init__(
        self,
        initial_size: int = 32,
        min_size: int = 10,
        max_size: int = 500,
        memory_threshold: float = 80.0,
        history_size: int = 100,
        *,
        memory_percent: Callable[[], float] | None = None,
    ) -> None:
        if not 1 <= min_size <= max_size:
            raise UsageError(f"sizes must ascend from at least 1, not {min_size} to {max_size}")
        if not min_size <= initial_size <= max_size:
            raise UsageError(f"initial_size must lie between {min_size} and {max_size}, not {initial_size}")
        if not 0 < memory_threshold <= 100:
            raise UsageError(f"memory_threshold is a percentage above 0, not {memory_threshold}")
        if history_size < 1:
            raise UsageError(f"history_size must be at least 1, not {history_size}")
        self.initial_size = initial_size
        self.min_size = min_size
        self.max_size = max_size
        self.memory_threshold = memory_threshold
        self.current_size = initial_size
        self._memory_percent = memory_percent
        self._history_size = history_size
        self._searches: dict[str, Search] = {}
        self._history: dict[str, deque[CountRecord]] = {}
        self._tracked = 0

    def suggest_batch_size(
        self, documents: Sequence[str], *, document_type: str | None = None, memory_check: bool = True
    ) -> int:
        """How many of these documents to embed in one call, `min_size` to `max_size`.

        Args:
            documents: those to be embedded next; how long they are is the prior. Empty: the current size.
            document_type: learn and answer for this kind apart from others.
            memory_check: halve the answer when memory is short.
        """
        if not documents:
            return self.current_size
        search = self._search(document_type, documents)
        size = search.propose()
        if memory_check and self._short_of_memory():
            size = max(self.min_size, size // 2)
        self.current_size = size
        return size

    def begin(self, size: int, *, document_type: str | None = None) -> None:
        """Start learning a kind of document at `size` instead of the prior, for who knows what the device likes.

        Once something of this kind was suggested, nothing changes.
        """
        kind = document_type or _DEFAULT_TYPE
        if kind not in self._searches:
            first = min(self.max_size, max(self.min_size, size))
            self._searches[kind] = Search(self._sizes(first), first)

    def record(  # noqa: PLR0913  # all that may be known of one call, each by name
        self,
        *,
        batch_size: int,
        seconds: float,
        documents: Sequence[str] = (),
        characters: int | None = None,
        tokens: int | None = None,
        document_type: str | None = None,
        memory_percent: float | None = None,
        out_of_memory: bool = False,
        suggested: int | None = None,
    ) -> None:
        """Take what a call did.

        Args:
            batch_size: documents in the call; the size that was suggested, unless fewer were left.
            seconds: how long it took.
            documents: the call's documents, or
            characters: how many characters they had in all.
            tokens: how many tokens they had in all, where known: what throughput is then measured in.
            document_type: as given to `suggest_batch_size`.
            memory_percent: how full the memory was, 0 to 100.
            out_of_memory: the call did not fit: this size and larger ones are never suggested again.
            suggested: the suggestion that the call followed, where its documents were so much longer or shorter than
                the mean that it held another number of them; 0 if it followed none and teaches nothing.
        """
        size = batch_size if suggested is None else suggested
        kind = document_type or _DEFAULT_TYPE
        length = sum(len(d) for d in documents) if characters is None else characters
        search = self._search(document_type, documents)
        if out_of_memory:
            search.forbid(size)
            self.current_size = search.best
            return
        record = CountRecord(
            size=batch_size, characters=length, seconds=seconds, memory_percent=memory_percent
        )
        self._history.setdefault(kind, deque(maxlen=self._history_size)).append(record)
        self._tracked += 1
        if seconds > 0:
            # Tokens or characters, not documents, a second: a call of longer documents is not a slower size.
            search.observe(size, (tokens or length or batch_size) / seconds)

    def get_statistics(self) -> dict[str, Any]:
        """What it has seen and learned.

        Returns:
            `current_size, min_size, max_size, avg_doc_size` (characters), `batches_tracked, memory_threshold`, and
            `profiles`: per document type `best_size, settled, batches, avg_doc_size, documents_per_s`.
        """
        records = [record for history in self._history.values() for record in history]
        return {
            "current_size": self.current_size,
            "min_size": self.min_size,
            "max_size": self.max_size,
            "avg_doc_size": _mean_characters(records),
            "batches_tracked": self._tracked,
            "memory_threshold": self.memory_threshold,
            "profiles": {kind: self._profile(kind) for kind in sorted(self._searches)},
        }

    def reset(self) -> None:
        """Forget everything; the current size is `initial_size` again."""
        self.current_size = self.initial_size
        self._searches.clear()
        self._history.clear()
        self._tracked = 0

    def _search(self, document_type: str | None, documents: Sequence[str]) -> Search:
        kind = document_type or _DEFAULT_TYPE
        if kind not in self._searches:
            prior = self._prior(documents) if documents else self.initial_size
            self._searches[kind] = Search(self._sizes(prior), prior)
        return self._searches[kind]

    def _prior(self, documents: Sequence[str]) -> int:
        mean = sum(len(document) for document in documents) / len(documents)
        prior = next((size for above, size in _PRIORS if mean > above), _PRIOR_SHORT)
        return min(self.max_size, max(self.min_size, prior))

    def _sizes(self, prior: int) -> list[int]:
        """The prior and steps of √2 from it, over the whole range."""
        factor = 2 ** (1 / _STEPS_PER_DOUBLING)
        sizes = {self.min_size, prior, self.max_size}
        step = prior * factor
        while step < self.max_size:
            sizes.add(round(step))
            step *= factor
        step = prior / factor
        while step > self.min_size:
            sizes.add(round(step))
            step /= factor
        return sorted(sizes)

    def _short_of_memory(self) -> bool:
        return self._memory_percent is not None and self._memory_percent() > self.memory_threshold

    def _profile(self, kind: str) -> dict[str, Any]:
        search = self._searches[kind]
        records = list(self._history.get(kind, ()))
        seconds = sum(record.seconds for record in records)
        documents = sum(record.size for record in records)
        return {
            "best_size": search.best,
            "settled": search.settled,
            "batches": len(records),
            "avg_doc_size": _mean_characters(records),
            "documents_per_s": documents / seconds if seconds else 0.0,
        }


def _mean_characters(records: Sequence[CountRecord]) -> float:
    sizes = [record.characters / record.size for record in records if record.size]
    return fmean(sizes) if sizes else 0.0
