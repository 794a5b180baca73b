"""The time line of a run: which stream, call, job or wait was under way when, in rows of bars.

Pure. More bars than can be told apart on a screen are put together, so that the page stays small.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

from embatch.frontends.report.figures import Span, Timeline
from embatch.frontends.report.sums import retries
from embatch.seen import BatchSeen
from embatch.seen_lanes import BlockSeen, CallSeen, JobSeen, PauseSeen, WindowSeen

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from embatch.frontends.report.figures import SpanKind
    from embatch.seen_lanes import RunSeen

MOST_BARS = 400
"""Of a row; more are put together."""
_MOST_JOB_ROWS = 40
_REFUSED = {"rate_minute", "rate_day", "enqueued_full"}


def timeline(events: Iterable[tuple[RunSeen, int]], *, start: float, end: float) -> Timeline:
    """The rows and bars of a run.

    Args:
        events: of the record, each with how many it stands for.
        start: of the run, seconds since the epoch.
        end: likewise; what was under way then ends there.
    """
    told = [seen for seen, _ in events]
    length = max(0.0, end - start)
    groups = [
        _one_row("reading", [_plain(seen, "reading") for seen in told if isinstance(seen, WindowSeen)]),
        *_streams([seen for seen in told if isinstance(seen, BatchSeen)]),
        *_calls([seen for seen in told if isinstance(seen, CallSeen)]),
        *_jobs([seen for seen in told if isinstance(seen, JobSeen)], end),
        _one_row("waiting", [_pause(seen) for seen in told if isinstance(seen, PauseSeen)]),
        _one_row("writing", [_plain(seen, "writing") for seen in told if isinstance(seen, BlockSeen)]),
    ]
    rows: list[str] = []
    spans: list[Span] = []
    for name, found in groups:
        if not found:
            continue
        moved = (
            replace(
                span,
                row=len(rows),
                start=min(length, max(0.0, span.start - start)),
                end=min(length, max(0.0, span.end - start)),
            )
            for span in merged(sorted(found, key=lambda span: span.start))
        )
        spans.extend(moved)
        rows.append(name)
    return Timeline(rows=tuple(rows), spans=tuple(spans))


def merged(spans: Sequence[Span], most: int = MOST_BARS) -> list[Span]:
    """At most about so many spans: neighbours of one kind are put together, in equal numbers.

    Items, tokens, counts and the time that they took add up; the length is the longest, the budget the last.
    """
    if len(spans) <= most:
        return list(spans)
    size = -(-len(spans) // most)
    found: list[Span] = []
    for kind, run in groupby(spans, key=lambda span: span.kind):
        same = list(run)
        # Kinds that are rare are what a reader looks for: they stay as they are.
        step = size if kind in {"batch", "call", "reading", "writing"} else 1
        found += [_together(same[i : i + step]) for i in range(0, len(same), step)]
    return found


def _together(spans: Sequence[Span]) -> Span:
    if len(spans) == 1:
        return spans[0]
    return replace(
        spans[0],
        # As long as they took together: what is free of colour was idle.
        end=min(
            max(span.end for span in spans), spans[0].start + sum(span.end - span.start for span in spans)
        ),
        items=sum(span.items for span in spans),
        tokens=sum(span.tokens for span in spans),
        longest=max(span.longest for span in spans),
        budget=spans[-1].budget,
        count=sum(span.count for span in spans),
    )


def _one_row(name: str, spans: list[Span]) -> tuple[str, list[Span]]:
    return name, spans


def _plain(seen: WindowSeen | BlockSeen, kind: SpanKind) -> Span:
    tokens = seen.tokens if isinstance(seen, WindowSeen) else 0
    return Span(row=0, start=seen.at, end=seen.at + seen.seconds, kind=kind, items=seen.rows, tokens=tokens)


def _pause(seen: PauseSeen) -> Span:
    return Span(row=0, start=seen.at, end=seen.at + seen.seconds, kind="wait", note=seen.reason)


def _streams(batches: Sequence[BatchSeen]) -> list[tuple[str, list[Span]]]:
    rows: dict[int, list[Span]] = defaultdict(list)
    for seen, again in zip(batches, retries(batches), strict=True):
        kind: SpanKind = "failed" if seen.error else "retry" if again else "batch"
        rows[seen.stream].append(
            Span(
                row=0,
                start=seen.at,
                end=seen.at + seen.seconds,
                kind=kind,
                items=seen.items,
                tokens=seen.tokens,
                longest=seen.longest,
                budget=seen.budget,
                note=seen.error,
            )
        )
    return [(f"stream {number + 1}", rows[number]) for number in sorted(rows)]


def _calls(calls: Sequence[CallSeen]) -> list[tuple[str, list[Span]]]:
    """Calls in as few rows as they need: a row holds calls that do not overlap."""
    rows: list[list[Span]] = []
    free: list[tuple[float, int]] = []  # when a row is free again
    for seen in sorted(calls, key=lambda call: call.at):
        end = seen.at + seen.seconds
        if free and free[0][0] <= seen.at:
            _, row = heapq.heappop(free)
        else:
            row = len(rows)
            rows.append([])
        heapq.heappush(free, (end, row))
        kind: SpanKind = "call"
        if seen.error:
            kind = "refused" if seen.error in _REFUSED else "call failed"
        note = seen.error + (f", try again in {seen.retry_after_s:g} s" if seen.retry_after_s else "")
        rows[row].append(
            Span(row=0, start=seen.at, end=end, kind=kind, items=seen.items, tokens=seen.tokens, note=note)
        )
    return [(f"calls {number}" if len(rows) > 1 else "calls", row) for number, row in enumerate(rows, 1)]


def _jobs(stages: Sequence[JobSeen], end: float) -> list[tuple[str, list[Span]]]:
    """A row for each job: while the provider had not accepted it, and until it ended."""
    jobs: dict[int, list[JobSeen]] = defaultdict(list)
    for seen in stages:
        jobs[seen.id].append(seen)
    for told in jobs.values():
        told.sort(key=lambda seen: seen.at)
    rows = [spans for id_ in jobs if (spans := _job(jobs[id_], end))]
    shown, rest = rows[:_MOST_JOB_ROWS], rows[_MOST_JOB_ROWS:]
    named = [(f"job {number}", spans) for number, spans in enumerate(shown, 1)]
    if rest:
        named.append((f"{len(rest)} more jobs", [span for spans in rest for span in spans]))
    return named


def _job(stages: Sequence[JobSeen], end: float) -> list[Span]:
    spans: list[Span] = []
    begun, kind = stages[0].at - stages[0].age_s, "queued"
    items = max(seen.items for seen in stages)
    if stages[0].stage == "attached":
        kind = "job"
    over = False
    for seen in stages:
        if seen.stage == "accepted":
            if seen.at > begun:
                spans.append(Span(row=0, start=begun, end=seen.at, kind="queued", items=items))
            begun, kind = seen.at, "job"
        elif seen.stage in {"refused", "ended"}:
            bad = seen.stage == "refused" or seen.state not in {"succeeded", "partial"}
            words = ", ".join(part for part in (seen.state or "refused", seen.error) if part)
            spans.append(
                Span(
                    row=0,
                    start=begun,
                    end=seen.at,
                    kind="job failed" if bad else "job",
                    items=items,
                    tokens=seen.tokens,
                    note=words,
                )
            )
            over = True
    if not over:  # killed, or given up while it was under way
        under_way: SpanKind = "job" if kind == "job" else "queued"
        spans.append(
            Span(row=0, start=begun, end=max(begun, end), kind=under_way, items=items, note="under way")
        )
    return spans
