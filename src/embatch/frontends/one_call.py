"""`embatch.embed`: one function for those who want vectors and no object to look after.

Models stay open between calls, the two used last, so that a program which asks again and again loads nothing twice.
Who wants to decide when a model closes uses `Embedder`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embatch.frontends.embedder import Embedder

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator

    import numpy.typing as npt

    from embatch.types import Precision

_KEPT = 2  # a model takes hundreds of megabytes; a second one serves programs that compare, or mix query and documents


@dataclass(slots=True)
class _Lease:
    embedder: Embedder
    users: int = 0
    given_up: bool = False
    """Whether it is to be closed when its last user leaves."""


class OpenEmbedders:
    """Embedders by their arguments, a few kept open. Thread-safe: none closes while somebody uses it.

    Args:
        make: opens an embedder.
        kept: how many stay open.
    """

    def __init__(self, make: Callable[..., Embedder] = Embedder, kept: int = _KEPT) -> None:
        self._make = make
        self._kept = kept
        self._leases: OrderedDict[Hashable, _Lease] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def use(self, **arguments: Any) -> Iterator[Embedder]:
        """The embedder with these arguments, opened if it is not; open at least as long as the block runs."""
        lease = self._take(arguments)
        try:
            yield lease.embedder
        finally:
            self._leave(lease)

    def _take(self, arguments: dict[str, Any]) -> _Lease:
        key = tuple((name, _hashable(value)) for name, value in sorted(arguments.items()))
        with self._lock:
            lease = self._leases.get(key)
            if lease is None:
                lease = self._leases[key] = _Lease(self._make(**arguments))
            self._leases.move_to_end(key)
            lease.users += 1
            self._evict()
            return lease

    def _leave(self, lease: _Lease) -> None:
        with self._lock:
            lease.users -= 1
            if lease.given_up and not lease.users:
                lease.embedder.close()

    def _evict(self) -> None:
        while len(self._leases) > self._kept:
            _, oldest = self._leases.popitem(last=False)
            oldest.given_up = True
            if not oldest.users:
                oldest.embedder.close()


_shared = OpenEmbedders()


def embed(
    texts: Iterable[str],
    model: str = "minilm",
    precision: Precision = "auto",
    task: str | None = None,
    **options: Any,
) -> npt.NDArray[Any]:
    """Vectors of texts, `(n, dim)` float32, row `i` for text `i`.

    The model stays open for the next call with the same arguments; use `Embedder` to decide when it closes.

    Args:
        texts: any number of strings.
        model: see `Embedder`.
        precision: see `Embedder`.
        task: see `Embedder`.
        **options: every other argument of `Embedder`, such as `dimensions`, `output` or `on_error`.

    Raises:
        ItemsFailedError: some texts have no vector; with `on_error="collect"` their rows are NaN instead.
    """
    with _shared.use(model=model, precision=precision, task=task, **options) as embedder:
        return embedder.embed(texts).vectors


def _hashable(value: Any) -> Hashable:
    """What stands for an argument in a key: a list (of calibration texts) by its items, anything else by itself."""
    return tuple(value) if isinstance(value, list) else value
