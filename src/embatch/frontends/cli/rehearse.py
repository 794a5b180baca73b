"""`embatch rehearse SOURCE…`: a planned run, played on fast time against an emulated provider."""

from __future__ import annotations

import json
import time
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from embatch.errors import UsageError
from embatch.frontends.cli.options import (
    input_options,
    model_options,
    output_options,
    target_option,
    with_settings,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from embatch.frontends.rehearsal import Rehearsed
    from embatch.frontends.remote import LaneSettings
    from embatch.remote import GenerateWork, ModelFacts
    from embatch.types import BadItem, Item, Overlong

_SECONDS, _FASTEST = 5.0, 600.0  # that a rehearsal should take, and the fastest clock


@click.command(short_help="Play a planned run on fast time.")
@input_options
@target_option(required=False)
@output_options
@model_options
@click.option("--system", metavar="TEXT", help="Instruction of each prompt, as for `generate`.")
@click.option(
    "--max-output-tokens", type=click.IntRange(1), metavar="N", help="Longest answer, as for `generate`."
)
@click.option("--runs", type=click.IntRange(1), default=5, show_default=True, metavar="N", help="Rehearsals.")
@click.option("--seed", type=int, default=1, show_default=True, metavar="N", help="Of the first rehearsal.")
@click.option(
    "--time-scale",
    type=click.FloatRange(1, 5000),
    metavar="X",
    help="The provider's seconds in one of ours.  [so that a run takes seconds]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a rehearsal, on standard output.")
@click.option("--quiet", is_flag=True, help="Say nothing but the result.")
def rehearse(
    *,
    sources: tuple[str, ...],
    text_column: str | None,
    id_column: str | None,
    split: bool,
    overlap: int,
    overlong: Overlong,
    output: Path | None,  # noqa: ARG001  # here so that the arguments of `embed` work unchanged
    vectors_as: str,  # noqa: ARG001  # same
    with_text: bool,  # noqa: ARG001  # same
    fresh: bool,  # noqa: ARG001  # same
    cache: Path | None,  # noqa: ARG001  # same
    cache_limit: int | None,  # noqa: ARG001  # same
    document_type: str,  # noqa: ARG001  # same
    runs: int,
    seed: int,
    time_scale: float | None,
    system: str | None,
    max_output_tokens: int | None,
    as_json: bool,
    quiet: bool,
    model: str,
    **model_settings: Any,
) -> None:
    """Play a run over a provider's model several times, and say how long it takes and what it costs.

    Takes the arguments of `embed`; with a model that answers prompts, the run is one of `generate`. Nothing is sent
    anywhere, no key is needed, nothing is written. The provider is emulated on this machine, with the model's published
    limits, and latencies and outages as they have been seen. Its answers to prompts are a line or two long: what real
    ones cost beyond that is not rehearsed.
    """
    from embatch.frontends.answer_job import PROMPT_COLUMN
    from embatch.frontends.jobs import SplitRule
    from embatch.frontends.opening import is_remote
    from embatch.frontends.rehearsal import rehearse as play
    from embatch.providers.registry import facts_for
    from embatch.storage.learned import default_learned
    from embatch.storage.sources import open_sources

    if not is_remote(model):
        raise UsageError(
            f"{model} runs on this machine: there is nothing to rehearse", hint="Use `embatch plan`."
        )
    tier = (options := with_settings(model_settings, remote=True))["tier"]
    facts = facts_for(model, tier=tier)
    work = _work(facts, system, max_output_tokens)
    if not facts.dimensions and work is None:
        raise UsageError(
            f"{model} cannot be rehearsed: nothing is known of it",
            hint="Check the name; `embatch plan` with --dimensions says what can be expected.",
        )
    settings = _settings(options)
    usual = None if work is None else PROMPT_COLUMN
    rows = list(open_sources(list(sources), text_column=text_column, id_column=id_column, usual_column=usual))
    scale = time_scale or _scale(facts, settings, rows)
    done = []
    for number in range(runs):
        one = play(
            model,
            rows,
            settings=settings,
            facts=facts,
            seed=seed + number,
            time_scale=scale,
            rule=SplitRule(overlap_tokens=overlap) if split else None,
            overlong=overlong,
            task=options["task"],
            tier=tier,
            generate=work,
            learned=default_learned(),
        )
        done.append(one)
        if as_json:
            click.echo(json.dumps(_fields(one)))
        elif not quiet:
            click.echo(_line(one, number + 1, runs), err=True)
    if not as_json:
        for line in _table(done, model, len(rows), settings.goal.deadline_s, settings.goal.budget):
            click.echo(line)


def _work(facts: ModelFacts, system: str | None, max_output_tokens: int | None) -> GenerateWork | None:
    """What is asked for each prompt; None for a model that makes vectors."""
    from embatch.remote import GenerateWork

    if facts.prices is not None and facts.prices.output_individual > 0:
        return GenerateWork(model=facts.model, system=system, max_output_tokens=max_output_tokens)
    if system is not None or max_output_tokens is not None:
        raise UsageError(
            f"{facts.provider}:{facts.model} answers no prompts: --system and --max-output-tokens do nothing",
            hint="Leave them out.",
        )
    return None


def _settings(options: dict[str, Any]) -> LaneSettings:
    from embatch.frontends.hosts import refuse
    from embatch.frontends.opening import LocalOptions, RemoteOptions

    names = set(LocalOptions.__slots__) & set(options)
    refuse("only for models on this machine", LocalOptions(**{name: options[name] for name in names}).given())
    wanted = ("strategy", "deadline", "budget", "hour_worth")
    return RemoteOptions(**{name: options[name] for name in wanted}).settings()


def _scale(facts: ModelFacts, settings: LaneSettings, rows: Sequence[Item | BadItem]) -> float:
    """So fast that a run takes some seconds: faster, what is done here would count as the provider's time."""
    from embatch.decisions.costs import Terms, outlook
    from embatch.decisions.latency import Beliefs
    from embatch.decisions.pacing import Pacer
    from embatch.providers.work import estimate_tokens
    from embatch.types import Item

    texts = [row.text for row in rows if isinstance(row, Item) and isinstance(row.text, str)]
    tokens = sum(estimate_tokens(facts, text) for text in texts)
    now = time.monotonic()
    terms = Terms(
        facts=facts,
        goal=settings.goal,
        beliefs=Beliefs.of(facts.provider),
        pacer=Pacer(facts.rates, now=now),
        call_limits=lambda: facts.call,
        now=now,
    )
    found = outlook(terms, len(texts), tokens)
    expected = next((one.seconds_p50 for one in found if one.strategy == settings.strategy), 0.0)
    return min(_FASTEST, max(1.0, expected / _SECONDS))


def _fields(one: Rehearsed) -> dict[str, Any]:
    names = ("seed", "seconds", "dollars", "failed", "error", "real_seconds")
    return {**{name: getattr(one, name) for name in names}, "lanes": one.lanes.to_dict()}


def _line(one: Rehearsed, number: int, runs: int) -> str:
    from embatch.decisions.lanes.words import count
    from embatch.frontends.view import dollars, duration

    lanes = one.lanes
    how = f"{count(lanes.calls, 'call')}, {count(lanes.jobs, 'job')}"
    how += f", {lanes.jobs_cancelled:,} cancelled" if lanes.jobs_cancelled else ""
    end = f"; ended early: {one.error}" if one.error else ""
    return f"  {number} of {runs}: {duration(one.seconds)}, {dollars(one.dollars)}: {how}{end}"


def _table(
    done: Sequence[Rehearsed], model: str, rows: int, deadline_s: float | None, budget: float | None
) -> list[str]:
    from embatch.frontends.view import dollars, duration

    times, prices = sorted(one.seconds for one in done), sorted(one.dollars for one in done)
    lines = [
        f"{len(done)} rehearsals of {rows:,} texts with {model}",
        f"{'':<8}{'least':>14}{'median':>14}{'most':>14}",
        f"{'time':<8}{duration(times[0]):>14}{duration(median(times)):>14}{duration(times[-1]):>14}",
        f"{'price':<8}{dollars(prices[0]):>14}{dollars(median(prices)):>14}{dollars(prices[-1]):>14}",
    ]
    if deadline_s is not None:
        met = sum(one.seconds <= deadline_s and one.error is None for one in done)
        lines.append(f"deadline of {duration(deadline_s)} met in {met} of {len(done)}")
    if budget is not None:
        kept = sum(one.dollars <= budget for one in done)
        lines.append(f"budget of {dollars(budget)} kept in {kept} of {len(done)}")
    incomplete = sum(bool(one.error or one.failed) for one in done)
    if incomplete:
        lines.append(f"{incomplete} ended with texts that have no vector")
    return lines
