"""Peak memory of whole `embatch embed` runs from JSONL to Parquet, small and large: it must not grow with the texts."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from benchmarks import machine, markdown, results, texts
from benchmarks.stats import significant
from benchmarks.worker import REPOSITORY, WorkerError
from benchmarks.workers.protocol import versions

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.harness import Settings

SIZES = {"hashing": (50_000, 1_000_000), "minilm": (5_000, 50_000)}
QUICK = {"hashing": (2_000, 20_000), "minilm": (200, 1_000)}
_DIFFERENT = 20_000


def run(settings: Settings) -> dict[str, Any]:
    """Each model, each size, once: a process of its own, its peak read from the kernel when it has ended."""
    measured: list[dict[str, Any]] = []
    problems: dict[str, str] = {}
    for model, sizes in (QUICK if settings.quick else SIZES).items():
        for size in sizes:
            source = settings.work / f"{size}.jsonl"
            write_texts(source, size)
            print(f"  {model}, {size:,} texts, load {machine.load()}", flush=True)
            try:
                answer = embed_file(source, settings.work / f"{model}-{size}.parquet", model)
                measured.append({"model": model, "texts": size, **answer})
            except WorkerError as error:
                problems[f"{model}, {size} texts"] = str(error)
            source.unlink()
    return results.record(
        "memory",
        parameters={"from": "JSONL", "to": "Parquet", "journal": True, "texts": "short, all different"},
        rounds=measured,
        summary=summarise(measured),
        versions={"embatch": versions(["embatch", "openvino", "pyarrow", "numpy", "tokenizers"])},
        problems=problems,
    )


def write_texts(path: Path, count: int) -> None:
    """`count` short texts, all different, one JSON object a line."""
    lines = texts.short(min(count, _DIFFERENT))
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            text = f"{lines[number % len(lines)]} {number}"
            file.write(json.dumps({"id": number, "text": text}) + "\n")


def embed_file(source: Path, target: Path, model: str) -> dict[str, Any]:
    """Run `embatch embed` on a file in a process of its own; its output is deleted.

    Raises:
        WorkerError: the command failed.
    """
    command = [sys.executable, "-m", "embatch", "embed", source, "--to", target, "--model", model, "--quiet"]
    measured = [sys.executable, "-m", "benchmarks.workers.measured", *map(str, command)]
    done = subprocess.run(measured, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode != 0 or (answer := json.loads(done.stdout))["code"] != 0:
        raise WorkerError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "it failed")
    target.unlink()
    return {name: significant(value) for name, value in answer.items() if name != "code"}


def summarise(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """Peaks in MiB by model, and how much the large run's is above the small one's."""
    summary: dict[str, Any] = {}
    for model in dict.fromkeys(one["model"] for one in measured):
        runs = sorted((one for one in measured if one["model"] == model), key=lambda one: int(one["texts"]))
        summary[model] = {
            "peaks_mib": {str(one["texts"]): one["peak_mib"] for one in runs},
            "texts_per_s": {str(one["texts"]): significant(one["texts"] / one["seconds"]) for one in runs},
            "growth_mib": significant(runs[-1]["peak_mib"] - runs[0]["peak_mib"]),
        }
    return summary


def tables(result: dict[str, Any]) -> dict[str, str]:
    """`memory`: peaks by model and number of texts."""
    rows = [
        [model, f"{int(size):,}", markdown.number(one["texts_per_s"][size]), markdown.number(peak)]
        for model, one in result["summary"].items()
        for size, peak in one["peaks_mib"].items()
    ]
    table = markdown.table(["JSONL to Parquet", "texts", "texts/s, start included", "peak memory, MiB"], rows)
    return {"memory": f"{table}\n\n{markdown.footnote(result)}"}
