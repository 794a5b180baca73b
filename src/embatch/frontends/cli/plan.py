"""`embatch plan SOURCE…`: what `embed` would do, and how long it would take."""

from __future__ import annotations

import itertools
import json
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from embatch.frontends.cli.options import input_options, model_options, output_options, target_option

if TYPE_CHECKING:
    from pathlib import Path

    from embatch.engine.forecast import Forecast
    from embatch.frontends.embedder import Embedder
    from embatch.types import BadItem, Item, Output

_SAMPLE_ROWS = 512


@click.command(short_help="Say what `embed` would do, without doing it.")
@input_options
@target_option(required=False)
@output_options
@model_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.option("--quiet", is_flag=True, help="No progress bar while model files are fetched.")
def plan(
    *,
    sources: tuple[str, ...],
    text_column: str | None,
    id_column: str | None,
    split: bool,
    overlap: int,
    overlong: str,
    output: Path | None,
    vectors_as: Output,
    with_text: bool,
    fresh: bool,
    cache: Path | None,
    cache_limit: int | None,  # noqa: ARG001  # same
    quiet: bool,
    as_json: bool,
    **model_settings: Any,
) -> None:
    """Count texts, tokens, truncations, repeats and batches, and estimate the time, from a sample that is embedded.

    For a provider's model, nothing is sent and no key is needed: the strategies' prices and times are compared.

    Takes the arguments of `embed` and writes nothing. With --to or --cache, what is already stored there is counted.
    """
    from embatch.decisions.planning import Budget
    from embatch.decisions.vectors import row_bytes
    from embatch.engine.forecast import forecast
    from embatch.frontends.cli.embed import open_embedder
    from embatch.frontends.cli.plan_lanes import plan_embedder, tell_lanes
    from embatch.frontends.jobs import SplitRule, request_of, split_rows
    from embatch.frontends.opening import is_remote
    from embatch.storage.finished import look_finished
    from embatch.storage.journal import journal_path
    from embatch.storage.peek import stored_digests
    from embatch.storage.sources import open_sources

    opened = open_sources(list(sources), text_column=text_column, id_column=id_column)
    remote = is_remote(model_settings["model"])
    with (
        plan_embedder(overlong=overlong, **model_settings)
        if remote
        else open_embedder(quiet=quiet or as_json, overlong=overlong, **model_settings)
    ) as embedder:
        rule = SplitRule(overlap_tokens=overlap) if split else None
        request = request_of(embedder, opened, vectors_as=vectors_as, with_text=with_text, split=rule)
        if output and request and not fresh and look_finished(output, request) is not None:
            _tell_finished(output, as_json=as_json)
            return
        batch_size = model_settings.get("batch_size")
        budget = Budget(items=batch_size) if batch_size else Budget(tokens=embedder.budget)
        sample: list[Item | BadItem] = []
        rows = _sampled(split_rows(opened, embedder, rule), sample)
        stores = [path for path in (cache, journal_path(output) if output and not fresh else None) if path]
        known = partial(stored_digests, stores, embedder.spec.fingerprint) if stores else None
        counted = forecast(embedder.backend, embedder.spec, budget, rows, known=known)
        skipped = dict(opened.skipped_counts)
        size = (counted.rows - counted.failed) * row_bytes(embedder.dimensions, vectors_as)
        if remote:
            tell_lanes(counted, embedder, skipped, size, as_json=as_json)
            return
        seconds = counted.tokens / _tokens_per_s(embedder, sample) if counted.tokens else 0.0
        _tell(counted, seconds, skipped, size, embedder, budget.tokens, as_json=as_json)


def _tell_finished(output: Path, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"finished": True, "output": str(output)}))
        return
    click.echo(f"{output} is there already, and nothing that it was made of has changed.")
    click.echo("So nothing is sent; with --fresh everything is.")


def _sampled(rows: Any, sample: list[Item | BadItem]) -> Any:
    """The rows, unchanged; the first of them are remembered."""
    rows = iter(rows)
    for row in itertools.islice(rows, _SAMPLE_ROWS):
        sample.append(row)
        yield row
    yield from rows


def _tokens_per_s(embedder: Embedder, sample: list[Item | BadItem]) -> float:
    """Tokens per second of wall time, measured on the sample."""
    pipeline = embedder.pipeline()
    for _ in pipeline.run(sample):
        pass
    return max(pipeline.report.tokens_per_s, 1.0)


def _tell(
    counted: Forecast,
    seconds: float,
    skipped: dict[str, int],
    size: int,
    embedder: Embedder,
    budget: int | None,
    *,
    as_json: bool,
) -> None:
    from rich.filesize import decimal

    from embatch.frontends.view import duration

    if as_json:
        fields = {name: getattr(counted, name) for name in counted.__slots__}
        fields |= {"padding": round(counted.padding, 4), "estimated_seconds": round(seconds, 2)}
        fields |= {"vector_bytes": size}
        fields |= {"model": embedder.spec.model, "device": embedder.backend.device, "skipped": skipped}
        click.echo(json.dumps(fields))
        return
    dash = [
        ("rows", f"{counted.rows:,}"),
        ("texts to compute", f"{counted.distinct:,}"),
        ("already stored", f"{counted.stored:,}"),
        ("repeats", f"{counted.duplicates:,}"),
        ("truncated", f"{counted.truncated:,}"),
        ("averaged", f"{counted.pooled:,}"),
        ("without a vector", f"{counted.failed:,}"),
        ("files skipped", f"{sum(skipped.values()):,}"),
        ("tokens", f"{counted.tokens:,}"),
        ("padding", f"{counted.padding:.1%}"),
        ("batches", f"{counted.batches:,}" + (f" of up to {budget:,} tokens" if budget else "")),
        ("estimated time", duration(seconds)),
        ("vectors", decimal(size)),
        ("model", embedder.spec.model),
        ("device", embedder.backend.device),
    ]
    width = max(len(name) for name, _ in dash)
    for name, value in dash:
        click.echo(f"{name:<{width}}  {value}")
