"""`embatch index PATH…`: make an index, or bring it up to date."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from embatch.errors import InterruptedRunError
from embatch.frontends.cli.options import index_model_options, index_option, record_option, with_settings

if TYPE_CHECKING:
    from embatch.frontends.searching.index import Index
    from embatch.search.report import SyncReport

_SHOWN_PROBLEMS = 10


@click.command(short_help="Make files and folders searchable, and keep them so.")
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@index_option
@click.option("--watch", is_flag=True, help="Go on, and follow changes until interrupted.")
@click.option("--rebuild", is_flag=True, help="Start over, for another model or a damaged index.")
@click.option(
    "--chunk-tokens",
    type=click.IntRange(16),
    metavar="N",
    help="Most tokens of a chunk.  [512, or as many as the model takes]",
)
@index_model_options
@record_option
@click.option("--json", "as_json", is_flag=True, help="Progress and summary as lines of JSON.")
@click.option("--quiet", is_flag=True, help="Say nothing but errors.")
@click.pass_context
def index(
    context: click.Context,
    /,
    *,
    paths: tuple[str, ...],
    location: str | None,
    watch: bool,
    rebuild: bool,
    chunk_tokens: int | None,
    recorded: bool,
    as_json: bool,
    quiet: bool,
    **model_settings: Any,
) -> int:
    """Index PATHs: code by functions, prose by headings, whatever else by lines.

    The index lies in `.embatch/index` of the folder, or of the nearest one above that has one. Run it again at any
    time: unchanged files cost a look at their time, a changed function costs one vector. Without a PATH, the whole
    folder of the nearest index is brought up to date.

    .gitignore is honoured; binary, generated and giant files are skipped, and counted.
    """
    from embatch.frontends.searching.recording import recording

    settings = _settings(context, model_settings)
    opened = _open(paths, location, rebuild=rebuild, chunk_tokens=chunk_tokens, settings=settings)
    opened.command = sys.argv[1:]
    with opened:
        listed = list(paths) or [str(opened.root)]
        with recording(opened, listed, settings=settings, enabled=recorded, watching=watch):
            report = _sync(opened, listed, as_json=as_json, quiet=quiet)
            if watch:
                return _watch(opened, listed, as_json=as_json, quiet=quiet)
    return 1 if report.failed or report.unreadable else 0


def _settings(context: click.Context, options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given: what was not is the index's own."""
    from embatch.frontends.opening import is_remote

    given = {
        name: value
        for name, value in options.items()
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    }
    remote = is_remote(options["model"])
    settings = with_settings({**given, "settings_file": options.get("settings_file")}, remote=remote)
    return {name: value for name, value in settings.items() if value is not None}


def _open(
    paths: tuple[str, ...],
    location: str | None,
    *,
    rebuild: bool,
    chunk_tokens: int | None,
    settings: dict[str, Any],
) -> Index:
    from embatch.frontends.searching.index import Index
    from embatch.search.places import Place

    if not paths:
        return Index.open(
            Place.to_read(location), create=False, rebuild=rebuild, chunk_tokens=chunk_tokens, **settings
        )
    place = Place.to_write(paths, location)
    return Index.open(
        place.location,
        root=None if location is None else place.root,
        rebuild=rebuild,
        chunk_tokens=chunk_tokens,
        **settings,
    )


def _sync(opened: Index, paths: list[str], *, as_json: bool, quiet: bool) -> SyncReport:
    from embatch.frontends import view
    from embatch.frontends.searching.progress import progress_of

    look = progress_of(opened)
    try:
        if as_json:
            with view.json_view(look):
                report = opened.sync(*paths)
        elif quiet or not sys.stderr.isatty():
            report = opened.sync(*paths)
        else:
            bar, watcher = view.bar_view(look)
            with bar, watcher:
                report = opened.sync(*paths)
    except KeyboardInterrupt as error:
        raise InterruptedRunError(
            "Interrupted; what was embedded is kept, and queries see the index as it was."
        ) from error
    _conclude(opened, report, as_json=as_json, quiet=quiet)
    return report


def _conclude(opened: Index, report: SyncReport, *, as_json: bool, quiet: bool) -> None:
    from embatch.frontends import view
    from embatch.frontends.searching.words import summary

    lanes = opened.last_run.lanes if opened.last_run is not None else None
    if as_json:
        told = {} if lanes is None else {"lanes": lanes.to_dict()}
        view.emit("done", index=opened.location, **report.to_dict(), **told)
        return
    for problem in report.problems[:_SHOWN_PROBLEMS]:
        click.echo(f"  {opened.place.shown(problem.path)}: {problem.message}", err=True)
    if (more := report.failed + report.unreadable - _SHOWN_PROBLEMS) > 0:
        click.echo(f"  … and {more:,} more", err=True)
    if not quiet:
        for line in summary(opened, report):
            click.echo(line, err=True)


def _watch(opened: Index, paths: list[str], *, as_json: bool, quiet: bool) -> int:
    from embatch.frontends.searching.watching import changes

    if not quiet and not as_json:
        click.echo("Watching for changes; Ctrl-C ends it.", err=True)
    try:
        for _ in changes(paths, opened.location):
            _sync(opened, paths, as_json=as_json, quiet=quiet)
    except KeyboardInterrupt as error:
        raise InterruptedRunError(
            "Interrupted; the index is as it was after the last change.", hint=""
        ) from error
    return 0
