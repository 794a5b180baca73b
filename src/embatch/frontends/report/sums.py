"""What the events of a record add up to: totals, rates, budgets, shapes, latencies. Pure."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from statistics import median
from typing import TYPE_CHECKING, Any

from embatch.frontends.report.figures import Bin, Budgets, Done, Latency, Part, Shape, Totals, Tried
from embatch.seen import AskSeen, BatchSeen
from embatch.seen_lanes import BlockSeen, CallSeen, FailureSeen, JobSeen, PauseSeen, TunerSeen, WindowSeen

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from embatch.seen_lanes import RunSeen

    Events = Sequence[tuple[RunSeen, int]]

BINS = 120
_MOST_POINTS = 800


def totals(events: Events, foot: Mapping[str, Any], *, seconds: float, streams: int) -> Totals:
    """Counts of a run: its own where it came to its end, what was recorded otherwise."""
    report: Mapping[str, Any] = foot.get("report") or {}
    lanes: Mapping[str, Any] = report.get("lanes") or {}
    batches = [(seen, n) for seen, n in events if isinstance(seen, BatchSeen)]
    good = [(seen, n) for seen, n in batches if not seen.error]
    calls = [(seen, n) for seen, n in events if isinstance(seen, CallSeen)]
    ended = [seen for seen, _ in events if isinstance(seen, JobSeen) and seen.stage == "ended"]
    asks = [(seen, n) for seen, n in events if isinstance(seen, AskSeen)]
    waits = [(seen, n) for seen, n in events if isinstance(seen, PauseSeen)]
    sent = sum(seen.done * n for seen, n in calls) + sum(seen.done for seen in ended)
    items = sum(seen.items * n for seen, n in good) or sent
    paid = sum(seen.dollars * n for seen, n in calls) + sum(seen.dollars for seen in ended)
    tokens = sum(seen.tokens * n for seen, n in good)
    tokens += sum(seen.tokens * n for seen, n in calls) + sum(seen.tokens for seen in ended)

    def told(name: str, otherwise: float = 0, place: Mapping[str, Any] = report) -> int:
        value = place.get(name)
        return int(value if isinstance(value, int | float) else otherwise)

    answered = foot.get("answered")
    if isinstance(answered, int):
        items = answered + told("failed", place=foot)
    return Totals(
        items=told("items", items),
        embedded=told("embedded", items),
        duplicates=told("duplicates", told("repeated", place=foot)),
        cached=told("cached"),
        truncated=told("truncated"),
        pooled=told("pooled"),
        failed=told("failed", told("failed", _failed(events), foot)),
        tokens=told("tokens", told("call_tokens", 0, lanes) + told("job_tokens", 0, lanes) or tokens),
        padded_tokens=told("padded_tokens", sum(seen.padded_tokens * n for seen, n in good)),
        batches=told("batches", sum(n for _, n in good)) if not lanes else 0,
        retries=sum(
            n for (_, n), again in zip(batches, retries([seen for seen, _ in batches]), strict=True) if again
        ),
        out_of_memory=sum(n for seen, n in batches if seen.error == "OutOfMemoryError"),
        calls=told("calls", sum(n for _, n in calls), lanes),
        calls_refused=told(
            "calls_refused", sum(n for seen, n in calls if seen.error == "rate_minute"), lanes
        ),
        calls_failed=told(
            "calls_failed", sum(n for seen, n in calls if seen.error not in {"", "rate_minute"}), lanes
        ),
        jobs=told("jobs", 0, lanes) + told("jobs_attached", 0, lanes) if lanes else _jobs(events),
        again=told("retried", sum(seen.back * n for seen, n in calls), lanes),
        waits=sum(n for _, n in waits),
        wait_s=sum(seen.seconds * n for seen, n in waits),
        seconds=_number((foot.get("sync") or report).get("seconds"), _number(lanes.get("seconds"), seconds)),
        device_seconds=_number(report.get("device_seconds"), sum(seen.seconds * n for seen, n in good)),
        streams=streams or 1 + max((seen.stream for seen, _ in batches), default=-1),
        dollars=_dollars(lanes, paid, priced=bool(calls or ended)),
        earlier_dollars=_number(lanes.get("earlier_dollars"), 0.0),
        asks=sum(n for _, n in asks),
        asks_unanswered=sum(n for seen, n in asks if seen.outcome != "answered"),
    )


def retries(batches: Sequence[BatchSeen]) -> list[bool]:
    """Which batches were computed because others had failed, or had given no vectors for some of their texts.

    A batch that is not fresh may also be a rest that was shared among the streams: it is a retry if texts of failed
    batches are still owed, or if it is a text alone where batches are formed by tokens.
    """
    by_tokens = any(seen.budget for seen in batches)
    found, owed = [False] * len(batches), 0
    for i in sorted(range(len(batches)), key=lambda i: batches[i].at):
        seen = batches[i]
        alone = by_tokens and not seen.budget and seen.items == 1
        found[i] = not seen.fresh and (owed >= seen.items or alone)
        if found[i] and not alone:
            owed -= seen.items
        if seen.error and seen.items > 1:  # its halves follow
            owed += seen.items
    return found


def _failed(events: Events) -> int:
    return sum(n for seen, n in events if isinstance(seen, FailureSeen))


def _jobs(events: Events) -> int:
    return len({seen.id for seen, _ in events if isinstance(seen, JobSeen)})


def _number(value: object, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else otherwise


def _dollars(lanes: Mapping[str, Any], paid: float, *, priced: bool) -> float | None:
    if not lanes:
        return paid if priced else None
    return _number(lanes.get("dollars"), paid) if lanes.get("priced", True) else None


def bins(events: Events, *, start: float, end: float, number: int = BINS) -> list[Bin]:
    """Items and tokens over time: each batch and call counts where it was under way, in proportion.

    The sum over the bins is that over the events, whatever their number.
    """
    work = [
        (seen.at, seen.seconds, seen.items * n, seen.tokens * n)
        for seen, n in events
        if isinstance(seen, BatchSeen) and not seen.error
    ]
    work += [
        (seen.at, seen.seconds, seen.done * n, seen.tokens * n)
        for seen, n in events
        if isinstance(seen, CallSeen) and seen.done
    ]
    if not work or end <= start:
        return []
    width = (end - start) / number
    items, tokens = [0.0] * number, [0.0] * number
    for at, seconds, some, their_tokens in work:
        first = min(number - 1, max(0, int((at - start) / width)))
        last = min(number - 1, max(first, int((at + seconds - start) / width)))
        for i, share in _shares(first, last, (at - start) / width, (at + seconds - start) / width):
            items[i] += some * share
            tokens[i] += their_tokens * share
    return [
        Bin(start=i * width, end=(i + 1) * width, items=items[i], tokens=tokens[i]) for i in range(number)
    ]


def _shares(first: int, last: int, begin: float, end: float) -> Iterable[tuple[int, float]]:
    """How much of something that lasts from `begin` to `end` (in bins) lies in each; the sum is 1."""
    if first == last or end <= begin:
        return [(first, 1.0)]
    found = []
    for i in range(first, last + 1):
        low, high = max(begin, i) if i > first else begin, min(end, i + 1) if i < last else end
        found.append((i, (high - low) / (end - begin)))
    return found


def done(events: Events, *, start: float) -> list[Done]:
    """Items that had their result, and dollars, whenever calls and jobs came to their ends."""
    ends = [
        (seen.at + seen.seconds, seen.done * n, seen.dollars * n)
        for seen, n in events
        if isinstance(seen, CallSeen)
    ]
    ends += [
        (seen.at, seen.done, seen.dollars)
        for seen, _ in events
        if isinstance(seen, JobSeen) and seen.stage == "ended"
    ]
    found, items, dollars = [Done(at=0.0, items=0, dollars=0.0)], 0, 0.0
    for at, some, paid in sorted(ends):
        items, dollars = items + some, dollars + paid
        found.append(Done(at=max(0.0, at - start), items=items, dollars=dollars))
    return _thin(found) if len(found) > 1 else []


def budgets(events: Events, *, start: float, last: int) -> Budgets:
    """The budgets of batches over time, what each reached, and how full the memory was."""
    steps: list[tuple[float, int]] = []
    reached: dict[int, list[float]] = defaultdict(list)
    for seen, _ in events:
        if not isinstance(seen, BatchSeen) or not seen.budget:
            continue
        if seen.fresh:
            if not steps or steps[-1][1] != seen.budget:
                steps.append((max(0.0, seen.at - start), seen.budget))
            if not seen.error and seen.seconds > 0:
                reached[seen.budget].append(seen.tokens / seen.seconds)
    tried = [
        Tried(
            budget=budget,
            batches=len(rates),
            tokens_per_s=median(rates),
            low=quantile(rates, 0.05),
            high=quantile(rates, 0.95),
        )
        for budget, rates in sorted(reached.items())
    ]
    memory = [(max(0.0, s.at - start), s.memory) for s, _ in events if isinstance(s, TunerSeen)]
    return Budgets(steps=tuple(_thin(steps)), tried=tuple(tried), memory=tuple(_thin(memory)), last=last)


def shapes(events: Events) -> list[Shape]:
    """Batches by the length of their longest item, in steps of a factor of two."""
    sums: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for seen, n in events:
        if isinstance(seen, BatchSeen) and not seen.error:
            entry = sums[1 << max(0, (seen.longest - 1).bit_length())]
            for i, value in enumerate((1, seen.items, seen.tokens, seen.padded_tokens)):
                entry[i] += value * n
    return [
        Shape(up_to=up_to, batches=of[0], items=of[1], tokens=of[2], padded_tokens=of[3])
        for up_to, of in sorted(sums.items())
    ]


def lengths(events: Events) -> list[tuple[int, int]]:
    """Items by their tokens, in steps of a factor of two, none left out between the shortest and the longest."""
    found: Counter[int] = Counter()
    for seen, n in events:
        if isinstance(seen, WindowSeen):
            for power, count in enumerate(seen.lengths):
                found[power] += count * n
    there = [power for power, count in found.items() if count > 0]
    return [(1 << power, found[power]) for power in range(min(there), max(there) + 1)] if there else []


def plain_tokens(events: Events) -> int:
    """Padded tokens of everything in the order of the input, 32 at a time."""
    return sum(seen.plain_tokens * n for seen, n in events if isinstance(seen, WindowSeen))


def parts(events: Events, totals: Totals, *, seconds: float) -> list[Part]:
    """Where the time went. Threads work side by side, so that parts of different threads may add up to more."""
    reading = sum(seen.seconds * n for seen, n in events if isinstance(seen, WindowSeen))
    writing = sum(seen.seconds * n for seen, n in events if isinstance(seen, BlockSeen))
    found = [Part(name="reading and tokenising", seconds=reading, note="one thread")] if reading else []
    if totals.device_seconds and totals.streams:
        streams = totals.streams
        each = totals.device_seconds / streams
        word = f"mean of {streams} streams" if streams > 1 else "one stream"
        found.append(Part(name="computing", seconds=each, note=word))
        found.append(
            Part(name="streams waiting", seconds=max(0.0, seconds - each), note="for batches to compute")
        )
    calls = [(s.at, s.at + s.seconds) for s, _ in events if isinstance(s, CallSeen)]
    jobs = _job_times(events)
    if calls:
        found.append(Part(name="calls under way", seconds=covered(calls), note="at least one"))
    if jobs:
        found.append(Part(name="jobs under way", seconds=covered(jobs), note="at least one"))
    if totals.wait_s:
        found.append(Part(name="waiting with nothing under way", seconds=totals.wait_s))
    if writing:
        found.append(Part(name="writing", seconds=writing, note="one thread"))
    return found


def _job_times(events: Events) -> list[tuple[float, float]]:
    first: dict[int, float] = {}
    last: dict[int, float] = {}
    for seen, _ in events:
        if isinstance(seen, JobSeen):
            first[seen.id] = min(seen.at, first.get(seen.id, seen.at))
            last[seen.id] = max(seen.at, last.get(seen.id, seen.at))
    return [(first[id_], last[id_]) for id_ in first]


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds within at least one of some spans of time."""
    total, until = 0.0, -math.inf
    for start, end in sorted(spans):
        if end > until:
            total += end - max(start, until)
            until = end
    return total


def latencies(events: Events, *, start: float, end: float, number: int = 60) -> list[Latency]:
    """How long asks took, over time; stretches without one are left out."""
    asks = [(seen, n) for seen, n in events if isinstance(seen, AskSeen)]
    if not asks or end <= start:
        return []
    width = (end - start) / number
    by_bin: dict[int, list[tuple[AskSeen, int]]] = defaultdict(list)
    for seen, n in asks:
        by_bin[min(number - 1, max(0, int((seen.at - start) / width)))].append((seen, n))
    found = []
    for i in sorted(by_bin):
        some = by_bin[i]
        took = [seen.seconds for seen, _ in some if seen.outcome == "answered"] or [0.0]
        found.append(
            Latency(
                start=i * width,
                end=(i + 1) * width,
                asks=sum(n for _, n in some),
                p50_s=quantile(took, 0.5),
                p95_s=quantile(took, 0.95),
                p99_s=quantile(took, 0.99),
                refused=sum(n for seen, n in some if seen.outcome != "answered"),
            )
        )
    return found


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all values reach or stay below; 0.0 of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))] if ordered else 0.0


def _thin(points: Sequence[Any]) -> list[Any]:
    """At most so many points, the last one among them."""
    if len(points) <= _MOST_POINTS:
        return list(points)
    step = -(-len(points) // _MOST_POINTS)
    kept = list(points[::step])
    return kept if kept[-1] is points[-1] else [*kept, points[-1]]
