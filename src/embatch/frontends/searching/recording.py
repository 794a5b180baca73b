"""Records what is done to an index in one command: a sync, and with `--watch` all that follow it."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from embatch.frontends.recording import described, observed, report_dict
from embatch.storage.run_records import open_record
from embatch.storage.scrubbing import scrubbed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from embatch.frontends.searching.index import Index


@contextmanager
def recording(
    index: Index,
    sources: Sequence[str],
    *,
    settings: Mapping[str, Any],
    enabled: bool,
    watching: bool = False,
) -> Iterator[None]:
    """Record what happens to the index within.

    Args:
        index: open; its observer is set.
        sources: what is brought in step.
        settings: by name.
        enabled: False records nothing.
        watching: whether several syncs may follow each other, so that none of their reports is that of the run.
    """
    record = open_record(
        "index",
        command=sys.argv[1:],
        enabled=enabled,
        settings=settings,
        sources=list(sources),
        output=scrubbed(index.location),
    )
    with record, observed("index", str(settings.get("model") or "minilm"), record) as (observer, done):
        index.observer = observer
        try:
            yield
        finally:
            index.observer = None
            if index.last_run is not None:
                done(index.last_run)
            told: dict[str, Any] = {}
            if index.last_report is not None and not watching:
                told = {"sync": index.last_report.to_dict()}
            if index.model.opened:
                told["about"] = described(index.model.get())
            record.end(report=None if watching else report_dict(index.last_run), **told)
