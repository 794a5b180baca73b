"""A report as one HTML file that holds everything it needs: nothing is fetched when it is opened.

Whatever comes from a user or a provider is escaped; a content security policy forbids every script but the page's own
two, by their digests, and every connection.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from datetime import UTC, datetime
from importlib.resources import files
from typing import TYPE_CHECKING

from embatch._version import __version__
from embatch.frontends.report.plots import plots
from embatch.frontends.view import duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from embatch.frontends.report.figures import Figures
    from embatch.frontends.report.plotting import Plot

_KINDS = {
    "embed": "Embedding",
    "index": "Indexing",
    "generate": "Generating",
    "serve": "Serving",
}
_DRAWN = "The page fetches nothing; its pictures are drawn by Plotly.js (MIT licence), which it holds."
_e = html.escape


def page(figures: Figures) -> str:
    """The HTML of a report.

    Raises:
        MissingExtraError: Plotly is not installed.
    """
    pictures = plots(figures)
    from plotly.offline import get_plotlyjs

    library, script = get_plotlyjs(), _asset("report.js")
    told = json.dumps({plot.name: plot.figure for plot in pictures}, separators=(",", ":"))
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(library, script)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="referrer" content="no-referrer">',
        '<link rel="icon" href="data:,">',
        f"<title>{_e(_title(figures))}</title>",
        f"<style>\n{_asset('report.css')}</style>",
        "</head>",
        "<body>",
        '<a class="skip" href="#report">Skip to the report</a>',
        *_header(figures),
        '<main id="report">',
        *_pictures(figures, pictures),
        *_failures(figures),
        *_decisions(figures),
        *_facts(figures),
        "</main>",
        f"<footer>Made by embatch {_e(__version__)} from the record of run {_e(figures.id)}. {_DRAWN}</footer>",
        f'<script type="application/json" id="figures">{_as_data(told)}</script>',
        f"<script>{library}</script>",
        f"<script>{script}</script>",
        "</body>",
        "</html>",
        "",
    ]
    return "\n".join(parts)


def _title(figures: Figures) -> str:
    return f"{_KINDS.get(figures.kind, figures.kind)}: run {figures.id}"


def _asset(name: str) -> str:
    return files("embatch.frontends.report").joinpath(name).read_text("utf-8")


def _policy(*scripts: str) -> str:
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    listed = " ".join(f"'sha256-{digest}'" for digest in digests)
    # Plotly sets styles on what it draws, and makes images of it from data of its own.
    return (
        f"default-src 'none'; script-src {listed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _as_data(told: str) -> str:
    """JSON that no parser of HTML takes for an end of the script, or a comment."""
    return told.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _header(figures: Figures) -> Iterator[str]:
    when = datetime.fromtimestamp(figures.started, UTC)
    yield "<header>"
    stamp = f"{when:%Y-%m-%d %H:%M:%S} UTC"
    yield (
        f'<p class="over"><code>embatch {_e(figures.kind)}</code>, run {_e(figures.id)}, '
        f'<time datetime="{when.isoformat(timespec="seconds")}">{stamp}</time></p>'
    )
    model = f" with {_e(figures.model)}" if figures.model else ""
    name = _KINDS.get(figures.kind, figures.kind)
    yield (
        f'<h1>{_e(name)}{model} <span class="state state-{_e(figures.state)}">{_e(figures.state)}</span></h1>'
    )
    yield f'<p class="lead">{_e(figures.words)}</p>'
    if figures.notes:
        yield '<ul class="notes">'
        yield from (f"<li>{_e(note)}</li>" for note in figures.notes)
        yield "</ul>"
    yield '<dl class="heads">'
    for one in figures.headlines:
        note = f'<dd class="note">{_e(one.note)}</dd>' if one.note else ""
        yield f"<div><dt>{_e(one.label)}</dt><dd>{_e(one.value)}</dd>{note}</div>"
    yield "</dl></header>"


def _pictures(figures: Figures, pictures: Iterable[Plot]) -> Iterator[str]:
    drawn = set()
    for plot in pictures:
        drawn.add(plot.name)
        name = _e(plot.name)
        yield f'<section aria-labelledby="head-{name}"><h2 id="head-{name}">{_e(plot.title)}</h2>'
        yield f"<p>{_e(plot.summary)}</p>"
        yield f'<div class="plot" id="plot-{name}" role="img" aria-label="{_e(plot.title)}: {_e(plot.summary)}"></div>'
        if plot.scale is not None:
            shades = ", ".join(plot.scale.shades)
            ramp = f'<span class="ramp" style="background: linear-gradient(90deg, {_e(shades)})"></span>'
            yield f'<p class="scale">{_e(plot.scale.name)}: {_e(plot.scale.low)} {ramp} {_e(plot.scale.high)}</p>'
        if plot.name == "ways":
            yield f"<p>{_e(figures.alternatives_note)}</p>"
            yield from _table(plot.columns, plot.rows, label=plot.title)
        else:
            yield "<details><summary>The same as a table</summary>"
            yield from _table(plot.columns, plot.rows, label=plot.title)
            yield "</details>"
        yield "</section>"
    if "ways" not in drawn and figures.alternatives_note:
        yield '<section aria-labelledby="head-ways"><h2 id="head-ways">Against the alternatives</h2>'
        yield f"<p>{_e(figures.alternatives_note)}</p></section>"


def _table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, label: str, long: frozenset[str] = frozenset()
) -> Iterator[str]:
    """A table in a frame of its own, which scrolls by keyboard."""
    yield f'<div class="scroll" tabindex="0" role="region" aria-label="{_e(label)}, table"><table><thead><tr>'
    yield "".join(f'<th scope="col">{_e(column)}</th>' for column in columns)
    yield "</tr></thead><tbody>"
    for row in rows:
        cells = zip(columns, row, strict=True)
        yield (
            "<tr>"
            + "".join(
                f'<td class="long">{_e(cell)}</td>' if column in long else f"<td>{_e(cell)}</td>"
                for column, cell in cells
            )
            + "</tr>"
        )
    yield "</tbody></table></div>"


def _failures(figures: Figures) -> Iterator[str]:
    yield '<section aria-labelledby="head-failures"><h2 id="head-failures">Failures</h2>'
    if not figures.failures:
        known = (
            "None was recorded." if figures.totals.failed else f"None: every {figures.noun} has its result."
        )
        yield f"<p>{_e(known)}</p></section>"
        return
    counted = ", ".join(f"{number:,} × {error}" for error, number in figures.failures_by_error)
    yield f"<p>{_e(counted)}</p>"
    rows = [(one.key, one.source, one.error, one.message) for one in figures.failures]
    long = frozenset({"key", "where", "why"})
    yield from _table(("key", "where", "error", "why"), rows, label="Failures", long=long)
    yield "</section>"


def _decisions(figures: Figures) -> Iterator[str]:
    if not figures.decisions:
        return
    yield '<section aria-labelledby="head-decisions"><h2 id="head-decisions">What was decided, and why</h2>'
    yield '<ol class="decisions" tabindex="0" aria-label="Decisions">'
    for at, text in figures.decisions:
        yield f"<li><time>after {_e(duration(at))}</time><span>{_e(text)}</span></li>"
    yield "</ol></section>"


def _facts(figures: Figures) -> Iterator[str]:
    if not figures.facts:
        return
    yield '<section aria-labelledby="head-facts"><h2 id="head-facts">Settings and versions</h2>'
    yield '<div class="scroll" tabindex="0" role="region" aria-label="Settings and versions"><table><tbody>'
    for name, value in figures.facts:
        yield f'<tr><th scope="row">{_e(name)}</th><td class="long">{_e(value)}</td></tr>'
    yield "</tbody></table></div></section>"
