"""The cold tuner against every fixed budget, on each set of texts and each backend, and against a fixed count of 32.

A sweep tries every budget that the tuner may choose, in interleaved rounds; budgets far behind after the first
round are not repeated. The tuner starts cold in every round, on more texts, and is compared in two ways: how fast
the budget that it ends with is against the best of the sweep, and how much longer its whole run took than the same
run at the best budget, as a share of what 10,000 such texts take. The two are
timed in turn, as often as half a minute allows.

The best of a sweep is the luckiest of many where they are much alike, so its speed is not taken from there: where the
tuner ended with another budget, the two are measured once more, in turn, several times.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks import machine, markdown, results
from benchmarks.harness import Stage, make_sets, rotated
from benchmarks.stats import Spread, ratios, significant, spread
from benchmarks.systems import HASHING, OWN, System

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.harness import Settings

RUN_TEXTS = 10_000
COUNT = 32
ROUNDS = 3  # at most: a round here is as long as two of the throughput suite
SWEEP = {"short": 1000, "mixed": 240, "long": 80, "repeats": 320}
QUICK = {"short": 200, "mixed": 40}
_COLD = 4  # the cold run has so many times the sweep's texts: a search needs batches to end
_HOPELESS = 0.7  # of the best rate after the first round
_FULL = 3  # a budget must leave each stream so many batches, or it measures idle streams
DUELS = 8  # more passes of the tuner's budget and of the best, in turn
PRICED = (3, 48)  # pairs of runs, cold and at the best budget: the least and the most
_PRICING_S = 30.0  # and as many as this allows
_SCALE = {"openvino": 1.0, "torch": 0.25, "hashing": 30.0}
"""Texts of each backend against `SWEEP`: so that a pass takes seconds, neither more nor less."""


def run(settings: Settings) -> dict[str, Any]:
    """Each backend in turn; within a backend all variants of a set follow each other closely."""
    summary: dict[str, Any] = {}
    rounds: list[dict[str, Any]] = []
    problems: dict[str, str] = {}
    versions: dict[str, Any] = {}
    for backend, system in backends().items():
        with Stage([system], settings.work) as stage:
            if stage.names:
                summary[backend] = _backend(stage, system.name, backend, settings, rounds)
            if system.name in stage.problems:
                problems[backend] = stage.problems[system.name]
            versions[backend] = stage.versions.get(system.name, {})
    return results.record(
        "tuner",
        parameters={
            "rounds": min(settings.rounds, ROUNDS),
            "sweep_texts": SWEEP,
            "scale": _SCALE,
            "cold_texts": _COLD,
        },
        rounds=rounds,
        summary=summary,
        versions=versions,
        problems=problems,
    )


def backends() -> dict[str, System]:
    """embatch with each backend, at its default precision."""
    torch = System(
        name="torch",
        environment=OWN,
        worker="embatch",
        options={"model": "minilm", "backend": "torch", "device": "cpu"},
        setting="`Embedder(backend='torch')`",
    )
    openvino = System(
        name="openvino",
        environment=OWN,
        worker="embatch",
        options={"model": "minilm", "backend": "openvino"},
        setting="`Embedder(backend='openvino')`",
    )
    return {"openvino": openvino, "torch": torch, "hashing": HASHING}


def _backend(
    stage: Stage, system: str, backend: str, settings: Settings, rounds: list[dict[str, Any]]
) -> dict[str, Any]:
    sizes = {name: int(size * _SCALE[backend]) for name, size in (QUICK if settings.quick else SWEEP).items()}
    found: dict[str, Any] = {}
    for name, rows in make_sets({one: size * _COLD for one, size in sizes.items()}).items():
        stage.give("cold", rows)
        stage.give("sweep", rows[: sizes[name]])
        limits = stage.ask(system, "tune")
        budgets = budgets_for(limits, stage.embed(system, "sweep")["tokens"])
        mine = Sweep(stage, system, budgets)
        print(f"  {backend}, {name}, budgets {budgets}, load {machine.load()}", flush=True)
        for number in range(min(settings.rounds, ROUNDS)):
            mine.play(number)
        mine.duel()
        priced = rows[:RUN_TEXTS]
        stage.give("run", priced)
        mine.price()
        rounds.append({"backend": backend, "set": name, "texts": sizes[name], "passes": mine.passes})
        found[name] = summarise(mine.passes, priced_texts=len(priced))
    return found


def budgets_for(limits: Mapping[str, Any], tokens: int) -> list[int]:
    """The budgets that the tuner may choose, as far as the texts give every stream several batches.

    >>> budgets_for({"budgets": [64, 32768], "first_budget": 1024, "streams": 2}, 13_000)
    [64, 128, 256, 512, 1024, 2048]
    """
    low, high = limits["budgets"]
    budgets = [limits["first_budget"]]
    while budgets[0] // 2 >= low:
        budgets.insert(0, budgets[0] // 2)
    most = max(limits["first_budget"], tokens // (_FULL * limits["streams"]))
    while budgets[-1] * 2 <= min(high, most):
        budgets.append(budgets[-1] * 2)
    return budgets


class Sweep:
    """The passes of one set on one backend."""

    def __init__(self, stage: Stage, system: str, budgets: list[int]) -> None:
        self.passes: list[dict[str, Any]] = []
        self._stage = stage
        self._system = system
        self._budgets = budgets

    def play(self, number: int) -> None:
        """One round: a cold run, each budget that is still in the race, and the fixed counts."""
        cold = self._record(number, "cold", {"cold": True}, "cold")
        if cold["budget"] not in self._budgets:
            self._budgets.append(cold["budget"])
        ways: list[tuple[str, dict[str, Any]]] = [(str(size), {"budget": size}) for size in self._budgets]
        ways += [("count", {"count": COUNT}), ("count in order", {"in_order": COUNT})]
        ways.append(("documents", {"documents": True}))
        for way, how in (
            ways[place] for place in map(int, rotated([str(i) for i in range(len(ways))], number * 3))
        ):
            self._record(number, way, how, "sweep")
        if number == 0:
            self._drop_hopeless(cold["budget"])

    def duel(self) -> None:
        """The budgets that the tuner ended with against the sweep's best, in turn, where they are not the same."""
        best = best_budget(self.passes)
        ended = {one["budget"] for one in self.passes if one["way"] == "cold"}
        for final in sorted(ended - {best}):
            sides = [(mine_in_duel(final), final), (best_in_duel(final), best)]
            for number in range(DUELS):
                for way, budget in sides if number % 2 else sides[::-1]:
                    self._record(number, way, {"budget": budget}, "sweep")

    def price(self) -> None:
        """Cold runs of 10,000 texts at most and the same at the sweep's best budget, in turn."""
        sides: list[tuple[str, dict[str, Any]]] = [
            ("cold run", {"cold": True}),
            ("best run", {"budget": best_budget(self.passes)}),
        ]
        spent, number = 0.0, 0
        while number < PRICED[0] or (number < PRICED[1] and spent < _PRICING_S):
            for way, how in sides if number % 2 else sides[::-1]:
                spent += self._record(number, way, how, "run")["seconds"]
            number += 1

    def _drop_hopeless(self, keep: int) -> None:
        rates = {one["way"]: 1 / one["seconds"] for one in self.passes if one["way"].isdecimal()}
        top = max(rates.values())
        self._budgets = [
            size for size in self._budgets if rates[str(size)] >= _HOPELESS * top or size == keep
        ]

    def _record(self, number: int, way: str, how: dict[str, Any], name: str) -> dict[str, Any]:
        self._stage.ask(self._system, "tune", **how)
        answer = self._stage.embed(self._system, name)
        facts = {"round": number, "way": way, "seconds": significant(answer["seconds"], 6)}
        self.passes.append({**facts, **{key: answer[key] for key in ("budget", "settled") if key in answer}})
        return self.passes[-1]


def mine_in_duel(final: int) -> str:
    """How the tuner's side of a duel is called among the passes."""
    return f"{final} in duel"


def best_in_duel(final: int) -> str:
    """The other side."""
    return f"best in duel with {final}"


def best_budget(passes: list[dict[str, Any]]) -> int:
    """The budget with the lowest median time among those of the last round."""
    took: dict[str, list[float]] = {}
    for one in passes:
        if one["way"].isdecimal():
            took.setdefault(one["way"], []).append(one["seconds"])
    rounds = max(map(len, took.values()))
    return int(min((way for way in took if len(took[way]) == rounds), key=lambda way: median(took[way])))


def summarise(passes: list[dict[str, Any]], *, priced_texts: int) -> dict[str, Any]:
    """The figures of one set on one backend, each a median over the rounds of ratios within a round."""
    took = {(one["round"], one["way"]): float(one["seconds"]) for one in passes}
    ended = [one["budget"] for one in passes if one["way"] == "cold"]
    rounds = len(ended)
    best = best_budget(passes)

    def column(way: str, count: int = rounds) -> list[float]:
        return [took[number, way] for number in range(count)]

    def against_best(final: int) -> float:
        if final == best:
            return 1.0
        return median(ratios(column(best_in_duel(final), DUELS), column(mine_in_duel(final), DUELS)))

    final = [took.get((number, str(ended[number])), took[number, str(best)]) for number in range(rounds)]
    return {
        "best_budget": best,
        "final_budgets": ended,
        "settled": [one["settled"] for one in passes if one["way"] == "cold"],
        "final_against_best": spread([against_best(final) for final in ended]),
        "cost_in_10000_texts": spread(_costs(took, priced_texts)),
        "against_count_in_order": spread(ratios(column("count in order"), final)),
        "against_count_sorted": spread(ratios(column("count"), final)),
        "documents_against_count_in_order": spread(ratios(column("count in order"), column("documents"))),
        "documents_against_count_sorted": spread(ratios(column("count"), column("documents"))),
    }


def _costs(took: Mapping[tuple[int, str], float], texts: int) -> list[float]:
    """What each cold run of so many texts took longer than the best budget's, as a share of 10,000 texts at that."""
    pairs = [
        (took[number, "cold run"], took[number, "best run"]) for number, way in took if way == "cold run"
    ]
    return [(cold - best) / (best * RUN_TEXTS / texts) for cold, best in pairs]


def tables(result: dict[str, Any]) -> dict[str, str]:
    """`tuner`: one row for each backend and set."""
    rows = [
        [
            f"{backend}, {name}",
            f"{one['best_budget']:,}",
            ", ".join(f"{budget:,}" for budget in one["final_budgets"]),
            _percent(one["final_against_best"]),
            _percent(one["cost_in_10000_texts"]),
            f"{one['against_count_in_order']['median']:.2f}",
            f"{one['against_count_sorted']['median']:.2f}",
            f"{one['documents_against_count_in_order']['median']:.2f}",
            f"{one['documents_against_count_sorted']['median']:.2f}",
        ]
        for backend, sets in result["summary"].items()
        for name, one in sets.items()
    ]
    head = [
        "backend, texts",
        "best fixed budget",
        "tuner's, by round",
        "its speed against the best",
        "cost in 10,000 texts",
        f"× {COUNT} texts, input order",
        f"× {COUNT} texts, sorted",
        f"`BatchTuner` × {COUNT}, input order",
        f"`BatchTuner` × {COUNT}, sorted",
    ]
    return {"tuner": f"{markdown.table(head, rows)}\n\n{markdown.footnote(result)}"}


def _percent(one: Spread) -> str:
    return f"{one['median']:.1%}"
