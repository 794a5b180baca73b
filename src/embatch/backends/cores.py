"""How many cores this process may use: limits that containers set (quota, affinity) count. Nothing is measured.

Backends on the processor ask here once, when they start.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")
_TOPOLOGY = Path("/sys/devices/system/cpu")


def usable_cores() -> int:
    """Physical cores that this process may keep busy: at least 1, never more than affinity or cgroup quota allow."""
    allowed = _allowed_processors()
    cores = physical_cores(allowed) or len(allowed)
    quota = cgroup_quota()
    return max(1, cores if quota is None else min(cores, math.floor(quota + 0.01)))


def _allowed_processors() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    # Systems without affinity (macOS) do not have two threads a core either, or report the physical ones here.
    return set(range(psutil.cpu_count(logical=False) or os.cpu_count() or 1))


def physical_cores(processors: set[int], topology: Path = _TOPOLOGY) -> int:
    """How many different cores the processors are: two threads of one core share its arithmetic. 0 if unknown."""
    cores = set()
    for processor in processors:
        try:
            siblings = (topology / f"cpu{processor}/topology/thread_siblings_list").read_text(
                encoding="ascii"
            )
        except OSError:
            return 0
        cores.add(siblings.strip())
    return len(cores)


def cgroup_quota(folder: Path = _CGROUP) -> float | None:
    """Cores' worth of time that the container gets; None without a limit."""
    try:
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:  # the older version of cgroups
            quota = (folder / "cpu/cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (folder / "cpu/cpu.cfs_period_us").read_text(encoding="ascii").strip()
        except OSError:
            return None
    try:
        share = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max": no limit
        return None
    return share if share > 0 else None
