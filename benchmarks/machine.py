"""What a result says about the machine and the commit it was taken on: never a host name or a path."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.worker import REPOSITORY

_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm")


def describe() -> dict[str, Any]:
    """Processor, cores, memory and kernel."""
    facts = _cpuinfo()
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    return {
        "processor": facts.get("model name", platform.processor() or platform.machine()),
        "family": f"{facts.get('cpu family', '?')}/{facts.get('model', '?')}",
        "instructions": [flag for flag in _FLAGS if flag in flags],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def load() -> float:
    """Mean number of processes that wanted a processor in the last minute: what else was going on."""
    return round(os.getloadavg()[0], 2)


class Stolen:
    """Which part of this machine's cores other machines on the same hardware took, since it was made.

    Only what this machine wanted counts, so it is worth looking at while all cores are busy. 0.0 where the system does
    not tell.
    """

    def __init__(self) -> None:
        self._before, self._began = _stolen_s(), time.perf_counter()

    def share(self) -> float:
        """0 to 1, of all cores' time."""
        passed = time.perf_counter() - self._began
        return round((_stolen_s() - self._before) / (passed * (os.cpu_count() or 1)), 4)


def _stolen_s() -> float:
    return float(getattr(psutil.cpu_times(), "steal", 0.0))


def commit() -> str:
    """The commit that is checked out, `+` added where tracked files differ from it."""
    try:
        name = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", "src", "benchmarks/*.py")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name + ("+" if changed else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def _cpuinfo() -> dict[str, str]:
    """The first processor's entry of /proc/cpuinfo; empty where there is none."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text("utf-8").split("\n\n", maxsplit=1)[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}
