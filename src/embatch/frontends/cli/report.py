"""`embatch report [RUN]`: what a run did, on the terminal or as one HTML file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from embatch.errors import UsageError

if TYPE_CHECKING:
    from embatch.frontends.report.figures import Figures
    from embatch.storage.run_archive import KnownRecord

_LISTED = 50


@click.command(short_help="Show what a run did, as one HTML file or in lines.")
@click.argument("run", required=False, default="last", metavar="[RUN]")
@click.option(
    "--html",
    "page",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="One self-contained page with pictures.",
)
@click.option("--open/--no-open", "opened", default=False, help="Show the page in a browser.  [no]")
@click.option("--list", "listed", is_flag=True, help="List the runs that are recorded.")
@click.option("--json", "as_json", is_flag=True, help="All figures as one JSON object.")
def report(*, run: str, page: Path | None, opened: bool, listed: bool, as_json: bool) -> int:
    """Report on a run of `embed`, `index`, `generate` or `serve`.

    RUN is its id or the beginning of one, the file it made, or `last`, which is also the default. Runs are recorded as
    they go, also those that are killed; the newest 100 are kept. A record holds keys and paths, and no texts.
    """
    from embatch.frontends.report.gathering import gather
    from embatch.storage.run_archive import find_record, known_records, read_record

    if opened and page is None:
        raise UsageError("--open shows a page, and none is written", hint="Add --html FILE.")
    if listed:
        _list(known_records(), as_json=as_json)
        return 0
    figures = gather(read_record(find_record(run)))
    if page is not None:
        _write(figures, page)
    if as_json:
        click.echo(json.dumps(figures.to_dict(), default=str))
    elif page is None:
        from embatch.frontends.report.terminal import lines

        click.echo("\n".join(lines(figures)))
    else:
        click.echo(f"{figures.words}\nThe report is {page}.", err=True)
    if opened and page is not None:
        import webbrowser

        webbrowser.open(page.absolute().as_uri())
    return 0


def _write(figures: Figures, path: Path) -> None:
    from embatch.frontends.report.page import page
    from embatch.storage.files import os_errors
    from embatch.storage.sinks.files import AtomicFile, check_place

    text = page(figures)
    check_place(path)
    file = AtomicFile(path)
    try:
        with os_errors(path):
            file.file.write(text.encode("utf-8", "replace"))
        file.sync()
        file.publish()
    finally:
        file.discard()


def _list(known: list[KnownRecord], *, as_json: bool) -> None:
    if as_json:
        for one in known:
            kept = ("kind", "model", "output", "start", "command")
            click.echo(json.dumps({"id": one.id, **{name: one.head.get(name) for name in kept}}))
        return
    if not known:
        click.echo("No run has been recorded yet.")
        return
    from datetime import datetime

    for one in known[:_LISTED]:
        when = datetime.fromtimestamp(one.start).astimezone()
        output = str(one.head.get("output") or "")
        model = str(one.head.get("model") or "")
        click.echo(f"{one.id:<10} {one.kind:<9} {when:%Y-%m-%d %H:%M}  {model[:24]:<24} {output}".rstrip())
    if (more := len(known) - _LISTED) > 0:
        click.echo(f"… and {more:,} more")
