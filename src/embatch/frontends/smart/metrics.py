"""What a client has done so far, against what it would have been with jobs only."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embatch.remote import Prices
    from embatch.types import LaneReport

logger = logging.getLogger("embatch.gemini")


@dataclass(slots=True)
class BatchingMetrics:
    """Counts of one client since it was made. Any thread may read them."""

    total_requests: int = 0
    """Texts and prompts that were asked for."""
    individual_calls: int = 0
    """Synchronous calls that were sent; one holds up to a hundred texts."""
    batch_calls: int = 0
    """Batch jobs that were submitted."""
    time_saved_estimate: float = 0.0
    """Seconds, against sending everything as batch jobs."""
    cost_delta: float = 0.0
    """Dollars more than if everything had gone as batch jobs; 0 where prices are not known."""
    individual_items: int = 0
    """Texts and prompts that got their result from calls; equal ones count once."""
    batch_items: int = 0
    """Texts and prompts that got their result from jobs."""
    dollars: float = 0.0
    """Spent."""
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def add(self, requests: int, report: LaneReport, prices: Prices | None, *, saved_s: float) -> None:
        """Count a run."""
        with self._lock:
            self.total_requests += requests
            self.individual_calls += report.calls
            self.batch_calls += report.jobs
            self.individual_items += report.call_items
            self.batch_items += report.job_items
            self.time_saved_estimate += max(0.0, saved_s)
            self.dollars += report.dollars
            if prices is not None and prices.individual > 0:
                self.cost_delta += report.call_dollars * (1 - prices.batch / prices.individual)

    def log_summary(self) -> None:
        """One line in the log."""
        logger.info(
            "Session summary: %d individual, %d batch. Saved ~%.0fs total.",
            self.individual_calls,
            self.batch_calls,
            self.time_saved_estimate,
        )
