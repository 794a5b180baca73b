"""Pictures over time: the time line, throughput, results and money, latency.

Text that comes from users is escaped, since Plotly reads some HTML in labels.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from embatch.frontends.report.plotting import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    VIOLET,
    Plot,
    Scale,
    axis,
    curve,
    figure_of,
    graph_objects,
    right_axis,
    sampled,
    time_axis,
    time_unit,
)
from embatch.frontends.report.wording import short
from embatch.frontends.view import dollars, duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.frontends.report.figures import Figures, Span, SpanKind

_COLOURS: dict[SpanKind, str] = {
    "reading": GREY,
    "writing": "#a8a29e",
    "batch": BLUE,
    "retry": ORANGE,
    "failed": RED,
    "call": BLUE,
    "refused": ORANGE,
    "call failed": RED,
    "queued": "#a5b4fc",
    "job": VIOLET,
    "job failed": RED,
    "wait": "#eab308",
}
_NAMES: dict[SpanKind, str] = {
    "reading": "reading and tokenising",
    "writing": "writing",
    "batch": "batch",
    "retry": "batch computed again",
    "failed": "batch that failed",
    "call": "call",
    "refused": "call refused for a quota",
    "call failed": "call that failed",
    "queued": "job submitted",
    "job": "job under way",
    "job failed": "job that failed",
    "wait": "waiting with nothing under way",
}
_SHADES = ("#22b8cf", "#6366f1", "#ec4899")  # of batches, from short texts to long ones
_NARROW = 12  # rows of bars that fit without making the picture taller


def timeline_plot(figures: Figures) -> Plot | None:
    """Streams, calls, jobs and waits as bars."""
    line = figures.timeline
    if not line.spans:
        return None
    size, unit = time_unit(figures.seconds)
    kinds: dict[SpanKind, list[Span]] = {}
    for span in line.spans:
        kinds.setdefault(span.kind, []).append(span)
    traces = [_bars(kind, spans, size) for kind, spans in kinds.items()]
    labels, places = _row_labels(line.rows)
    height = 150 + 34 * min(len(line.rows), _NARROW) + 7 * max(0, len(line.rows) - _NARROW)
    figure = figure_of(
        traces,
        height=height,
        barmode="overlay",
        bargap=0.18,
        xaxis=time_axis(unit),
        yaxis={
            "tickvals": places,
            "ticktext": labels,
            "range": [len(line.rows) - 0.4, -0.6],
            "automargin": True,
            "zeroline": False,
            "showgrid": False,
        },
        hovermode="closest",
    )
    names = ", ".join(_NAMES[kind] for kind in kinds)
    return Plot(
        name="timeline",
        title="What happened when",
        summary=f"Bars over {duration(figures.seconds)}, in {len(line.rows)} rows: {names}.",
        figure=figure,
        scale=_scale(kinds.get("batch", [])),
        columns=("row", "what", "from", "to", f"{figures.noun}s", "tokens", "note"),
        rows=sampled([_span_row(line.rows, span) for span in line.spans]),
    )


def _row_labels(rows: Sequence[str]) -> tuple[list[str], list[float]]:
    """Names of the rows where they have room; rows that share a first word get one in their middle otherwise."""
    if len(rows) <= _NARROW:
        return [html.escape(row) for row in rows], [float(i) for i in range(len(rows))]
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(row.split()[0] if row[-1:].isdigit() else row, []).append(i)
    labels = [html.escape(name) for name in groups]
    return labels, [sum(at) / len(at) for at in groups.values()]


def _bars(kind: SpanKind, spans: Sequence[Span], size: float) -> Any:
    colours: str | list[str] = _COLOURS[kind]
    if kind == "batch":
        most = max(span.longest for span in spans)
        colours = [_shade(span.longest, most) for span in spans]
    return graph_objects().Bar(
        name=_NAMES[kind],
        orientation="h",
        base=[span.start / size for span in spans],
        x=[max(0.0, span.end - span.start) / size for span in spans],
        y=[span.row for span in spans],
        marker={"color": colours, "line": {"width": 0}},
        hovertext=[_hover(span) for span in spans],
        hoverinfo="text",
        showlegend=kind != "batch",  # its colours have a scale of their own
    )


def _scale(batches: Sequence[Span]) -> Scale | None:
    """What the colours of batches mean."""
    most = max((span.longest for span in batches), default=0)
    return (
        Scale(name="batches by their longest text", low="1", high=f"{most:,} tokens", shades=_SHADES)
        if most
        else None
    )


def _shade(longest: int, most: int) -> str:
    """The colour of a length, on the way between three."""
    place = (len(_SHADES) - 1) * min(1.0, longest / max(1, most))
    at = min(len(_SHADES) - 2, int(place))
    low, high = (tuple(bytes.fromhex(_SHADES[i][1:])) for i in (at, at + 1))
    mixed = (round(a + (b - a) * (place - at)) for a, b in zip(low, high, strict=True))
    return "#" + bytes(mixed).hex()


def _hover(span: Span) -> str:
    parts = [
        f"{span.count:,} × {_NAMES[span.kind]}" if span.count > 1 else _NAMES[span.kind],
        f"{duration(span.start)} – {duration(span.end)}",
        f"{span.items:,} items, {span.tokens:,} tokens" if span.items else "",
        f"longest {span.longest:,} tokens" if span.longest else "",
        f"budget {span.budget:,} tokens" if span.budget else "",
        html.escape(span.note),
    ]
    return "<br>".join(part for part in parts if part)


def _span_row(rows: Sequence[str], span: Span) -> tuple[str, ...]:
    what = f"{span.count:,} × {_NAMES[span.kind]}" if span.count > 1 else _NAMES[span.kind]
    figures = (f"{span.items:,}" if span.items else "", f"{span.tokens:,}" if span.tokens else "")
    return (rows[span.row], what, duration(span.start), duration(span.end), *figures, span.note)


def throughput_plot(figures: Figures) -> Plot | None:
    """Tokens and items a second."""
    if not figures.bins:
        return None
    size, unit = time_unit(figures.seconds)
    middle = [(one.start + one.end) / 2 / size for one in figures.bins]
    tokens = curve(
        "tokens a second",
        middle,
        [one.tokens_per_s for one in figures.bins],
        line={"color": BLUE, "width": 2, "shape": "hvh"},
        fill="tozeroy",
        fillcolor="rgba(59,130,246,0.18)",
    )
    items = curve(
        f"{figures.noun}s a second",
        middle,
        [one.items_per_s for one in figures.bins],
        line={"color": ORANGE, "width": 1.5, "shape": "hvh"},
        yaxis="y2",
    )
    best = max(one.tokens_per_s for one in figures.bins)
    return Plot(
        name="throughput",
        title="Throughput of calls" if figures.totals.jobs else "Throughput",
        summary=f"Tokens and {figures.noun}s a second over time; at most {short(best)} tokens a second.",
        figure=figure_of(
            [tokens, items],
            xaxis=time_axis(unit),
            yaxis=axis("tokens/s", rangemode="tozero"),
            yaxis2=right_axis(f"{figures.noun}s/s", rangemode="tozero"),
            hovermode="x unified",
        ),
        columns=("from", "to", "tokens/s", f"{figures.noun}s/s"),
        rows=sampled(
            [
                (duration(b.start), duration(b.end), f"{b.tokens_per_s:,.0f}", f"{b.items_per_s:,.1f}")
                for b in figures.bins
            ]
        ),
    )


def done_plot(figures: Figures) -> Plot | None:
    """Items with a result, and dollars, over time."""
    if not figures.done:
        return None
    size, unit = time_unit(figures.seconds)
    at = [one.at / size for one in figures.done]
    items = curve(
        f"{figures.noun}s with a result",
        at,
        [one.items for one in figures.done],
        line={"color": VIOLET, "width": 4, "shape": "hv"},
    )
    paid = curve(
        "dollars",
        at,
        [one.dollars for one in figures.done],
        line={"color": GREEN, "width": 2, "shape": "hv", "dash": "dot"},
        yaxis="y2",
    )
    last = figures.done[-1]
    return Plot(
        name="done",
        title="Results and money",
        summary=f"{last.items:,} {figures.noun}s had a result after {duration(last.at)}, for {dollars(last.dollars)}.",
        figure=figure_of(
            [items, paid],
            xaxis=time_axis(unit),
            yaxis=axis(f"{figures.noun}s", rangemode="tozero"),
            yaxis2=right_axis("dollars", rangemode="tozero"),
            hovermode="x unified",
        ),
        columns=("after", f"{figures.noun}s", "dollars"),
        rows=sampled([(duration(d.at), f"{d.items:,}", dollars(d.dollars)) for d in figures.done]),
    )


def _marks(times: Sequence[float], worst: float) -> dict[str, Any]:
    """Marks of a logarithmic axis in milliseconds: 1, 2, 5, 10 and so on, as far as there are times."""
    low, high = 1000 * min(times), 1000 * worst
    marks = [n * 10.0**power for power in range(-3, 7) for n in (1, 2, 5)]
    kept = [mark for mark in marks if low / 2.5 <= mark <= high * 2.5]
    return {"tickvals": kept, "ticktext": [f"{mark:,g}" for mark in kept]}


def latency_plot(figures: Figures) -> Plot | None:
    """How long requests took, over time."""
    if not figures.latencies:
        return None
    size, unit = time_unit(figures.seconds)
    at = [(one.start + one.end) / 2 / size for one in figures.latencies]
    lines = (("p50", BLUE, "p50_s"), ("p95", ORANGE, "p95_s"), ("p99", RED, "p99_s"))
    traces = [
        curve(
            name,
            at,
            [getattr(one, field) * 1000 for one in figures.latencies],
            mode="lines+markers",
            marker={"size": 4},
            line={"color": colour, "width": 2},
        )
        for name, colour, field in lines
    ]
    worst = max(one.p99_s for one in figures.latencies)
    return Plot(
        name="latency",
        title="Latency of requests",
        summary=f"Half, 95 % and 99 % of the requests were answered within this; p99 at most {worst * 1000:,.0f} ms.",
        figure=figure_of(
            traces,
            xaxis=time_axis(unit),
            yaxis=axis("milliseconds", type="log", **_marks([one.p50_s for one in figures.latencies], worst)),
            hovermode="x unified",
        ),
        columns=("from", "requests", "p50, ms", "p95, ms", "p99, ms", "not answered"),
        rows=tuple(
            (
                duration(one.start),
                f"{one.asks:,}",
                f"{one.p50_s * 1000:,.1f}",
                f"{one.p95_s * 1000:,.1f}",
                f"{one.p99_s * 1000:,.1f}",
                f"{one.refused:,}",
            )
            for one in figures.latencies
        ),
    )
