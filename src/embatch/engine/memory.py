"""How full this process's memory is: the tightest of the host's and every control group's limit.

The pipeline asks between batches, so that batches shrink before the kernel kills. It decides nothing.
"""

from __future__ import annotations

from pathlib import Path

import psutil

_CGROUP_V2 = (("memory.current", "memory.max"),)
_CGROUP_V1 = (("memory.usage_in_bytes", "memory.limit_in_bytes"),)
_NO_LIMIT = 1 << 60  # version 1 writes a number near 2**63 for "none"


def memory_used(root: Path = Path("/sys/fs/cgroup")) -> float:
    """Share of the memory that is in use, 0 to 1: the fullest of the host and this process's control group.

    Pages of the file cache are not counted as used: the kernel gives them back before it kills.
    """
    host = psutil.virtual_memory()
    shares = [1.0 - host.available / host.total]
    for folder, names in ((root, _CGROUP_V2), (root / "memory", _CGROUP_V1)):
        for used_name, limit_name in names:
            used, limit = _number(folder / used_name), _number(folder / limit_name)
            if used is not None and limit is not None and 0 < limit < _NO_LIMIT:
                shares.append(max(0.0, used - _reclaimable(folder / "memory.stat")) / limit)
    return min(1.0, max(shares))


def _number(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _reclaimable(path: Path) -> int:
    """Bytes of inactive file cache in the group, 0 where it is not told."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    fields = dict(line.split(maxsplit=1) for line in lines if " " in line)
    return int(fields.get("inactive_file", fields.get("total_inactive_file", "0")))
