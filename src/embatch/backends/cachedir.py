"""Where embatch keeps what it can make or fetch again: one folder per user."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$EMBATCH_CACHE` if set, else the system's place for caches. It need not exist or be writable."""
    if chosen := os.environ.get("EMBATCH_CACHE"):
        return Path(chosen).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("embatch", appauthor=False)
