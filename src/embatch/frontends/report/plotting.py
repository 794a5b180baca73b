"""What all pictures of a report share: what a picture is, colours, axes, and Plotly itself.

Colours stand out on white and on black; what depends on the page's theme is left to the page.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embatch.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Sequence

BLUE, ORANGE, RED, GREEN, GREY, VIOLET = "#3b82f6", "#d97706", "#e11d48", "#10a37f", "#8a94a6", "#8b5cf6"
_ROWS = 60  # of a table beside a picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What a range of colours means."""

    name: str
    low: str
    high: str
    shades: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A picture."""

    name: str
    """Its id in the page."""
    title: str
    summary: str
    """What it shows, in a sentence."""
    figure: dict[str, Any]
    """As Plotly takes it, without a theme."""
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """The same numbers, put together where they are many."""
    scale: Scale | None = None


def graph_objects() -> Any:
    """Plotly's figures.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import plotly.graph_objects
    except ImportError as error:
        raise MissingExtraError(
            "the pictures of a report need Plotly, which is not installed",
            hint='Run: pip install "embatch[report]"',
        ) from error
    return plotly.graph_objects


def figure_of(traces: Sequence[Any], **layout: Any) -> dict[str, Any]:
    """A figure as plain data."""
    from plotly.utils import PlotlyJSONEncoder

    go = graph_objects()
    found = go.Figure(data=list(traces), layout={"height": 320, **layout}).to_plotly_json()
    found["layout"].pop("template", None)
    plain: dict[str, Any] = json.loads(json.dumps(found, cls=PlotlyJSONEncoder))
    return plain


def time_unit(seconds: float) -> tuple[float, str]:
    """What a time axis counts in: seconds of one, and its name."""
    for size, name in ((3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 3 * size:
            return size, name
    return 1.0, "seconds"


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with a title."""
    return {"title": {"text": title}, "automargin": True, **more}


def time_axis(unit: str) -> dict[str, Any]:
    """An axis of the time since the run's start."""
    return axis(f"{unit} since the start", rangemode="tozero")


def right_axis(title: str, **more: Any) -> dict[str, Any]:
    """A second axis, on the right."""
    return axis(title, overlaying="y", side="right", showgrid=False, tickmode="auto", nticks=5, **more)


def curve(name: str, at: Sequence[float], values: Sequence[float], **more: Any) -> Any:
    """A line through values; `more` is a trace's, such as `line` and `yaxis`."""
    return graph_objects().Scatter(name=name, x=at, y=values, **{"mode": "lines", **more})


def error_bars(
    above: Sequence[float | None], below: Sequence[float | None], *, colour: str, thickness: float
) -> dict[str, Any]:
    """How far values reach up and down, each by its own."""
    return {
        "type": "data",
        "symmetric": False,
        "array": above,
        "arrayminus": below,
        "color": colour,
        "thickness": thickness,
    }


def sampled(rows: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """At most so many rows, evenly."""
    step = max(1, -(-len(rows) // _ROWS))
    return tuple(rows[::step])
