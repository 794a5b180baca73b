"""A run beside what else could have been done: other ways through a provider, or batches that are not planned.

Only what the record says: forecasts that were made before the run, its own bill, and the lengths of its texts. What was
not measured is called an estimate. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embatch.frontends.report.figures import Alternative
from embatch.frontends.report.sums import plain_tokens
from embatch.seen_lanes import LaneSeen, OutlookSeen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embatch.frontends.report.figures import Totals
    from embatch.storage.run_archive import RunRecord

_WAYS = {
    "individual": "everything by calls",
    "batch": "everything as jobs",
    "hybrid": "a head by calls, the rest as jobs",
    "auto": "what embatch would choose",
}


def alternatives(
    record: RunRecord, totals: Totals, *, seconds: float, lanes: bool
) -> tuple[list[Alternative], str]:
    """The run and its alternatives, and a sentence on what they rest on; nothing if nothing honest can be said."""
    return _of_lanes(record, totals, seconds) if lanes else _of_batches(record, totals)


def _of_lanes(record: RunRecord, totals: Totals, seconds: float) -> tuple[list[Alternative], str]:
    told: Mapping[str, Any] = (record.foot.get("report") or {}).get("lanes") or {}
    begun = [seen for seen, _ in record.events if isinstance(seen, LaneSeen)]
    strategy = str(told.get("strategy") or (begun[0].strategy if begun else "auto"))
    driven = told.get("seconds")
    this = Alternative(
        name=f"this run ({strategy})",
        seconds=float(driven) if isinstance(driven, int | float) else seconds,
        dollars=totals.dollars,
        note="measured",
        this=True,
    )
    found = [this]
    outlooks = [seen for seen, _ in record.events if isinstance(seen, OutlookSeen)]
    first = outlooks[0].at if outlooks else 0.0
    for seen in outlooks:
        if seen.at - first > 1.0:  # of a later part of the run
            break
        name = _WAYS.get(seen.strategy, seen.strategy)
        if seen.strategy == strategy:
            name = "this strategy, as expected before"
        found.append(
            Alternative(
                name=name,
                seconds=seen.seconds,
                dollars=seen.dollars,
                note=_mix(seen) + ("" if seen.afforded else "; the budget does not suffice"),
                low_s=seen.seconds_p10,
                high_s=seen.seconds_p90,
            )
        )
    note = (
        "The others were not gone: their times and prices are what was to be expected when the run began, from the "
        "price list and from what was known of the provider. Bars span what 8 of 10 such runs should take."
    )
    if len(found) == 1:
        note = "Nothing was reckoned before the run, since it had one text or none to send."
    return found, f"{note} {saved}".strip() if (saved := _saved(told)) else note


def _mix(seen: OutlookSeen) -> str:
    parts = [
        f"{seen.call_items:,} by calls" if seen.call_items else "",
        f"{seen.job_items:,} as jobs" if seen.job_items else "",
    ]
    return ", ".join(part for part in parts if part)


def _saved(told: Mapping[str, Any]) -> str:
    from embatch.frontends.view import dollars, duration

    words = []
    seconds, money = told.get("saved_seconds"), told.get("saved_dollars")
    if isinstance(seconds, int | float) and seconds and told.get("calls"):
        words.append(f"{duration(abs(seconds))} {'less' if seconds > 0 else 'more'} than all as jobs")
    if isinstance(money, int | float) and abs(money) > 1e-9 and told.get("priced", True):
        words.append(f"{dollars(abs(money))} {'less' if money > 0 else 'more'} than all by calls")
    return f"Afterwards the run reckoned that it took {' and cost '.join(words)}." if words else ""


def _of_batches(record: RunRecord, totals: Totals) -> tuple[list[Alternative], str]:
    """Against batches of 32 in the order of the input, where shorter texts are padded."""
    plain = plain_tokens(record.events)
    if str(record.head.get("cost") or _about(record).get("cost")) == "packed":
        return (
            [],
            "This model pads nothing: batches in the order of the input would have computed the same tokens.",
        )
    whole = bool(record.foot.get("report")) and record.foot.get("state") == "done"
    if not plain or not totals.padded_tokens or not totals.device_seconds or not whole:
        return [], ""
    each = totals.device_seconds / max(1, totals.streams)
    rate = totals.padded_tokens / each
    this = Alternative(
        name="this run, in planned batches",
        seconds=each,
        dollars=None,
        note=f"{totals.padded_tokens:,} tokens computed, measured",
        this=True,
    )
    other = Alternative(
        name="batches of 32 in input order",
        seconds=plain / rate,
        dollars=None,
        note=f"{plain:,} tokens computed, estimated",
    )
    return [this, other], (
        "Time of computing alone. The tokens that batches of 32 in the order of the input would have computed are "
        "counted from the lengths of this run's texts; their time is an estimate: as many tokens a second as this run."
    )


def _about(record: RunRecord) -> Mapping[str, Any]:
    about = record.foot.get("about")
    return about if isinstance(about, dict) else {}
