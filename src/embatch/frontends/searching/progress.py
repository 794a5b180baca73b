"""How far a sync is, for bars and lines of JSON: chunks done, and how many there will be about."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from embatch.decisions.progress import Meter

if TYPE_CHECKING:
    from collections.abc import Callable

    from embatch.decisions.progress import Progress
    from embatch.frontends.searching.index import Index


def progress_of(index: Index) -> Callable[[], Progress]:
    """What tells how far the index's sync is; may be called from any thread."""
    meter = Meter(time.monotonic())

    def look() -> Progress:
        report, pipeline = index.progress, index.run
        now = time.monotonic()
        if report is None:  # not begun, or over
            last = index.last_report
            done = 0 if last is None else last.embedded + last.reused + last.failed
            return meter.look(now, completed=done, total=None if last is None else done)
        done = report.embedded + report.reused + report.failed
        if pipeline is None:
            return meter.look(now, completed=done, note="looking for changes")
        done = report.reused + pipeline.rows_done
        share = report.bytes_done / report.bytes_total if report.bytes_total else 1.0
        return meter.look(
            now,
            completed=done,
            failed=report.failed,
            tokens=pipeline.report.tokens,
            total=max(done, round(report.chunks / share)) if share else None,
            left_s=pipeline.left_s,
            note=pipeline.note,
        )

    return look
