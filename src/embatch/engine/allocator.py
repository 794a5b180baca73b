"""What becomes of memory that is not needed any more, in a process in which models come and go.

glibc keeps what was freed for later, in heaps of which it makes up to eight for each core, as threads come. Every model
brings threads of its own, so that each that is opened anew may grow another heap. Python on its part keeps objects that
refer to each other until it happens to look for such.
"""

from __future__ import annotations

import ctypes
import gc
from typing import Any

_M_ARENA_MAX = -8  # malloc.h


def few_heaps(heaps: int) -> None:
    """Let all threads share so many heaps; to be called before there are more. Nothing where glibc is not.

    Args:
        heaps: at least 1. Threads that take memory at the same moment wait for each other if there are fewer.
    """
    mallopt = _function("mallopt")
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, heaps)


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
