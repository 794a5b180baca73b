"""What `embatch plan` says of a provider's model: prices and times of each strategy, and what `auto` would do."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from embatch.decisions.costs import LaneOutlook
    from embatch.engine.forecast import Forecast
    from embatch.frontends.embedder import Embedder


def plan_embedder(*, model: str, overlong: str, **options: Any) -> Embedder:
    """An embedder over a model that is only reckoned with.

    Raises:
        UsageError: options that do nothing for a provider's model, or make no sense.
    """
    from embatch.errors import UsageError
    from embatch.frontends.cli.options import with_settings
    from embatch.frontends.embedder import Embedder
    from embatch.frontends.hosts import refuse
    from embatch.frontends.opening import LocalOptions, RemoteOptions
    from embatch.frontends.planning import planned_model

    options = with_settings(options, remote=True)
    local = {name: options[name] for name in LocalOptions.__slots__ if name in options}
    refuse(f"only for models on this machine, and {model} is a provider's", LocalOptions(**local).given())
    if options.get("calibrate") is not None:
        raise UsageError("--calibrate is for --precision int8 only", hint="Leave it out.")
    lanes = {name: options[name] for name in ("strategy", "deadline", "budget", "hour_worth")}
    remote = planned_model(
        model,
        RemoteOptions(**lanes).settings(),
        dimensions=options["dimensions"],
        tier=options.get("tier"),
        base_url=options.get("base_url"),
    )
    return Embedder(
        backend=remote,
        task=options["task"],
        dimensions=options["dimensions"],
        overlong=overlong,  # type: ignore[arg-type]  # click checked the choice
        on_error="collect",
    )


def tell_lanes(
    counted: Forecast, embedder: Embedder, skipped: dict[str, int], size: int, *, as_json: bool
) -> None:
    """Print the plan."""
    from embatch.decisions.costs import outlook
    from embatch.frontends.remote import RemoteModel

    remote = embedder.backend
    assert isinstance(remote, RemoteModel)
    tokens = remote.ratio.correct(counted.tokens)
    found = outlook(remote.terms(), counted.distinct, tokens)
    if as_json:
        fields = {name: getattr(counted, name) for name in counted.__slots__ if "padded" not in name}
        fields |= {"tokens": tokens, "vector_bytes": size, "skipped": skipped, "model": embedder.spec.model}
        fields |= {"strategy": remote.settings.strategy, "outlook": [asdict(one) for one in found]}
        fields |= {"auto_takes": _like(found[0]) if found else None}
        fields |= {"prices_as_of": remote.facts.prices.as_of if remote.facts.prices else None}
        click.echo(json.dumps(fields))
        return
    for line in (*_counts(counted, tokens, skipped, size, embedder), "", *_table(found, remote)):
        click.echo(line)


def _counts(
    counted: Forecast, tokens: int, skipped: dict[str, int], size: int, embedder: Embedder
) -> list[str]:
    from rich.filesize import decimal

    dash = [
        ("rows", f"{counted.rows:,}"),
        ("texts to send", f"{counted.distinct:,}"),
        ("already stored", f"{counted.stored:,}"),
        ("repeats", f"{counted.duplicates:,}"),
        ("truncated", f"{counted.truncated:,}"),
        ("averaged", f"{counted.pooled:,}"),
        ("without a vector", f"{counted.failed:,}"),
        ("files skipped", f"{sum(skipped.values()):,}"),
        ("tokens", f"about {tokens:,}"),
        ("vectors", decimal(size)),
        ("model", embedder.spec.model),
    ]
    width = max(len(name) for name, _ in dash)
    return [f"{name:<{width}}  {value}" for name, value in dash]


def _like(chosen: LaneOutlook) -> str:
    """The strategy that what `auto` chose amounts to."""
    if not chosen.job_items:
        return "individual"
    return "both lanes" if chosen.call_items else "batch"


def _table(found: list[LaneOutlook], remote: Any) -> list[str]:
    from embatch.frontends.view import dollars, duration

    if not found:
        return ["Nothing to send: every text has its vector, or none."]
    lines = [
        f"{'strategy':<11}{'calls':>8}{'jobs':>6}{'price':>10}{'time: fast':>14}{'expected':>14}{'slow':>15}"
    ]
    for one in found:
        price = "unknown" if one.dollars is None else dollars(one.dollars)
        times = (one.seconds_p10, one.seconds_p50, one.seconds_p90)
        fast, expected, slow = (duration(seconds) for seconds in times)
        lines.append(
            f"{one.strategy:<11}{one.calls:>8,}{one.jobs:>6,}{price:>10}{fast:>14}{expected:>14}{slow:>15}"
        )
    if remote.facts.job is None:
        lines.append(f"{remote.facts.provider}:{remote.facts.model} has no batch jobs: calls do it all.")
    goal, chosen = remote.settings.goal, found[0]
    if goal.deadline_s is not None:
        lines.append(f"The deadline of {duration(goal.deadline_s)} is met with {chosen.met:.0%} by auto.")
    if not chosen.afforded:
        lines.append(f"The budget of {dollars(goal.budget)} does not suffice for all texts.")
    split = f"{chosen.call_items:,} texts by calls, {chosen.job_items:,} as jobs"
    lines.append(f"auto takes {_like(chosen)}: {split}.")
    if remote.facts.prices is not None:
        lines.append(f"Fast and slow: one run in ten each. Prices as of {remote.facts.prices.as_of}.")
    return lines
