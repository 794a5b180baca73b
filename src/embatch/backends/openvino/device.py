"""What the processor offers: how many cores this process may use, and what its arithmetic is fastest in.

The backend asks here once, when it starts. Limits that containers set (quota, affinity) count; nothing is measured.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from embatch.errors import UsageError

if TYPE_CHECKING:
    from embatch.types import Precision

_CGROUP = Path("/sys/fs/cgroup")
_TOPOLOGY = Path("/sys/devices/system/cpu")
_TYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}  # OpenVINO's name of a type -> ours
_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}  # our name of a precision -> what OpenVINO is told


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


_KERNELS = "128"
"""Kernels kept for shapes seen before. OpenVINO keeps 5,000: with the many shapes of a server's batches, or of an
index's windows, memory grew by 400 MB over 3,600 batches and had not ended. With these few it grows least. 2,000 mixed,
6,000 short and 600 long texts were no slower; batches of 4 to 11 texts whose shapes all come again were by 5 to 8 %. In
a server, with ever new shapes, no difference stood out from the noise."""


def native_precision(core: Any) -> Precision:
    """What the processor computes in by preference: bf16 or fp16 where it does so natively, else fp32.

    OpenVINO's own default says so; its list of capabilities also holds types that are only emulated.
    """
    name = core.get_property("CPU", "INFERENCE_PRECISION_HINT").to_string()
    return "bf16" if name == "bf16" else "fp16" if name == "f16" else "fp32"


def check_precision(core: Any, precision: Precision) -> None:
    """Refuse a precision that this processor would only emulate.

    Raises:
        UsageError: names the precision and what the processor has.
    """
    native = native_precision(core)
    if precision in ("bf16", "fp16") and precision != native:
        raise UsageError(
            f"precision={precision!r}: this processor computes natively in "
            + ("fp32 only" if native == "fp32" else f"fp32 and {native}"),
            hint="Use precision='auto', which takes the fastest that is exact enough, or 'fp32'.",
        )


def compile_options(precision: Precision, *, streams: int, threads: int) -> dict[str, Any]:
    """What OpenVINO is told: `streams` requests side by side over `threads` threads in all."""
    return {
        "INFERENCE_PRECISION_HINT": _HINTS.get(precision, "f32"),
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": threads,
        "CPU_RUNTIME_CACHE_CAPACITY": _KERNELS,
        # OpenVINO ties its threads to cores, those of each model to the same ones: two models, or two processes, then
        # share one core while another is idle: one sixth of two cores was, with a variant beside the general model.
        "ENABLE_CPU_PINNING": False,
    }


def processor_name(core: Any) -> str:
    """What the processor calls itself."""
    return str(core.get_property("CPU", "FULL_DEVICE_NAME")).strip()


def describe(core: Any, *, streams: int, threads: int) -> str:
    """The device in words: `cpu AMD EPYC 9B45, 2 streams x 1 thread`."""
    each = max(1, threads // streams)
    plural = ("" if streams == 1 else "s", "" if each == 1 else "s")
    return f"cpu {processor_name(core)}, {streams} stream{plural[0]} x {each} thread{plural[1]}"
