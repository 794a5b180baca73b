"""Where embatch keeps what belongs to a user and not to one output."""

from __future__ import annotations

import os
from pathlib import Path


def user_folder() -> Path:
    """The folder `EMBATCH_CACHE`, or embatch's own in the platform's cache folder. It may not exist yet."""
    if chosen := os.environ.get("EMBATCH_CACHE"):
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("embatch", appauthor=False)
