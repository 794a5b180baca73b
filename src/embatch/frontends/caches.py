"""The caches of one `Embedder`: one store for each spec, opened when it is first needed."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from embatch.storage.cache import VectorCache
from embatch.storage.per_spec import PerSpec

if TYPE_CHECKING:
    from embatch.types import ModelSpec, VectorStore

_log = logging.getLogger(__name__)

_MOST_OPEN = 32
"""Stores of a file: each holds it open, and ever new `dimensions` would use up what a process may open."""


class Caches:
    """Stores by spec. Thread-safe; the stores themselves are used from one thread at a time.

    Args:
        cache: a file, made if it is missing, or the caller's own store; None keeps nothing. Either holds the vectors of
            all specs apart.
        limit_bytes: what a file is brought down to on closing, its oldest vectors first.
    """

    def __init__(self, cache: str | Path | VectorStore | None, limit_bytes: int | None) -> None:
        self._cache = cache
        self._limit_bytes = limit_bytes
        self._stores: dict[str, VectorCache] = {}
        self._lock = threading.Lock()
        self._store_lock = threading.Lock()
        self._full = False

    @property
    def exists(self) -> bool:
        """Whether anything is kept."""
        return self._cache is not None

    def store_for(self, spec: ModelSpec) -> VectorStore | None:
        """The vectors known under a spec; None without a cache, and beyond the first 32 specs of a file."""
        if self._cache is None:
            return None
        if not isinstance(self._cache, str | Path):
            return PerSpec(self._cache, spec.fingerprint, self._store_lock)
        with self._lock:
            store = self._stores.get(spec.fingerprint)
            if store is None and self._has_room():
                store = self._stores[spec.fingerprint] = VectorCache(
                    Path(self._cache), fingerprint=spec.fingerprint, dimensions=spec.dimensions
                )
            return store

    def _has_room(self) -> bool:
        if len(self._stores) < _MOST_OPEN:
            return True
        if not self._full:
            self._full = True
            _log.warning("vectors of more than %d tasks and dimensions are not cached", _MOST_OPEN)
        return False

    def close(self) -> None:
        """Close all but the caller's own. Closing twice is allowed."""
        with self._lock:
            for store in self._stores.values():
                if self._limit_bytes is not None:
                    store.prune(self._limit_bytes)
                store.close()
            self._stores.clear()
