"""What a run would do, without running the model: the same windows, the same batches, only counted.

`forecast` reads and tokenises every row as the pipeline would and plans the batches of each window with the same
function. It computes no vectors; how long the tokens take is measured by the caller, on a sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from embatch.decisions.planning import cost, plan
from embatch.engine.pipeline import WINDOW_ITEMS
from embatch.engine.window import WindowMaker
from embatch.types import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from embatch.decisions.planning import Budget
    from embatch.types import Backend, BadItem, Item, ModelSpec


@dataclass(slots=True, kw_only=True)
class Forecast:
    """Counts of a run that was not run."""

    rows: int = 0
    failed: int = 0
    """Rows that will have no vector: empty, broken, no text."""
    distinct: int = 0
    """Texts that will be computed."""
    stored: int = 0
    """Texts whose vector is already there, from a cache or an interrupted run."""
    duplicates: int = 0
    """Rows that will take the vector of an equal text."""
    truncated: int = 0
    """Texts that will be cut."""
    pooled: int = 0
    """Texts that will be averaged over windows."""
    tokens: int = 0
    padded_tokens: int = 0
    batches: int = 0

    @property
    def padding(self) -> float:
        """Share of the computed tokens that will be padding, 0 to 1."""
        return 1.0 - self.tokens / self.padded_tokens if self.padded_tokens else 0.0


def forecast(
    backend: Backend,
    spec: ModelSpec,
    budget: Budget,
    rows: Iterable[Item | BadItem],
    *,
    known: Callable[[Sequence[bytes]], set[bytes]] | None = None,
) -> Forecast:
    """Count what embedding `rows` would take.

    Args:
        backend: tokenises, and says what a batch costs.
        spec: what would come out.
        budget: what batches would be formed under.
        rows: read once, a window at a time.
        known: which of some digests have a vector already.
    """
    maker = WindowMaker(backend, spec, Report(), window_items=WINDOW_ITEMS, remember=None)
    source = iter(rows)
    result = Forecast()
    while (window := maker.read(source)) is not None:
        repeated = {slot for slot, _ in window.aliases}
        wanted = [slot for slot in range(len(window.digests)) if slot not in repeated]
        if known is not None:
            there = known([window.digests[slot] for slot in wanted])
            result.stored += len(there)
            wanted = [slot for slot in wanted if window.digests[slot] not in there]
        maker.tokenize(window, wanted)
        computed = set(window.unit_slots)
        result.rows += len(window.items)
        result.failed += len(window.failures) + sum(slot in window.slot_errors for slot in window.slots)
        result.distinct += len(computed)
        result.duplicates += (
            len(window.slots) - window.slots.count(-1) - (len(window.digests) - len(repeated))
        )
        result.truncated += sum(slot in window.truncated for slot in window.slots)
        result.pooled += sum(slot in window.pieces for slot in window.slots)
        result.tokens += int(window.lengths.sum())
        streams = backend.streams if window.last else 0
        for batch in plan(window.lengths, budget, backend.limits, streams=streams):
            result.batches += 1
            result.padded_tokens += cost(window.lengths[batch], backend.limits.cost)
    return result
