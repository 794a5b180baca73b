"""From a record to a report's figures. Pure: the same record always gives the same report."""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from embatch.frontends.report import sums
from embatch.frontends.report.alternatives import alternatives
from embatch.frontends.report.figures import Failed, Figures
from embatch.frontends.report.timelines import timeline
from embatch.frontends.report.wording import headlines, paragraph
from embatch.seen import BatchSeen
from embatch.seen_lanes import CallSeen, DecisionSeen, FailureSeen, JobSeen, LaneSeen

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from embatch.frontends.report.figures import Totals
    from embatch.storage.run_archive import RunRecord

_NOUNS = {"index": "chunk", "generate": "prompt"}


def gather(record: RunRecord) -> Figures:
    """Everything that a report says of a run."""
    events, head, foot = record.events, record.head, record.foot
    start = float(head["start"])
    end = _end(record, start)
    seconds = end - start
    lanes = any(isinstance(seen, LaneSeen | CallSeen | JobSeen) for seen, _ in events) or bool(
        (foot.get("report") or {}).get("lanes")
    )
    about = {**head, **_mapping(foot.get("about"))}
    streams = about.get("streams")
    counts = sums.totals(
        events, foot, seconds=seconds, streams=streams if isinstance(streams, int) and not lanes else 0
    )
    kind, noun = str(head.get("kind", "?")), _NOUNS.get(str(head.get("kind")), "text")
    ways, ways_note = alternatives(record, counts, seconds=seconds, lanes=lanes)
    failures = tuple(_failures(record))
    plain = Figures(
        id=record.id,
        kind=kind,
        state=record.state,
        noun=noun,
        model=str(about.get("model") or _mapping(head.get("settings")).get("model") or ""),
        device=str(about.get("device", "")),
        started=start,
        seconds=seconds,
        lanes=lanes,
        totals=counts,
    )
    return replace(
        plain,
        headlines=headlines(plain, foot),
        words=paragraph(plain, head, foot),
        notes=tuple(_notes(record, counts, shown=len(failures))),
        timeline=timeline(events, start=start, end=end),
        bins=tuple(sums.bins(events, start=start, end=end)),
        done=tuple(sums.done(events, start=start)),
        budgets=sums.budgets(events, start=start, last=_budget(foot)),
        shapes=tuple(sums.shapes(events)),
        lengths=tuple(sums.lengths(events)),
        time=tuple(sums.parts(events, counts, seconds=seconds)),
        alternatives=tuple(ways),
        alternatives_note=ways_note,
        latencies=tuple(sums.latencies(events, start=start, end=end)),
        failures=failures,
        failures_by_error=tuple(Counter(failure.error for failure in failures).most_common()),
        decisions=tuple(
            (max(0.0, seen.at - start), seen.text) for seen, _ in events if isinstance(seen, DecisionSeen)
        ),
        facts=tuple(_facts(about, head)),
    )


def _end(record: RunRecord, start: float) -> float:
    """When the run ended; the last that was seen of it if it was killed. Never before its start."""
    told = record.foot.get("end")
    if isinstance(told, int | float) and math.isfinite(told):
        return max(start, float(told))
    ends = [seen.at + getattr(seen, "seconds", 0.0) * _lasts(seen) for seen, _ in record.events]
    return max([start, *ends])


def _lasts(seen: object) -> bool:
    """Whether `seconds` of an event is how long it was, rather than a guess of the future."""
    return type(seen).__name__ != "OutlookSeen"


def _budget(foot: Mapping[str, Any]) -> int:
    budget = _mapping(foot.get("report")).get("budget")
    return budget if isinstance(budget, int) else 0


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _failures(record: RunRecord) -> Iterator[Failed]:
    """Items without a result. A sync names files and chunks itself, at its end."""
    problems = _mapping(record.foot.get("sync")).get("problems")
    if isinstance(problems, list):
        for problem in problems:
            told = _mapping(problem)
            yield Failed(
                key=str(told.get("path", "")),
                source="",
                error="problem",
                message=str(told.get("message", "")),
            )
        return
    for seen, _ in record.events:
        if isinstance(seen, FailureSeen):
            yield Failed(key=seen.key, source=seen.source, error=seen.error, message=seen.message)


def _notes(record: RunRecord, counts: Totals, *, shown: int) -> Iterator[str]:
    if record.state == "killed":
        yield "The run was killed, or its machine stopped: figures are those of what was recorded until then."
    elif record.state == "running":
        yield "The run still goes on: figures are those of what was recorded so far."
    elif record.state in {"failed", "interrupted"} and (message := record.foot.get("message")):
        yield f"The run {'was interrupted' if record.state == 'interrupted' else 'failed'}: {message}"
    most = max((n for _, n in record.events), default=1)
    if most > 1:
        yield (
            "The record is thinned, so that it stays small: towards the end it holds one event in "
            f"{most:,}. Totals are exact where the run has reported them; pictures show a sample."
        )
    if record.damaged:
        yield f"{record.damaged:,} damaged lines of the record were left out."
    if counts.failed > shown:
        named = f"The record names the first {shown:,} of {counts.failed:,} failures"
        yield f"{named}; the error file beside the output has all."
    if any(isinstance(seen, BatchSeen) and seen.error for seen, _ in record.events):
        yield "Batches that failed were computed again in halves, down to the text to blame."


def _facts(about: Mapping[str, Any], head: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    command, sources = head.get("command"), about.get("sources")
    if isinstance(command, list) and command:
        yield "command", " ".join(["embatch", *map(_quoted, command)])
    yield from ((name, str(about[name])) for name in ("model", "device", "output") if about.get(name))
    if isinstance(sources, list):
        yield from (("source", str(source)) for source in sources)
    settings, spec = _mapping(head.get("settings")), _mapping(about.get("spec"))
    for name, value in sorted(settings.items()):
        if name not in {"model", "output"}:
            yield f"setting: {name.replace('_', ' ')}", _shown(value)
    for name, value in spec.items():
        if name != "model" and value not in {"", None}:
            yield f"spec: {name.replace('_', ' ')}", _shown(value)
    for name, value in _mapping(head.get("versions")).items():
        yield name if name == "system" else f"version: {name}", str(value)


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _quoted(argument: object) -> str:
    return shlex.quote(str(argument))
