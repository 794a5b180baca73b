"""All pictures of a report, in the order in which the page shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embatch.frontends.report.plots_how import (
    budgets_plot,
    lengths_plot,
    shapes_plot,
    time_plot,
    tried_plot,
    ways_plot,
)
from embatch.frontends.report.plots_when import done_plot, latency_plot, throughput_plot, timeline_plot

if TYPE_CHECKING:
    from embatch.frontends.report.figures import Figures
    from embatch.frontends.report.plotting import Plot

_MADE = (
    timeline_plot,
    throughput_plot,
    done_plot,
    latency_plot,
    ways_plot,
    time_plot,
    budgets_plot,
    tried_plot,
    shapes_plot,
    lengths_plot,
)


def plots(figures: Figures) -> list[Plot]:
    """All pictures that have something to show.

    Raises:
        MissingExtraError: Plotly is not installed.
    """
    return [plot for make in _MADE if (plot := make(figures)) is not None]
