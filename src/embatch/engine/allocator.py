"""What the C library does with memory that was freed, in a process in which models come and go.

glibc keeps what was freed for later, in heaps of which it makes up to eight for each core, as threads come. Every model
brings threads of its own, so that each that is opened anew may grow another heap.
"""

from __future__ import annotations

import ctypes
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
    """Return what was freed to the system, in all heaps; takes some milliseconds. Nothing where glibc is not."""
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
