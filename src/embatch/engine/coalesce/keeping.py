"""New vectors on their way into stores, beside the streams, so that no answer waits for a disk."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import numpy as np

from embatch.errors import EmbatchError

if TYPE_CHECKING:
    from embatch.engine.coalesce.opening import StoreFor
    from embatch.types import FloatArray, ModelSpec

_log = logging.getLogger(__name__)


class Keeper:
    """Collects vectors and stores them when it is told to. Thread-safe.

    Args:
        store_for: where the vectors of a spec are kept; None keeps nothing.
    """

    def __init__(self, store_for: StoreFor | None) -> None:
        self._store_for = store_for
        self._lock = threading.Lock()
        self._unsaved: dict[int, tuple[ModelSpec, list[bytes], list[FloatArray]]] = {}

    def add(self, spec: ModelSpec, digest: bytes, vector: FloatArray) -> None:
        """Take the vector `(dim,)` of a text; token ids have no digest and are not kept."""
        if self._store_for is None or not digest:
            return
        with self._lock:
            _, digests, vectors = self._unsaved.setdefault(id(spec), (spec, [], []))
            digests.append(digest)
            vectors.append(vector)

    @property
    def waiting(self) -> bool:
        """Whether there is anything to store."""
        return bool(self._unsaved)

    def save(self) -> None:
        """Store what was collected. A store that fails is told of in the log: the answers stand without it."""
        with self._lock:
            unsaved, self._unsaved = self._unsaved, {}
        for spec, digests, vectors in unsaved.values():
            store = None if self._store_for is None else self._store_for(spec)
            if store is not None:
                try:
                    store.put(digests, np.stack(vectors))
                except EmbatchError as error:
                    _log.warning("vectors could not be cached: %s", error)
