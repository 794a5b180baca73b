"""Task vectors in batches against one task at a time through sentence-transformers, on short task texts.

Interleaved: in each round each way embeds each pile of tasks once, in an order that rotates; ratios are taken within a
round. Beside them: the cosines to the yardstick's vectors, and the peak memory of a process that records 1,000 tasks.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import machine, markdown, results, texts
from benchmarks.harness import Stage
from benchmarks.stats import ratios, significant, spread
from benchmarks.systems import OWN, YARDSTICK, System, yardstick
from benchmarks.worker import REPOSITORY, WorkerError
from benchmarks.workers.protocol import read_vectors

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.harness import Settings

NEURAL, TFIDF = "embatch tasks", "embatch tasks tfidf"
BATCHES = (8, 16, 32, 64, 256)
PILES = (32, 100, 1000)
SINGLE = 0  # in place of a batch size: one call a task
DEFAULT = 32
RECORDED = 1000


def run(settings: Settings) -> dict[str, Any]:
    """Every way over every pile, round by round, and then the memory."""
    piles = PILES[:2] if settings.quick else PILES
    lines = texts.short(max(*piles, RECORDED))
    with Stage(_systems(settings.model), settings.work) as stage:
        for count in piles:
            stage.give(_pile(count), lines[:count])
        ways = [(system, size) for system in stage.names for size in _sizes(system)]
        for system, size in ways:  # every shape of batch is compiled before anything is timed
            stage.attempt(system, lambda one, size=size: _pass(stage, one, size, piles[-1]))  # type: ignore[misc]  # bound now
        passes: list[dict[str, Any]] = []
        for number in range(settings.rounds):
            print(f"  round {number + 1} of {settings.rounds}, load {machine.load()}", flush=True)
            for count in piles:
                for place in range(len(ways)):
                    system, size = ways[(place + number) % len(ways)]
                    stage.attempt(
                        system,
                        lambda one, size=size, count=count, number=number: passes.append(  # type: ignore[misc]  # same
                            {"round": number, **_pass(stage, one, size, count)}
                        ),
                    )
        cosines = _cosines(stage, piles[-1])
        versions, problems = stage.versions, stage.problems
    memory = record_tasks(lines[: settings.scaled(RECORDED, 50)], settings.work)
    return results.record(
        "tasks",
        parameters={"rounds": settings.rounds, "piles": list(piles), "digest": texts.digest(lines)},
        rounds={"passes": passes},
        summary={"piles": summarise(passes), "cosines": cosines, "recording": memory},
        versions=versions,
        problems=problems,
    )


def record_tasks(lines: list[str], work: Path) -> dict[str, Any]:
    """Peak memory and time of `embatch tasks record --batch-from-file` in a process of its own, its start included.

    Raises:
        WorkerError: the command failed.
    """
    workspace, source = work / "workspace", work / "tasks.jsonl"
    workspace.mkdir()
    rows = [json.dumps({"task_id": f"T{number}", "title": line}) for number, line in enumerate(lines)]
    source.write_text("\n".join(rows), "utf-8")
    command = [sys.executable, "-m", "embatch", "tasks", "record", workspace, "--batch-from-file", source]
    measured = [
        sys.executable,
        "-m",
        "benchmarks.workers.measured",
        *map(str, command),
        "--embedding-mode",
        "neural",
    ]
    done = subprocess.run(measured, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    answer = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {"code": done.returncode}
    if answer["code"] != 0:
        raise WorkerError(done.stderr.strip() or "recording failed")
    return {
        "tasks": len(lines),
        "peak_mib": significant(answer["peak_mib"]),
        "seconds": significant(answer["seconds"]),
    }


def summarise(passes: list[dict[str, Any]]) -> dict[str, Any]:
    """Milliseconds a task and ratios to the yardstick's single calls, by pile and way."""
    took: dict[int, dict[str, list[float]]] = {}
    for one in passes:
        took.setdefault(one["count"], {}).setdefault(one["way"], []).append(one["seconds"])
    base = way_name(YARDSTICK, SINGLE)
    return {
        str(count): {
            way: {
                "ms_per_task": spread([1000 * s / count for s in seconds]),
                **(
                    {"ratio": spread(ratios(by_way[base], seconds))}
                    if len(by_way.get(base, [])) == len(seconds)
                    else {}
                ),
            }
            for way, seconds in by_way.items()
        }
        for count, by_way in took.items()
    }


def way_name(system: str, size: int) -> str:
    """What tables call a way."""
    return f"{system}, one at a time" if size == SINGLE else f"{system}, batches of {size}"


def tables(result: dict[str, Any]) -> dict[str, str]:
    """`tasks`: milliseconds a task by way and pile, and how many times as fast as the yardstick one at a time."""
    piles: dict[str, dict[str, Any]] = result["summary"]["piles"]
    ways = list(dict.fromkeys(way for by_way in piles.values() for way in by_way))
    head = ["short task texts, ms each (×)", *(f"{int(count):,} tasks" for count in piles)]
    rows = [[way, *(_cell(by_way.get(way)) for by_way in piles.values())] for way in ways]
    memory, cosines = result["summary"]["recording"], result["summary"]["cosines"]
    facts = (
        f"Recording {memory['tasks']:,} tasks took {memory['seconds']:g} s, start included, and "
        f"{markdown.number(memory['peak_mib'])} MiB at most."
    )
    if cosines:
        facts += f" Lowest cosine to the yardstick's vectors: {cosines['min']:.5f}."
    return {"tasks": f"{markdown.table(head, rows)}\n\n{facts}\n\n{markdown.footnote(result)}"}


def _systems(model: Path) -> list[System]:
    return [
        yardstick(model),
        *(
            System(
                name=name,
                environment=OWN,
                worker="tasks",
                options={"mode": mode},
                setting=f"`TaskEmbedder({mode!r})`",
            )
            for name, mode in ((NEURAL, "neural"), (TFIDF, "tfidf"))
        ),
    ]


def _sizes(system: str) -> tuple[int, ...]:
    return (SINGLE, *BATCHES) if system == NEURAL else (SINGLE, DEFAULT)


def _pile(count: int) -> str:
    return f"{count} tasks"


def _pass(stage: Stage, system: str, size: int, count: int) -> dict[str, Any]:
    """One way over one pile; the yardstick's batches are at its default, which is 32 too."""
    facts = {"way": way_name(system, size), "count": count}
    if size == SINGLE:
        out = stage.out(system, f"{_pile(count)} singly")
        return {**facts, **stage.ask(system, "one_by_one", name=_pile(count), out=str(out))}
    if system != YARDSTICK:
        stage.ask(system, "batches", size=size)
    return {**facts, **stage.embed(system, _pile(count))}


def _cosines(stage: Stage, count: int) -> dict[str, float]:
    """Mean and lowest cosine of batches to the yardstick's single calls."""
    theirs, ours = stage.out(YARDSTICK, f"{_pile(count)} singly"), stage.out(NEURAL, _pile(count))
    if not (theirs.exists() and ours.exists()):
        return {}
    cosines = np.einsum("ij,ij->i", read_vectors(theirs), read_vectors(ours))
    return {"mean": round(float(cosines.mean()), 6), "min": round(float(cosines.min()), 6)}


def _cell(one: dict[str, Any] | None) -> str:
    if one is None:
        return "–"
    ms = markdown.number(one["ms_per_task"]["median"])
    return f"{ms} ({one['ratio']['median']:.1f})" if "ratio" in one else ms
