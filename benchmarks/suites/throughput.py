"""Texts per second of embatch and its peers on four sets of texts, tokenisation and writing of the results included.

One run, interleaved: in each round each system embeds each set once, in an order that rotates. Ratios are taken
within a round. Beside them stand the cosines to the yardstick's vectors, the share of the machine's matrix-product
ceiling, and the yardstick fed one text at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import machine, markdown, results, texts
from benchmarks.harness import Stage, make_sets, turns
from benchmarks.kernels import MINILM, Ceiling, can_compute
from benchmarks.stats import ratios, significant, spread
from benchmarks.systems import HASHING, YARDSTICK, own, peers
from benchmarks.workers.convert import MAX_TOKENS
from benchmarks.workers.protocol import read_vectors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from benchmarks.harness import Settings
    from benchmarks.kernels import HasRate
    from benchmarks.systems import System

STRONGEST = "sentence-transformers openvino"
NEIGHBOURS = (STRONGEST, "embatch auto", YARDSTICK, "embatch fp32", "embatch int8", "ctranslate2 int8")
"""Systems that follow each other in a round, because their ratios are asked for: a shared machine is not the same a
minute later."""
SIZES = {"short": 1500, "mixed": 600, "long": 150, "repeats": 600}
QUICK = {"short": 200, "mixed": 60, "long": 15, "repeats": 60}
TASKS = 512  # texts that are also sent one at a time
ONE_BY_ONE = "tasks one by one"
_WARM = 4  # a quarter of each set is embedded before anything is timed


def run(settings: Settings) -> dict[str, Any]:
    """Every system that can run here, over every set, round by round."""
    return measure(
        "throughput",
        settings,
        systems=[*own(), *peers(settings.model), HASHING],
        sizes=QUICK if settings.quick else SIZES,
        ceilings={name: Ceiling(name) for name in ("fp32", "bf16") if can_compute(name)},
    )


def measure(
    suite: str,
    settings: Settings,
    *,
    systems: list[System],
    sizes: Mapping[str, int],
    ceilings: Mapping[str, HasRate],
) -> dict[str, Any]:
    """The rounds of any systems; the yardstick must be among them for ratios and cosines."""
    sets = make_sets(sizes)
    tasks = texts.short(settings.scaled(TASKS, 32))
    with Stage(systems, settings.work) as stage:
        for name, rows in {**sets, "tasks": tasks}.items():
            stage.give(name, rows)
        _warm(stage, sets)
        passes: list[dict[str, Any]] = []
        tops: list[dict[str, dict[str, float]]] = []
        for number, job, system in turns(in_turn(stage.names), [*sets, "tasks"], settings.rounds):
            if len(tops) == number:
                tops.append({name: ceiling.measure() for name, ceiling in ceilings.items()})
                print(f"  round {number + 1} of {settings.rounds}, load {machine.load()}", flush=True)
            passes.extend(_turn(stage, number, job, system))
        lengths = {name: token_lengths(settings.model, rows) for name, rows in sets.items()}
        summary = summarise(passes, tops, lengths, _cosines(stage, list(sets)))
        return results.record(
            suite,
            parameters={
                "rounds": settings.rounds,
                "sets": {name: _facts(rows, lengths[name]) for name, rows in sets.items()},
                "one_by_one_texts": len(tasks),
                "settings": {name: stage.systems[name].setting for name in stage.systems},
                "timed": "from a list of str to a Parquet file of keys and float32 vectors",
            },
            rounds={"passes": passes, "ceilings": tops},
            summary={**summary, "idle_cpu_s": {k: significant(v, 3) for k, v in stage.idle_s.items()}},
            versions=stage.versions,
            problems=stage.problems,
        )


def in_turn(names: Iterable[str]) -> list[str]:
    """The order of a round: `NEIGHBOURS` first, the others as they come."""
    there = list(names)
    near = [name for name in NEIGHBOURS if name in there]
    return near + [name for name in there if name not in near]


def token_lengths(model: Path, rows: list[str]) -> list[int]:
    """Tokens of each text, special tokens included, cut at the model's limit."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return [len(encoding.ids) for encoding in tokenizer.encode_batch(rows)]


def summarise(
    passes: list[dict[str, Any]],
    ceilings: list[dict[str, dict[str, float]]],
    lengths: Mapping[str, list[int]],
    cosines: Mapping[str, Mapping[str, dict[str, float]]],
) -> dict[str, Any]:
    """Rates, ratios and shares by set and system, medians over the rounds."""
    seconds: dict[str, dict[str, list[float]]] = {}
    for one in passes:
        seconds.setdefault(one["set"], {}).setdefault(one["system"], []).append(one["seconds"])
    precisions = {
        one["system"]: one["precision"]
        for one in passes
        if "precision" in one and one["system"] != HASHING.name  # it multiplies no matrices
    }
    sets: dict[str, Any] = {}
    for name, tokens in lengths.items():
        times = _complete(seconds.get(name, {}))
        sets[name] = {
            system: {
                **_rates(took, tokens),
                **_against(took, times),
                **cosines.get(name, {}).get(system, {}),
                **_share(took, tokens, ceilings, precisions.get(system, "")),
            }
            for system, took in times.items()
        }
    tops = ceilings[0] if ceilings else {}
    return {
        "sets": sets,
        "one_by_one": _one_by_one(passes, seconds),
        "ceiling_gflops": {name: spread([one[name]["best"] for one in ceilings]) for name in tops},
    }


def tables(result: dict[str, Any]) -> dict[str, str]:
    """`throughput`: rate by set and system; `one-by-one`; `ceiling`: shares."""
    sets: dict[str, dict[str, Any]] = result["summary"]["sets"]
    systems = [
        name
        for name in result["parameters"]["settings"]
        if any(name in by_system for by_system in sets.values())
    ]
    rows = [[system, *(_cell(by_system.get(system)) for by_system in sets.values())] for system in systems]
    cosines = [
        [system, f"{one['cosine_mean']:.5f}", f"{one['cosine_min']:.5f}"]
        for system in systems
        if "cosine_mean" in (one := sets["mixed"].get(system, {}))
    ]
    shares = [
        [
            f"{system}, {name}",
            markdown.number(one["gflops"]["median"]),
            f"{one['ceiling_share']['median']:.0%}",
        ]
        for system in systems
        for name, by_system in sets.items()
        if "ceiling_share" in (one := by_system.get(system, {})) and name != "repeats"
    ]
    alone = result["summary"]["one_by_one"]
    single = [
        [name, markdown.number(alone[name]["texts_per_s"]["median"]), f"{alone[name]['ratio']['median']:.1f}"]
        for name in sorted(alone, key=lambda name: systems.index(name) if name in systems else -1)
    ]
    note = f"\n\n{markdown.footnote(result)}"
    return {
        "throughput": markdown.table(["texts/s (× yardstick)", *sets], rows) + note,
        "cosines": markdown.table(["cosine to the yardstick, mixed texts", "mean", "lowest"], cosines),
        "one-by-one": markdown.table(["short task texts", "texts/s", "×"], single),
        "ceiling": markdown.table(["", "GFLOP/s", "of the ceiling"], shares),
    }


def _warm(stage: Stage, sets: Mapping[str, list[str]]) -> None:
    for system in stage.names:
        for name, rows in sets.items():
            some = max(1, len(rows) // _WARM)
            stage.attempt(system, lambda one, name=name, some=some: stage.embed(one, name, rows=some))  # type: ignore[misc]  # bound now


def _turn(stage: Stage, number: int, job: str, system: str) -> list[dict[str, Any]]:
    """One system's pass over one set; the yardstick also takes the tasks one at a time."""
    if job == "tasks" and not (system == YARDSTICK or system.startswith("embatch")):
        return []
    facts = {"round": number, "set": job, "system": system}
    found: list[dict[str, Any]] = []

    def turn(name: str) -> None:
        found.append({**facts, **stage.embed(name, job)})
        if job == "tasks" and name == YARDSTICK:
            answer = stage.ask(name, "one_by_one", name=job, out=str(stage.out(name, ONE_BY_ONE)))
            found.append({**facts, "set": ONE_BY_ONE, **answer})

    stage.attempt(system, turn)
    return found


def _complete(seconds: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """Those systems that were there in every round."""
    rounds = max((len(took) for took in seconds.values()), default=0)
    return {system: took for system, took in seconds.items() if len(took) == rounds}


def _cosines(stage: Stage, sets: list[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Mean and lowest cosine to the yardstick's vectors, by set and system."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in sets:
        reference = stage.out(YARDSTICK, name)
        if not reference.exists():
            continue
        base = _unit(read_vectors(reference))
        for system in stage.names:
            vectors = _unit(read_vectors(stage.out(system, name)))
            if vectors.shape != base.shape or system == HASHING.name:
                continue
            cosine = np.einsum("ij,ij->i", base, vectors)
            found.setdefault(name, {})[system] = {
                "cosine_mean": round(float(cosine.mean()), 6),
                "cosine_min": round(float(cosine.min()), 6),
            }
    return found


def _unit(vectors: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    wide = vectors.astype(np.float64)
    unit: np.ndarray[Any, np.dtype[np.float64]] = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return unit


def _facts(rows: list[str], lengths: list[int]) -> dict[str, Any]:
    return {
        "texts": len(rows),
        "different": len(set(rows)),
        "tokens": sum(lengths),
        "mean_tokens": round(sum(lengths) / len(lengths), 1),
        "truncated_at": MAX_TOKENS,
        "digest": texts.digest(rows),
    }


def _rates(took: list[float], lengths: list[int]) -> dict[str, Any]:
    return {
        "texts_per_s": spread([len(lengths) / one for one in took]),
        "tokens_per_s": spread([sum(lengths) / one for one in took]),
    }


def _against(took: list[float], times: Mapping[str, list[float]]) -> dict[str, Any]:
    named = {"ratio": YARDSTICK, "against_openvino": STRONGEST}
    return {key: spread(ratios(times[base], took)) for key, base in named.items() if base in times}


def _share(
    took: list[float], lengths: list[int], ceilings: list[dict[str, dict[str, float]]], precision: str
) -> dict[str, Any]:
    if not ceilings or precision not in ceilings[0]:
        return {}
    work = MINILM.operations(lengths) / 1e9
    rates = [work / one for one in took]
    best = [one[precision]["best"] for one in ceilings]
    return {"gflops": spread(rates), "ceiling_share": spread(ratios(rates, best))}


def _one_by_one(
    passes: list[dict[str, Any]], seconds: Mapping[str, Mapping[str, list[float]]]
) -> dict[str, Any]:
    """Task texts: all together in each system, against one at a time through the yardstick."""
    single = seconds.get(ONE_BY_ONE, {}).get(YARDSTICK)
    if single is None:
        return {}
    count = next(one["rows"] for one in passes if one["set"] == ONE_BY_ONE)
    systems = {f"{YARDSTICK}, one at a time": single, **_complete(seconds["tasks"])}
    return {
        name: {"texts_per_s": spread([count / s for s in took]), "ratio": spread(ratios(single, took))}
        for name, took in systems.items()
    }


def _cell(one: dict[str, Any] | None) -> str:
    if one is None:
        return "–"
    rate = markdown.number(one["texts_per_s"]["median"])
    return f"{rate} ({one['ratio']['median']:.2f})" if "ratio" in one else rate
