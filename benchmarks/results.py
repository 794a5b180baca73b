"""Result files: one JSON a suite, with where and when it was taken, what was asked, each round, and a summary.

A suite may also be recorded on other machines, each by a name of its own: `throughput-on-zen5.json` stands beside
`throughput.json`.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import machine

FOLDER = Path(__file__).parent / "results"
SMOKE = FOLDER.parent.parent / "out" / "benchmarks"
"""Where a smoke run's results go: its figures mean nothing and stay out of the recorded ones."""
_ON = "-on-"


def record(  # the parts of a result file, each by name
    suite: str,
    *,
    parameters: dict[str, Any],
    rounds: Any,
    summary: dict[str, Any],
    versions: dict[str, Any] | None = None,
    problems: dict[str, str] | None = None,
) -> dict[str, Any]:
    """A result with its date and machine; the commit is added by whoever started the suite."""
    return {
        "suite": suite,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine.describe(),
        "load_at_end": machine.load(),
        "parameters": parameters,
        "versions": versions or {},
        "not_run": problems or {},
        "summary": summary,
        "rounds": rounds,
    }


def save(result: dict[str, Any], folder: Path = FOLDER, *, on: str | None = None) -> Path:
    """Write a result under its suite's name, and that of the machine it is `on` if given, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = _path(result["suite"], folder, on)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
    partial.replace(path)
    return path


def read(suite: str, folder: Path = FOLDER, *, on: str | None = None) -> dict[str, Any] | None:
    """A suite's result, or None where none is recorded."""
    path = _path(suite, folder, on)
    if not path.exists():
        return None
    result: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return result


def machines(suite: str, folder: Path = FOLDER) -> list[str]:
    """Names of the other machines that a suite is recorded on."""
    return sorted(path.stem.partition(_ON)[2] for path in folder.glob(f"{suite}{_ON}*.json"))


def _path(suite: str, folder: Path, on: str | None) -> Path:
    return folder / (f"{suite}{_ON}{on}.json" if on else f"{suite}.json")
