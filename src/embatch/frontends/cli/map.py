"""`embatch map [INDEX] --html FILE`: the corpus of an index in two dimensions."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from embatch.errors import InterruptedRunError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embatch.frontends.map.making import Color, Made
    from embatch.frontends.map.reading import Tell

_JSON_S = 1.0


@click.command("map", short_help="Draw what an index holds as points of a plane.")
@click.argument("location", required=False, metavar="[INDEX]")
@click.option(
    "--html",
    "output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The page to write.",
)
@click.option(
    "--color",
    type=click.Choice(["folder", "kind", "language"]),
    default="folder",
    show_default=True,
    help="What points are coloured by at first; the page can switch.",
)
@click.option(
    "--points",
    type=click.IntRange(1, 200_000),
    default=50_000,
    show_default=True,
    metavar="N",
    help="Points at most; of a larger index, a sample is drawn.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Another one draws another map.",
)
@click.option("--json", "as_json", is_flag=True, help="Progress and summary as lines of JSON.")
@click.option("--quiet", is_flag=True, help="Say nothing but errors.")
def map_(
    *,
    location: str | None,
    output: Path,
    color: Color,
    points: int,
    seed: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Draw the chunks of INDEX as points, similar ones near each other, into one page to look at and search.

    INDEX is its folder, one that has it, or postgresql://…; else the nearest at or above this folder. The page needs
    nothing but a browser: no network, no server.
    """
    from embatch.frontends.map.making import make_map
    from embatch.search.places import Place

    place = Place.to_read(location)
    try:
        with _shown(as_json=as_json, quiet=quiet) as tell:
            made = make_map(place, output, color=color, points=points, seed=seed, tell=tell)
    except KeyboardInterrupt as error:
        raise InterruptedRunError("Interrupted; nothing was written.", hint="") from error
    _conclude(made, as_json=as_json, quiet=quiet)


@contextmanager
def _shown(*, as_json: bool, quiet: bool) -> Iterator[Tell]:
    """What shows how far it is: lines of JSON, a bar where somebody watches, or nothing."""
    if as_json:
        yield _json_lines()
        return
    if quiet or not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), expand=True, transient=True) as bar:
        task = bar.add_task("opening", total=None)

        def tell(phase: str, done: int, total: int) -> None:
            bar.update(task, description=phase, completed=done, total=total or None)

        yield tell


def _json_lines() -> Tell:
    """Tells of each phase when it begins, and then once a second."""
    from embatch.frontends import view

    phases, at = [""], [0.0]

    def tell(phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if phase != phases[0] or now - at[0] >= _JSON_S:
            phases[0], at[0] = phase, now
            view.emit("progress", phase=phase, completed=done, total=total or None)

    return tell


def _conclude(made: Made, *, as_json: bool, quiet: bool) -> None:
    from rich.filesize import decimal

    from embatch.frontends import view

    if as_json:
        view.emit(
            "done",
            output=str(made.output),
            chunks=made.chunks,
            points=made.points,
            sampled=made.points < made.chunks,
            bytes=made.bytes,
            seconds=round(made.seconds, 2),
        )
        return
    if quiet:
        return
    what = (
        f"{made.points:,} chunks"
        if made.points == made.chunks
        else f"{made.points:,} of {made.chunks:,} chunks"
    )
    click.echo(f"{what} in {view.duration(made.seconds)} → {made.output} ({decimal(made.bytes)})", err=True)
    if made.points < made.chunks:
        click.echo("  a sample: --points N draws more", err=True)
