"""A report for a terminal: what was done in lines of 80 columns, without pictures. Pure."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from embatch.frontends.report.plots_how import way_words
from embatch.frontends.view import duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embatch.frontends.report.figures import Figures

_COLUMNS = 80
_SHOWN = 5
_BAR = 24


def lines(figures: Figures) -> list[str]:
    """The report, in lines of at most 80 columns; keys and paths that are longer are cut in their middle."""
    return [line[:_COLUMNS].rstrip() for line in _lines(figures)]


def _lines(figures: Figures) -> Iterator[str]:
    model = f", {figures.model}" if figures.model else ""
    yield _shortened(f"run {figures.id}: {figures.kind}{model} ({figures.state})", _COLUMNS)
    yield ""
    yield from textwrap.wrap(figures.words, _COLUMNS)
    for note in figures.notes:
        yield from textwrap.wrap(f"Note: {note}", _COLUMNS, subsequent_indent="      ")
    yield ""
    for one in figures.headlines:
        yield f"  {one.label:<20} {one.value:>14}  {one.note}"
    if figures.time:
        yield from ("", "where the time went")
        most = max(part.seconds for part in figures.time) or 1.0
        for part in figures.time:
            bar = "█" * round(_BAR * part.seconds / most)
            yield f"  {part.name:<31} {duration(part.seconds):>14}  {bar}"
    yield from _ways(figures)
    if len(figures.budgets.tried) > 1:
        yield from ("", "tokens a batch: tokens/s of one stream (median)")
        for tried in sorted(figures.budgets.tried, key=lambda one: -one.tokens_per_s)[:_SHOWN]:
            mark = " ← in use at the end" if tried.budget == figures.budgets.last else ""
            yield f"  {tried.budget:>10,}: {tried.tokens_per_s:>12,.0f}  {tried.batches:>6,} batches{mark}"
    yield from _failures(figures)


def _ways(figures: Figures) -> Iterator[str]:
    if len(figures.alternatives) > 1:
        yield from ("", "against the alternatives")
        for way in figures.alternatives:
            yield f"  {way.name:<38} {', '.join(way_words(way))}"
    if figures.alternatives_note:
        yield from textwrap.wrap(
            figures.alternatives_note, _COLUMNS, initial_indent="  ", subsequent_indent="  "
        )


def _failures(figures: Figures) -> Iterator[str]:
    if not figures.failures:
        return
    yield from ("", "failures")
    for error, number in figures.failures_by_error:
        yield f"  {number:>6,} × {error}"
    for failure in figures.failures[:_SHOWN]:
        yield f"  {_shortened(failure.key, 26):<26} {_shortened(failure.message, 50)}"
    if (more := len(figures.failures) - _SHOWN) > 0:
        yield f"  … and {more:,} more: --html FILE or --json names all"


def _shortened(text: str, most: int) -> str:
    """The text on one line, with its middle left out if it is longer."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"
