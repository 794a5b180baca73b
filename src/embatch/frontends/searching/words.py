"""What a sync did, in lines that a terminal holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embatch.decisions.lanes.words import count
from embatch.frontends.view import duration, lane_lines

if TYPE_CHECKING:
    from embatch.frontends.searching.index import Index
    from embatch.search.report import SyncReport


def summary(index: Index, report: SyncReport) -> list[str]:
    """The lines: what changed, what was computed, what was passed over, and where the index is."""
    unchanged = report.unchanged + report.same
    files = [
        (report.added, "new"),
        (report.changed, "changed"),
        (report.removed, "gone"),
        (unchanged, "unchanged"),
        (report.unreadable, "unreadable"),
    ]
    told = ", ".join(f"{number:,} {what}" for number, what in files if number)
    lines = [f"{count(report.files, 'file')} in {duration(report.seconds)}" + (f": {told}" if told else "")]
    chunks = [
        (report.embedded, "embedded"),
        (report.reused, "taken over"),
        (report.failed, "without a vector, tried again next time"),
    ]
    told = ", ".join(f"{number:,} {what}" for number, what in chunks if number)
    if told:
        lines.append(f"  {count(report.chunks, 'chunk')}: {told}")
    run = index.last_run
    if run is not None and run.lanes is not None:
        lines += lane_lines(run.lanes, index.reader.spec.model)
    elif run is not None and run.embedded:
        lines.append(f"  {run.texts_per_s:,.0f} chunks/s, {run.tokens_per_s:,.0f} tokens/s")
    if report.skipped:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in sorted(report.skipped.items()))
        lines.append(f"  skipped: {reasons}")
    lines.append(f"  index: {index.location} ({count(index.reader.count(), 'chunk')})")
    return lines
