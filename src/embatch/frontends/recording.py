"""Opens the record of a command's run: what `embatch report` shows afterwards."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from embatch.frontends import telemetry
from embatch.storage.run_records import open_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from embatch.frontends.embedder import Embedder
    from embatch.frontends.generation import GeneratingModel
    from embatch.frontends.telemetry import RunKind
    from embatch.seen_lanes import RunObserver
    from embatch.storage.run_records import RecordObserver
    from embatch.types import Report

    Done = Callable[[Report], None]


def record_of(
    kind: str,
    model_of: Embedder | GeneratingModel,
    *,
    output: Path,
    sources: Sequence[str],
    settings: Mapping[str, Any],
    enabled: bool,
    model: str | None = None,
) -> RecordObserver:
    """A record for a run of an open model that makes a file.

    Args:
        kind: of the run.
        model_of: what it computes or asks with.
        output: the file.
        sources: as given.
        settings: by name.
        enabled: False records nothing.
        model: its name, where there is no spec of vectors to name it.
    """
    about = {"model": model} if model is not None else described(model_of)
    return open_record(
        kind,
        command=sys.argv[1:],
        enabled=enabled,
        settings={
            name: value for name, value in settings.items() if value is not None and value is not False
        },
        sources=list(sources),
        output=str(output.absolute()),
        **about,
    )


@contextmanager
def observed(kind: RunKind, model: str, record: RecordObserver) -> Iterator[tuple[RunObserver, Done]]:
    """A command's run, told to its record and, where the environment asks for it, to OpenTelemetry.

    Gives what observes the run, and what takes its report at the end.
    """
    telemetry.start()
    try:
        with telemetry.run_span(kind, model) as span:

            def done(report: Report) -> None:
                if span is not None:
                    lanes = report.lanes
                    sent = 0 if lanes is None else lanes.call_tokens + lanes.job_tokens
                    span.done(
                        items=report.items,
                        tokens=report.tokens or sent,
                        failed=report.failed,
                        cached=report.cached,
                    )

            yield telemetry.both(record, telemetry.observer(model)) or record, done
    finally:
        telemetry.stop()


def described(embedder: Any) -> dict[str, Any]:
    """What a report says of an embedder: the model, where it runs, its spec without the prompt's words."""
    spec: dict[str, Any] = json.loads(embedder.spec.to_json())
    spec["prompt"] = f"{len(spec['prompt'])} characters" if spec["prompt"] else ""
    limits = embedder.backend.limits
    return {
        "model": spec["model"],
        "device": embedder.backend.device,
        "streams": embedder.backend.streams,
        "cost": str(limits.cost),
        "spec": spec,
    }


def report_dict(report: Report | None) -> dict[str, Any] | None:
    """A report's numbers, without its failures: these are recorded one by one."""
    return None if report is None else {**report.to_dict(), "failures": []}
