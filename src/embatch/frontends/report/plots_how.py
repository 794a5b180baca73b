"""Pictures of how a run worked: the tuner's search, batches and padding, where the time went, the alternatives.

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
    VIOLET,
    Plot,
    axis,
    curve,
    error_bars,
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
    from collections.abc import Iterator, Sequence

    from embatch.frontends.report.figures import Alternative, Figures


def budgets_plot(figures: Figures) -> Plot | None:
    """The tuner's budgets over time."""
    found = figures.budgets
    if len(found.steps) < 2:
        return None
    size, unit = time_unit(figures.seconds)
    steps = [*found.steps, (figures.seconds, found.last or found.steps[-1][1])]
    traces = [
        curve(
            "budget of a batch",
            [at / size for at, _ in steps],
            [budget for _, budget in steps],
            line={"color": BLUE, "width": 1.5, "shape": "hv"},
        )
    ]
    if found.memory:
        traces.append(
            curve(
                "memory in use",
                [at / size for at, _ in found.memory],
                [share * 100 for _, share in found.memory],
                line={"color": GREY, "width": 1.5, "dash": "dot"},
                yaxis="y2",
            )
        )
    tried = len({budget for _, budget in found.steps})
    return Plot(
        name="budgets",
        title="The tuner's search",
        summary=f"The token budget of batches over time: {tried} budgets were tried, {steps[-1][1]:,} at the end.",
        figure=figure_of(
            traces,
            xaxis=time_axis(unit),
            yaxis=axis("tokens a batch", type="log", **_ticks([budget for _, budget in steps])),
            yaxis2=right_axis("memory, %", range=[0, 100]),
        ),
        columns=("from", "budget, tokens"),
        rows=sampled([(duration(at), f"{budget:,}") for at, budget in steps]),
    )


def _ticks(budgets: Sequence[int]) -> dict[str, Any]:
    """Marks at budgets that were used, not closer than a factor of 1.4 on a logarithmic axis."""
    kept: list[int] = []
    for budget in sorted(set(budgets)):
        if budget > 0 and (not kept or budget >= 1.4 * kept[-1]):
            kept.append(budget)
    return {"tickvals": kept, "ticktext": [f"{budget:,}" for budget in kept]}


def tried_plot(figures: Figures) -> Plot | None:
    """Speed by budget."""
    tried = figures.budgets.tried
    if len(tried) < 2:
        return None
    last = figures.budgets.last
    trace = graph_objects().Scatter(
        name="median, and 9 of 10 batches",
        x=[f"{one.budget:,}" for one in tried],
        y=[one.tokens_per_s for one in tried],
        error_y=error_bars(
            [one.high - one.tokens_per_s for one in tried],
            [one.tokens_per_s - one.low for one in tried],
            colour=GREY,
            thickness=1,
        ),
        mode="markers",
        marker={
            "size": [min(18, 6 + one.batches**0.5) for one in tried],
            "color": [GREEN if one.budget == last else BLUE for one in tried],
        },
        hovertext=[
            f"{one.budget:,} tokens: {short(one.tokens_per_s)} tokens/s, {one.batches:,} batches"
            for one in tried
        ],
        hoverinfo="text",
    )
    best = max(tried, key=lambda one: one.tokens_per_s)
    ended = f" The run ended with {last:,} (green)." if last else ""
    return Plot(
        name="tried",
        title="Speed by budget",
        summary=f"Fastest by the median: {best.budget:,} tokens a batch, {short(best.tokens_per_s)} tokens/s.{ended}",
        figure=figure_of(
            [trace],
            xaxis=axis("budget, tokens a batch", type="category"),
            yaxis=axis("tokens/s of one stream", rangemode="tozero"),
            showlegend=False,
        ),
        columns=("budget", "batches", "tokens/s, median", "from", "to"),
        rows=tuple(
            (
                f"{one.budget:,}",
                f"{one.batches:,}",
                f"{one.tokens_per_s:,.0f}",
                f"{one.low:,.0f}",
                f"{one.high:,.0f}",
            )
            for one in tried
        ),
    )


def shapes_plot(figures: Figures) -> Plot | None:
    """Tokens and padding by the length of batches."""
    shapes = figures.shapes
    if not shapes:
        return None
    go = graph_objects()
    at = [_up_to(one.up_to) for one in shapes]
    real = go.Bar(name="tokens of texts", x=at, y=[one.tokens for one in shapes], marker={"color": BLUE})
    padding = go.Bar(
        name="padding",
        x=at,
        y=[max(0, one.padded_tokens - one.tokens) for one in shapes],
        marker={"color": ORANGE},
        hovertext=[f"{one.padding:.1%} padding" for one in shapes],
    )
    return Plot(
        name="shapes",
        title="Batches and padding",
        summary=f"Tokens by the longest text of their batch; {figures.totals.padding:.1%} of all were padding.",
        figure=figure_of(
            [real, padding],
            barmode="stack",
            xaxis=axis("longest text of a batch, tokens", type="category"),
            yaxis=axis("tokens computed"),
        ),
        columns=("longest text", "batches", "texts a batch", "tokens", "padding"),
        rows=tuple(
            (
                _up_to(one.up_to),
                f"{one.batches:,}",
                f"{one.items / max(1, one.batches):,.1f}",
                f"{one.tokens:,}",
                f"{one.padding:.1%}",
            )
            for one in shapes
        ),
    )


def lengths_plot(figures: Figures) -> Plot | None:
    """How long the items were."""
    if not figures.lengths:
        return None
    bar = graph_objects().Bar(
        x=[_up_to(up_to) for up_to, _ in figures.lengths],
        y=[count for _, count in figures.lengths],
        marker={"color": VIOLET},
    )
    most = max(figures.lengths, key=lambda one: one[1])
    return Plot(
        name="lengths",
        title=f"Lengths of the {figures.noun}s",
        summary=f"How many had how many tokens; most had {_up_to(most[0])}.",
        figure=figure_of(
            [bar],
            height=260,
            xaxis=axis("tokens", type="category"),
            yaxis=axis(f"{figures.noun}s"),
            showlegend=False,
        ),
        columns=("tokens", f"{figures.noun}s"),
        rows=tuple((_up_to(up_to), f"{count:,}") for up_to, count in figures.lengths),
    )


def _up_to(tokens: int) -> str:
    """`33–64`: more than half, up to this."""
    return f"{tokens // 2 + 1}–{tokens}" if tokens > 2 else str(tokens)


def time_plot(figures: Figures) -> Plot | None:
    """Where the time went."""
    if not figures.time:
        return None
    size, unit = time_unit(figures.seconds)
    parts = figures.time[::-1]
    colours = {"computing": BLUE, "calls under way": BLUE, "jobs under way": VIOLET}
    bar = graph_objects().Bar(
        orientation="h",
        y=[part.name for part in parts],
        x=[part.seconds / size for part in parts],
        marker={
            "color": [colours.get(part.name, ORANGE if "waiting" in part.name else GREY) for part in parts]
        },
        text=[duration(part.seconds) for part in parts],
        textposition="auto",
        hovertext=[f"{part.name}: {duration(part.seconds)} {part.note}" for part in parts],
        hoverinfo="text",
    )
    words = ", ".join(f"{part.name} {duration(part.seconds)}" for part in figures.time)
    return Plot(
        name="time",
        title="Where the time went",
        summary=f"Of {duration(figures.seconds)}, side by side: {words}.",
        figure=figure_of(
            [bar],
            height=110 + 36 * len(parts),
            xaxis=axis(unit, rangemode="tozero"),
            yaxis={"automargin": True},
            showlegend=False,
        ),
        columns=("what", "time", "share of the run", "of what"),
        rows=tuple(
            (
                part.name,
                duration(part.seconds),
                f"{part.seconds / figures.seconds:.0%}" if figures.seconds else "",
                part.note,
            )
            for part in figures.time
        ),
    )


def ways_plot(figures: Figures) -> Plot | None:
    """The run beside its alternatives."""
    ways = figures.alternatives
    timed = [way for way in ways if way.seconds is not None]
    if len(timed) < 2:
        return None
    size, unit = time_unit(max(way.high_s or way.seconds or 0.0 for way in timed))
    shown = timed[::-1]
    seconds = [way.seconds or 0.0 for way in shown]
    bar = graph_objects().Bar(
        orientation="h",
        y=[html.escape(way.name) for way in shown],
        x=[one / size for one in seconds],
        marker={"color": [GREEN if way.this else GREY for way in shown]},
        error_x=_error_bars(shown, size),
        hovertext=[html.escape(": ".join((way.name, ", ".join(way_words(way))))) for way in shown],
        hoverinfo="text",
    )
    return Plot(
        name="ways",
        title="Against the alternatives",
        summary="; ".join(f"{way.name}: {', '.join(way_words(way))}" for way in ways) + ".",
        figure=figure_of(
            [bar],
            height=120 + 40 * len(shown),
            xaxis=axis(unit, rangemode="tozero"),
            yaxis={"automargin": True},
            showlegend=False,
        ),
        columns=("way", "time", "cost", "how it is known")
        if figures.lanes
        else ("way", "time", "how it is known"),
        rows=tuple(_way_rows(ways, priced=figures.lanes)),
    )


def _error_bars(ways: Sequence[Alternative], size: float) -> dict[str, Any] | None:
    """The spans of those ways that have one."""
    above = [_off(way.high_s, way.seconds, size) for way in ways]
    below = [_off(way.seconds, way.low_s, size) for way in ways]
    if not any(above) and not any(below):
        return None
    return error_bars(above, below, colour=ORANGE, thickness=1.5)


def _off(high: float | None, low: float | None, size: float) -> float | None:
    """How far two times lie apart, in units; None if there is nothing between."""
    return None if high is None or low is None or high <= low else (high - low) / size


def way_words(way: Alternative) -> list[str]:
    """Time and cost of one way."""
    found = [] if way.seconds is None else [duration(way.seconds)]
    return found if way.dollars is None else [*found, dollars(way.dollars)]


def _way_rows(ways: Sequence[Alternative], *, priced: bool) -> Iterator[tuple[str, ...]]:
    for way in ways:
        seconds = "" if way.seconds is None else duration(way.seconds)
        if way.low_s is not None and way.high_s is not None and way.high_s > way.low_s:
            seconds += f" ({duration(way.low_s)} – {duration(way.high_s)})"
        money = ("" if way.dollars is None else dollars(way.dollars),) if priced else ()
        yield way.name, seconds, *money, way.note
