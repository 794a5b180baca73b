"""Jobs that a run has given up without knowing what they cost: lost on the way, or without an end.

What such a job may cost counts as spent until it is known. At the run's end each is looked at once more: what it cost
belongs on the bill, and it must end. It decides nothing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embatch.engine.lanes.run import LaneRun
    from embatch.remote import LedgerJob

_log = logging.getLogger(__name__)


class Abandoned:
    """The abandoned jobs of one run."""

    def __init__(self, run: LaneRun) -> None:
        self._run = run
        self._jobs: list[tuple[LedgerJob, int]] = []  # with the number of its money in the ledger

    def add(self, job: LedgerJob) -> None:
        """The run goes on without this one."""
        parts = self._run.parts
        tokens = parts.ratio.correct(job.tokens)
        dollars = self._run.price("batch", tokens)
        pending = parts.ledger.pend("batch", items=job.items, tokens=tokens, dollars=dollars)
        self._jobs.append((job, pending))

    def settle(self) -> None:
        """Look at each once: bill it, and end it. One that cannot be asked for stays as it is."""
        for job, pending in self._jobs:
            try:
                self._settle(job, pending)
            except Exception as error:  # noqa: BLE001  # a number on the bill is not worth a run
                _log.warning("job %s could not be looked at once more: %s", job.tag, error)
        self._jobs.clear()

    def _settle(self, job: LedgerJob, pending: int) -> None:
        parts = self._run.parts
        ref = job.ref or parts.provider.find(job.tag)
        if ref is None:  # not there, so nobody can have billed it
            parts.ledger.settle(pending)
            return
        view = parts.provider.poll(ref)
        if not view.state.terminal:
            parts.provider.cancel(ref)
        share = (view.completed or 0) / max(1, view.total or job.items)
        tokens = view.tokens if view.tokens is not None else parts.ratio.correct(round(job.tokens * share))
        if tokens:
            dollars, estimated = self._run.price("batch", tokens), view.tokens is None
            report = parts.report
            report.job_tokens += tokens
            report.job_dollars += dollars
            report.estimated_tokens += tokens if estimated else 0
            parts.ledger.bill(
                "batch",
                items=0,
                tokens=tokens,
                dollars=dollars,
                estimated=estimated,
                job=job.number,
                pending=pending,
            )
        elif view.state.terminal:
            parts.ledger.settle(pending)
