"""Vectors as points of a plane: similar ones near each other, and the same points for the same vectors.

First the 50 directions in which they differ most (principal components), then UMAP (McInnes, Healy, Melville 2018,
arXiv:1802.03426) from exact neighbours. So few chunks that they have no neighbourhood get the first two directions. It
knows nothing of indexes and pages.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embatch.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from embatch.types import FloatArray

DIRECTIONS = 50
NEIGHBOURS = 15
FEW = 15
"""So few points are laid out by their first two directions alone."""
EXACT = 100_000
"""Up to so many points, neighbours are found by comparing all: that takes 50,000 half the time of a search."""

_SMALL = 512  # rows or columns of a matrix that is decomposed as a whole
_ROUNDS = 5
_BLOCK_NUMBERS = 4 << 20  # of a block of distances: 16 MB, and twice that for their order


@dataclass(frozen=True, slots=True)
class Axes:
    """The directions in which vectors differ most."""

    mean: FloatArray
    """`(dim,)`."""
    directions: FloatArray
    """`(dim, k)`, at right angles, the most telling first."""

    @classmethod
    def of(cls, vectors: FloatArray) -> Axes:
        """At most 50 directions of `(n, dim)` vectors."""
        mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        centred = vectors - mean
        right = _decomposed(centred)[: min(DIRECTIONS, *vectors.shape)]
        # A direction and its opposite are the same one: let its largest component be positive.
        largest = np.take_along_axis(right, np.abs(right).argmax(axis=1)[:, None], axis=1)
        return cls(mean, np.ascontiguousarray((right * np.where(largest < 0, -1, 1)).T, dtype=np.float32))

    def reduce(self, vectors: FloatArray) -> FloatArray:
        """`(n, k)` float32."""
        reduced: FloatArray = ((vectors - self.mean) @ self.directions).astype(np.float32)
        return reduced


def _decomposed(centred: FloatArray) -> FloatArray:
    """The right singular vectors as rows, the most telling first.

    Of large matrices only the first: by subspace iteration (Halko, Martinsson, Tropp 2011, algorithm 4.4).
    """
    if min(centred.shape) <= _SMALL:
        if len(centred) > _SMALL:
            return np.linalg.eigh(centred.T @ centred)[1][:, ::-1].T
        return np.linalg.svd(centred, full_matrices=False)[2]
    guess = np.random.default_rng(0).normal(size=(centred.shape[1], DIRECTIONS + 10)).astype(np.float32)
    for _ in range(_ROUNDS):
        left = np.linalg.qr(centred @ guess)[0]
        guess = np.linalg.qr(centred.T @ left)[0]
    rotated: FloatArray = np.linalg.svd(centred @ guess, full_matrices=False)[2]
    return rotated @ guess.T


def layout(
    reduced: FloatArray, *, seed: int, tell: Callable[[str, int, int], None] = lambda *_: None
) -> FloatArray:
    """Points `(n, 2)` float32 for `(n, k)` reduced vectors, in a box from -1 to 1.

    Args:
        reduced: as `Axes.reduce` gives them.
        seed: the same one gives the same points, on the same machine and with the same libraries.
        tell: is told what goes on, how much of it is done, and of how much.

    Raises:
        MissingExtraError: the extra `map` is not installed, and there are enough points to need it.
    """
    flat = np.zeros((len(reduced), 2), np.float32)
    flat[:, : min(2, reduced.shape[1])] = reduced[:, :2]
    if len(reduced) < FEW or not np.ptp(reduced, axis=0).any():
        return boxed(flat)
    umap = _umap()
    neighbours: tuple[Any, ...] = (None, None, None)
    if len(reduced) <= EXACT:
        neighbours = (*nearest(reduced, min(NEIGHBOURS, len(reduced) - 1), tell), None)
    tell("arranging", 0, 0)
    mapper = umap.UMAP(
        n_neighbors=min(NEIGHBOURS, len(reduced) - 1),
        min_dist=0.1,
        init=10 * boxed(flat),  # large distances are then those of the directions, and mean something
        random_state=seed,
        n_jobs=1,  # what a seed asks for
        precomputed_knn=neighbours,
        tqdm_kwds={"file": _Epochs(tell), "disable": False, "bar_format": "{n}/{total}", "mininterval": 0.2},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of interest to those who call UMAP: no transforming later, say
        points = mapper.fit_transform(reduced)
    return spread(boxed(np.nan_to_num(points).astype(np.float32)))


def nearest(
    rows: FloatArray, k: int, tell: Callable[[str, int, int], None]
) -> tuple[npt.NDArray[np.int32], FloatArray]:
    """The `k` nearest rows of each of `(n, dim)`, itself among them, and how far they are: both `(n, k)`."""
    count = len(rows)
    indices, distances = np.empty((count, k), np.int32), np.empty((count, k), np.float32)
    squares = np.einsum("ij,ij->i", rows, rows)
    step = max(1, _BLOCK_NUMBERS // count)
    for first in range(0, count, step):
        block = slice(first, min(first + step, count))
        far = squares[None, :] - 2 * (rows[block] @ rows.T)
        far[
            np.arange(far.shape[0]), np.arange(block.start, block.stop)
        ] = -np.inf  # itself first, among equals too
        found = np.argpartition(far, k - 1, axis=1)[:, :k] if k < count else np.argsort(far, axis=1)
        values = np.take_along_axis(far, found, axis=1)
        order = np.argsort(values, axis=1, kind="stable")
        indices[block] = np.take_along_axis(found, order, axis=1)
        squared = np.take_along_axis(values, order, axis=1) + squares[block, None]
        distances[block] = np.sqrt(np.maximum(squared, 0))
        tell("comparing", block.stop, count)
    return indices, distances


def boxed(points: FloatArray) -> FloatArray:
    """The points, moved and scaled alike in both directions into -1 to 1."""
    low, high = points.min(axis=0), points.max(axis=0)
    half = float((high - low).max()) / 2
    centred = points - (low + high) / 2
    scaled: FloatArray = (centred / half if half > 0 else centred).astype(np.float32)
    return scaled


def spread(points: FloatArray) -> FloatArray:
    """The points, moved halfway to where all of the box is used alike: nothing changes sides.

    UMAP throws what is unlike all else far off, into a plane that is nearly empty otherwise. How far means nothing.
    """
    evened = np.empty_like(points)
    for axis in range(points.shape[1]):
        values = np.sort(points[:, axis])
        ranks = np.searchsorted(values, points[:, axis], "left") + np.searchsorted(
            values, points[:, axis], "right"
        )
        evened[:, axis] = ranks / len(points) - 1
    return boxed(((points + evened) / 2).astype(np.float32))


class _Epochs:
    """The file that UMAP's bar is drawn to: tells how far it is."""

    def __init__(self, tell: Callable[[str, int, int], None]) -> None:
        self._tell = tell

    def write(self, text: str) -> int:
        done, _, total = text.strip().partition("/")
        if done.isdigit() and total.isdigit():
            self._tell("arranging", int(done), int(total))
        return len(text)

    def flush(self) -> None:
        pass


def _umap() -> Any:
    """The library; it takes seconds to load, and keeps what it compiles where that can be written."""
    if "numba" not in sys.modules and "NUMBA_CACHE_DIR" not in os.environ:
        os.environ["NUMBA_CACHE_DIR"] = str(_cache_folder())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that TensorFlow is not there, for one
            import umap
    except ImportError as error:
        raise MissingExtraError(
            f"a map needs libraries that are not installed ({error})",
            hint='Install them: pip install "embatch[map]"',
        ) from error
    return umap


def _cache_folder() -> Path:
    """A folder for compiled code: Numba fails where neither its packages nor the user's folder can be written."""
    from platformdirs import user_cache_path

    folder = user_cache_path("embatch") / "numba"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix="embatch-numba-"))
