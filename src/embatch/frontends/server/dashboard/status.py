"""How a server stands, as the plain data that the page draws: shapes only, no clock and no I/O of its own.

Between what the server's parts say (the board, each model's `Snapshot`, jobs, memory) and `live`, which sends it. What
grows with time comes in columns, so that a page that has the beginning is sent the rest only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embatch.serving import Priority

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from embatch.serving import Snapshot
    from embatch.storage.served_jobs import ServedJob

MOST_BATCHES = 160
"""Batches in one message; of more, evenly chosen ones."""

_COUNTS = ("asks", "answered", "refused", "expired", "cancelled", "failed", "inputs", "batches")
_KINDS = ("waiting_tokens", "room", "running", "streams", "tokens", "padded_tokens", "budget", "settled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """What cannot be counted but only looked at, at one moment."""

    at: float
    """Seconds since the epoch."""
    interactive: int
    """Inputs that wait, by priority,"""
    batch: int
    running: int
    """and that are being computed."""
    rss_bytes: int
    budget: int
    """Token budget of the first open model; 0 while none is open."""
    p50: float | None = None
    """Seconds to the answer, over the last minute."""
    p90: float | None = None
    p99: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSeen:
    """A served model and how it stands."""

    name: str
    model: str
    """What `Embedder` calls it."""
    provider: bool
    """Whether calls to an API stand behind it."""
    snapshot: Snapshot | None
    """None while it is not open."""


def gauge_of(models: Iterable[ModelSeen], recent: Mapping[str, Any], *, at: float, rss_bytes: int) -> Gauge:
    """One look at all models together."""
    open_ones = [model.snapshot for model in models if model.snapshot is not None]
    times = recent.get("latency_s") or {}
    return Gauge(
        at=at,
        interactive=sum(each.waiting.get(Priority.INTERACTIVE, 0) for each in open_ones),
        batch=sum(each.waiting.get(Priority.BATCH, 0) for each in open_ones),
        running=sum(each.running for each in open_ones),
        rss_bytes=rss_bytes,
        budget=open_ones[0].budget if open_ones else 0,
        p50=times.get("p50"),
        p90=times.get("p90"),
        p99=times.get("p99"),
    )


def gauge_columns(gauges: Iterable[Gauge], *, since: float) -> dict[str, list[Any]]:
    """Gauges after `since`, oldest first, a column a field."""
    chosen = [gauge for gauge in gauges if gauge.at > since]
    return {name: [getattr(gauge, name) for gauge in chosen] for name in Gauge.__slots__}


def second_columns(seconds: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The board's seconds, a column a field: texts and tokens are those computed in it, or answered from a cache."""
    return {
        "at": [each["at"] for each in seconds],
        "texts": [max(each["items"], each["inputs"]) for each in seconds],
        "tokens": [max(each["real_tokens"], each["tokens"]) for each in seconds],
        "asks": [each["asks"].get("answered", 0) for each in seconds],
        "turned_away": [
            sum(count for outcome, count in each["asks"].items() if outcome != "answered") for each in seconds
        ],
    }


def batch_columns(batches: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The board's batches, a column a field; evenly chosen ones, the last among them, if there are very many."""
    if len(batches) > MOST_BATCHES:
        step = len(batches) / MOST_BATCHES
        batches = [batches[int((at + 1) * step) - 1] for at in range(MOST_BATCHES)]
    plain = ("model", "items", "longest", "tokens", "padded_tokens", "budget", "fresh")
    return {
        "at": [round(each["at"] + each["seconds"], 3) for each in batches],
        "seconds": [round(each["seconds"], 6) for each in batches],
        "failed": [bool(each["error"]) for each in batches],
        **{name: [each[name] for each in batches] for name in plain},
    }


def model_row(seen: ModelSeen) -> dict[str, Any]:
    """A model, as the page lists it."""
    row: dict[str, Any] = {"name": seen.name, "model": seen.model, "provider": seen.provider}
    snapshot = seen.snapshot
    if snapshot is None:
        return row | {"state": "not open"}
    if not snapshot.alive:
        state = "failed"
    elif snapshot.running:
        state = "working"
    else:
        state = "idle"
    return row | {
        "state": state,
        "waiting": {str(priority): count for priority, count in snapshot.waiting.items()},
        **{name: getattr(snapshot, name) for name in (*_COUNTS, *_KINDS)},
        "device_seconds": round(snapshot.device_seconds, 3),
        "tokens_per_s": round(snapshot.tokens_per_s, 1),
        "dollars": snapshot.dollars,
    }


def job_row(job: ServedJob) -> dict[str, Any]:
    """A batch job, as the page lists it."""
    return {
        "id": job.id,
        "status": job.status,
        "model": job.model or "",
        "total": job.total,
        "done": job.done.completed + job.done.failed,
        "failed": job.done.failed,
        "created": job.created,
        "ended": job.ended is not None,
    }


def queue_of(models: Iterable[ModelSeen]) -> dict[str, int]:
    """All queues together."""
    open_ones = [model.snapshot for model in models if model.snapshot is not None]
    return {
        "interactive": sum(each.waiting.get(Priority.INTERACTIVE, 0) for each in open_ones),
        "batch": sum(each.waiting.get(Priority.BATCH, 0) for each in open_ones),
        "tokens": sum(each.waiting_tokens for each in open_ones),
        "running": sum(each.running for each in open_ones),
        "room": sum(each.room for each in open_ones),
    }


def money_of(
    models: Iterable[ModelSeen], *, today: float | None, limit_per_day: float | None
) -> dict[str, Any] | None:
    """Lanes and dollars of providers' models; None where none is served.

    Args:
        models: all that are served.
        today: dollars of this day, over restarts; None if nobody keeps them.
        limit_per_day: dollars.
    """
    behind = [model for model in models if model.provider]
    if not behind:
        return None
    open_ones = [model.snapshot for model in behind if model.snapshot is not None]
    return {
        "dollars": sum(each.dollars for each in open_ones),
        "today": today,
        "limit_per_day": limit_per_day,
        "calls": sum(each.batches for each in open_ones),
        "texts_under_way": sum(each.running for each in open_ones),
        "senders": sum(each.streams for each in open_ones),
    }


def latency_of(recent: Mapping[str, Any], priorities: Mapping[str, Any]) -> dict[str, Any]:
    """Percentiles over the last minute, in milliseconds: of all asks, and by priority where there are several."""
    rows = {"all": recent}
    if len(priorities) > 1:
        rows |= {name: figures["recent"] for name, figures in priorities.items()}
    return {
        name: {"total": _milliseconds(row["latency_s"]), "wait": _milliseconds(row["wait_s"])}
        for name, row in rows.items()
        if row.get("latency_s", {}).get("count") or name == "all"
    }


def _milliseconds(times: Mapping[str, Any]) -> dict[str, Any]:
    shares = {name: times.get(name) for name in ("p50", "p90", "p99")}
    return {"count": times.get("count", 0)} | {
        name: None if value is None else round(1000 * value, 2) for name, value in shares.items()
    }
