"""`embatch embed SOURCE… --to FILE`."""

from __future__ import annotations

import itertools
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from embatch.errors import UsageError
from embatch.frontends.cli.options import (
    input_options,
    model_options,
    output_options,
    record_option,
    target_option,
    with_settings,
)

if TYPE_CHECKING:
    from pathlib import Path

    from embatch.frontends.embedder import Embedder
    from embatch.frontends.jobs import EmbedJob, Outcome

_CALIBRATION_ROWS = 5000


@click.command(short_help="Embed files, folders, tables or standard input.")
@input_options
@target_option(required=True)
@output_options
@model_options
@record_option
@click.option("--json", "as_json", is_flag=True, help="Progress and summary as lines of JSON.")
@click.option("--quiet", is_flag=True, help="Say nothing but errors.")
def embed(
    *,
    sources: tuple[str, ...],
    text_column: str | None,
    id_column: str | None,
    split: bool,
    overlap: int,
    overlong: str,
    output: Path,
    vectors_as: str,
    with_text: bool,
    fresh: bool,
    recorded: bool,
    as_json: bool,
    quiet: bool,
    cache: Path | None,
    cache_limit: int | None,
    **model_settings: Any,
) -> int:
    """Embed SOURCEs into one file.

    A SOURCE is a file, a folder (.gitignore is honoured), a quoted pattern such as 'docs/**/*.md', or - for standard
    input. Text, Markdown, reStructuredText, HTML and code are one text a file; JSONL, CSV, TSV, JSON and Parquet one
    text a row.

    Killed at any moment, the same command goes on where it was.
    """
    from embatch.frontends import view
    from embatch.frontends.jobs import EmbedJob, SplitRule, open_cache
    from embatch.frontends.recording import observed, record_of, report_dict
    from embatch.storage.sinks import check_target
    from embatch.storage.sources import open_sources

    check_target(output)
    if cache_limit is not None and cache is None:
        raise UsageError("--cache-limit needs a cache", hint="Add --cache FILE, or leave it out.")
    opened = open_sources(list(sources), text_column=text_column, id_column=id_column)
    with open_embedder(quiet=quiet or as_json, overlong=overlong, **model_settings) as embedder:
        record = record_of(
            "embed",
            embedder,
            output=output,
            sources=sources,
            settings={**model_settings, "overlong": overlong, "split": split, "dtype": vectors_as},
            enabled=recorded,
        )
        with observed("embed", embedder.spec.model, record) as (observer, done):
            job = EmbedJob(
                embedder,
                opened,
                output,
                vectors_as=vectors_as,  # type: ignore[arg-type]  # click checked the choice
                with_text=with_text,
                split=SplitRule(overlap_tokens=overlap) if split else None,
                cache=open_cache(cache, embedder.spec),
                cache_limit=None if cache_limit is None else cache_limit * 1_000_000,
                fresh=fresh,
                command=sys.argv[1:],
                observer=observer,
            )
            with (
                view.ended_early(lambda: job.report.lanes, as_json=as_json, quiet=quiet),
                nullcontext() if job.finished else record,
            ):
                try:
                    outcome = _run(job, as_json=as_json, quiet=quiet)
                finally:
                    record.end(report=report_dict(job.report))
                    done(job.report)
        _conclude(outcome, embedder.spec.model, embedder.backend.device, as_json=as_json, quiet=quiet)
    return 1 if outcome.report.failed else 0


def open_embedder(*, quiet: bool, calibrate: str | None, **settings: Any) -> Embedder:
    """The embedder that the options ask for, with a progress bar if model files must be fetched first."""
    from embatch.engine.allocator import keep_large_blocks_apart
    from embatch.frontends.cli.fetching import fetch_bar
    from embatch.frontends.embedder import Embedder
    from embatch.frontends.opening import is_remote

    settings = with_settings(settings, remote=is_remote(settings["model"]))
    if calibrate is not None and settings["precision"] != "int8":
        raise UsageError(
            "--calibrate is for --precision int8 only", hint="Add --precision int8, or leave it out."
        )
    calibration = None if calibrate is None else _first_texts(calibrate)
    with fetch_bar(quiet=quiet) as on_progress:
        embedder = Embedder(on_error="collect", on_progress=on_progress, calibration=calibration, **settings)
    if "openvino" in sys.modules:  # it computes: hashing would be slower so
        keep_large_blocks_apart()
    return embedder


def _first_texts(source: str) -> list[str]:
    """The first texts of a source: enough to choose a calibration from."""
    from embatch.storage.sources import open_sources
    from embatch.types import Item

    rows = itertools.islice(open_sources([source]), _CALIBRATION_ROWS)
    return [row.text for row in rows if isinstance(row, Item)]


def _run(job: EmbedJob, *, as_json: bool, quiet: bool) -> Outcome:
    from embatch.frontends import view

    if job.finished:
        view.tell_finished(outcome := job.run(), as_json=as_json, quiet=quiet)
        return outcome
    if as_json and (job.stored or job.changes):
        view.emit("resume", stored=job.stored, changes=job.changes)
    elif not quiet:
        for notice in view.notices(job.stored, job.changes):
            click.echo(notice, err=True)
    if as_json:
        with view.json_view(job.progress):
            return job.run()
    if quiet:
        return job.run()
    if not sys.stderr.isatty():
        with view.line_view(job.progress):
            return job.run()
    bar, watcher = view.bar_view(job.progress)
    with bar, watcher:
        return job.run()


def _conclude(outcome: Outcome, model: str, device: str, *, as_json: bool, quiet: bool) -> None:
    from embatch.frontends import view

    if as_json:
        view.emit(
            "done",
            output=str(outcome.output),
            errors=str(outcome.errors) if outcome.errors else None,
            skipped_by_reason=outcome.skipped,
            model=model,
            device=device,
            **outcome.report.to_dict(),
        )
    elif not quiet:
        for line in view.summary(outcome, model=model, precision=device):
            click.echo(line, err=True)
