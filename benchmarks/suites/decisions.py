"""How good the strategy's decisions are, in simulated worlds: against one who knows the future, and three rules.

Each scenario is a pile (1 to 5,000,000 items), a goal (a deadline or none, a budget or none, what an hour is worth), a
provider (calm, busy or stuck; quotas told or not; faults), and beliefs that are right or ten times wrong. Every run
starts with nothing learned. The clairvoyant knows how long every job will take, the true quotas and the true count of
tokens. Nothing here measures this machine: a result is the same wherever it is computed.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from statistics import mean, median
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import markdown, results
from benchmarks.stats import significant
from embatch.engine.simulation.scenarios import Scenario, scenario
from embatch.remote import Goal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from benchmarks.harness import Settings
    from embatch.remote import StrategyName

FIRST_SEED, SCENARIOS, QUICK = 10_000, 500, 20
WAYS: dict[str, tuple[StrategyName, int | None]] = {
    "auto": ("auto", None),
    "always individual": ("individual", None),
    "always batch": ("batch", None),
    "fixed rule of 10": ("auto", 10),
}
PILE, PILES = 100_000, 30
REGIMES = ("good", "busy", "stuck")
BELIEFS = ("right", "too long", "too short")


class Row(NamedTuple):
    """What became of one scenario, by one way."""

    seed: int
    way: str
    items: int
    regime: str
    belief: str
    quotas: str
    deadline: bool
    feasible: bool
    """Whether the clairvoyant keeps deadline and budget."""
    whole: bool
    over: bool
    """Whether the bill exceeds the budget."""
    in_time: bool
    ratio: float
    """Price and waiting against the clairvoyant's."""


def run(settings: Settings) -> dict[str, Any]:
    """Every scenario by every way; then a large pile without a goal, by the strategy and all as jobs."""
    count = settings.scaled(SCENARIOS, QUICK)
    with ProcessPoolExecutor() as pool:
        rows = [
            row
            for found in pool.map(_play, range(FIRST_SEED, FIRST_SEED + count), chunksize=5)
            for row in found
        ]
        bills = list(pool.map(_bill, range(settings.scaled(PILES, 3)), chunksize=1))
    return results.record(
        "decisions",
        parameters={"scenarios": count, "first_seed": FIRST_SEED, "pile": PILE, "piles": len(bills)},
        rounds=[],
        summary={
            "ways": {way: _summary([row for row in rows if row.way == way]) for way in WAYS},
            "auto": {
                "regime": _groups(rows, lambda row: row.regime, REGIMES),
                "belief": _groups(rows, lambda row: row.belief, BELIEFS),
                "quotas": _groups(rows, lambda row: row.quotas, ("told", "not told")),
                "items": _groups(rows, lambda row: _size(row.items), [name for name, _ in _SIZES]),
            },
            "pile": {
                regime: {
                    "mean": significant(mean(one[regime][0] for one in bills), 4),
                    "most": significant(max(one[regime][0] for one in bills), 4),
                    "with_waiting": significant(mean(one[regime][1] for one in bills), 4),
                }
                for regime in REGIMES
            },
        },
    )


def tables(result: dict[str, Any]) -> dict[str, str]:
    """`decisions`: each way; `decisions-by`: the strategy by circumstances; `decisions-pile`: a large pile's bill."""
    summary = result["summary"]
    head = [
        "cost and waiting against the clairvoyant", "mean", "median", "95th percentile",
        "deadlines met", "budgets exceeded", "not finished",
    ]  # fmt: skip
    ways = [[way, *_cells(one)] for way, one in summary["ways"].items()]
    by = [
        [f"{kind}: {name}", str(one["runs"]), *_cells(one)[:4]]
        for kind, groups in summary["auto"].items()
        for name, one in groups.items()
        if one["runs"]
    ]
    bills = [
        [regime, *(f"{one[key]:.3f}" for key in ("mean", "most", "with_waiting"))]
        for regime, one in summary["pile"].items()
    ]
    large = f"`auto` against all as jobs: {PILE:,} items, no goal"
    return {
        "decisions": f"{markdown.table(head, ways)}\n\n{markdown.footnote(result)}",
        "decisions-by": markdown.table(["`auto`, by", "runs", *head[1:5]], by),
        "decisions-pile": markdown.table([large, "bill, mean", "bill, at most", "with waiting, mean"], bills),
    }


_SIZES = (
    ("1 to 99", 100),
    ("100 to 9,999", 10_000),
    ("10,000 to 999,999", 1_000_000),
    ("1,000,000 and more", 10**9),
)


def _size(items: int) -> str:
    return next(name for name, end in _SIZES if items < end)


def _play(seed: int) -> list[Row]:
    one = scenario(seed)
    best, goal = one.clairvoyant(), one.goal
    rows = []
    for way, (name, threshold) in WAYS.items():
        outcome = one.run(name, threshold=threshold)
        rows.append(
            Row(
                seed=seed,
                way=way,
                items=one.items,
                regime=one.world.regime,
                belief=one.belief,
                quotas="told" if one.facts.rates.tokens is not None else "not told",
                deadline=goal.deadline_s is not None,
                feasible=best.meets,
                whole=outcome.whole,
                over=goal.budget is not None and outcome.dollars > goal.budget,
                in_time=goal.deadline_s is None or (outcome.whole and outcome.seconds <= goal.deadline_s),
                ratio=outcome.cost(goal.hour_worth) / best.cost,
            )
        )
    return rows


def _bill(number: int) -> dict[str, tuple[float, float]]:
    """A large pile without a goal against all as jobs, in each regime: the bill, and the bill with waiting."""
    return {regime: _against_jobs(_large(number, regime)) for regime in REGIMES}


def _large(number: int, regime: str) -> Scenario:
    seed = FIRST_SEED + number
    while (
        scenario(seed).items > 50_000 or scenario(seed).belief != "right"
    ):  # quotas as for a pile of this size
        seed += 1000
    one = scenario(seed)
    return replace(
        one,
        items=PILE,
        item_tokens=200,
        goal=Goal(),
        world=replace(one.world, regime=regime, seed=seed),
        facts=replace(one.facts, rates=one.world.quota),
    )


def _against_jobs(one: Scenario) -> tuple[float, float]:
    auto, jobs = one.run("auto"), one.run("batch")
    worth = one.goal.hour_worth
    return auto.dollars / jobs.dollars, auto.cost(worth) / jobs.cost(worth)


def _groups(
    rows: Sequence[Row], group: Callable[[Row], str], names: Iterable[str]
) -> dict[str, dict[str, Any]]:
    return {
        name: _summary([row for row in rows if row.way == "auto" and group(row) == name]) for name in names
    }


def _summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Over the runs that the clairvoyant ends within deadline and budget, and that this way ended at all."""
    feasible = [row for row in rows if row.feasible]
    ratios = sorted(row.ratio for row in feasible if row.whole)
    due = [row for row in feasible if row.deadline]
    return {
        "runs": len(ratios),
        "mean": significant(mean(ratios), 4) if ratios else None,
        "median": significant(median(ratios), 4) if ratios else None,
        "p95": significant(ratios[int(0.95 * (len(ratios) - 1))], 4) if ratios else None,
        "deadlines": len(due),
        "met": sum(row.in_time for row in due),
        "over": sum(row.over for row in rows),
        "unfinished": sum(not row.whole for row in feasible),
    }


def _cells(one: dict[str, Any]) -> list[str]:
    numbers = ["–" if one[key] is None else f"{one[key]:.2f}" for key in ("mean", "median", "p95")]
    met = f"{one['met']} of {one['deadlines']} ({one['met'] / max(1, one['deadlines']):.0%})"
    return [*numbers, met, str(one["over"]), str(one["unfinished"])]
