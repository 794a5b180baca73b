"""What becomes of memory that is not needed any more, in processes that are embatch's own.

These settings hold for a whole process, so that none is made when embatch is a library in somebody's program.
glibc keeps what was freed for later, in heaps of which it makes up to eight for each core, as threads come. Every model
brings threads of its own, so that each that is opened anew may grow another heap. Python on its part keeps objects that
refer to each other until it happens to look for such.
"""

from __future__ import annotations

import ctypes
import gc
import os
from typing import Any

_M_ARENA_MAX, _M_MMAP_THRESHOLD = -8, -3  # malloc.h
_LARGE = 1 << 20  # bytes


def few_heaps(heaps: int) -> None:
    """Let all threads share so many heaps; to be called before there are more. Nothing where glibc is not.

    Args:
        heaps: at least 1. Threads that take memory at the same moment wait for each other if there are fewer.
    """
    mallopt = _function("mallopt")
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, heaps)


def keep_large_blocks_apart() -> bool:
    """Have blocks of 1 MiB and more go back to the system as soon as they are free. Whether that is so now.

    By default glibc learns, from the first large blocks that are freed, to keep those of up to 32 MiB among the small
    ones. OpenVINO frees its buffers whenever it needs larger ones, and these fit in no gap that the old ones leave:
    50,000 short texts through MiniLM held 583 MiB at most, and 515 so, no slower. Hashing takes a quarter longer with
    it, since its arrays come and go with every slice of texts. What the environment says of malloc stays as it is.
    """
    if "MALLOC_MMAP_THRESHOLD_" in os.environ or "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = _function("mallopt")
    return mallopt is not None and bool(mallopt(_M_MMAP_THRESHOLD, _LARGE))


def give_back() -> None:
    """Let go of what only refers to itself, and return what is free to the system; takes some tens of milliseconds.

    An engine that failed refers to its error, that to the frames it was raised in, and these to the engine. Where glibc
    is not, memory returns as it does there.
    """
    gc.collect()
    malloc_trim = _function("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(ctypes.c_size_t(0))


def _function(name: str) -> Any:
    try:
        library = ctypes.CDLL(None)
        # Other libraries have a `mallopt` too, with other numbers: only glibc tells its version.
        return getattr(library, name) if hasattr(library, "gnu_get_libc_version") else None
    except (OSError, TypeError, AttributeError):  # Windows has no such library
        return None
