"""Arithmetic on finished vectors: cut, average, and store in fewer bits.

Pure numpy, between a backend's answer and what is stored or handed over. It computes no vectors of texts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from embatch.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    from embatch.types import FloatArray, Output

INT8_SCALE = 127.0
"""A component of 1.0 in a unit vector becomes 127."""


def normalized(vectors: FloatArray) -> FloatArray:
    """Each row divided by its Euclidean length; a zero row stays zero.

    Args:
        vectors: `(n, dim)` float32.
    """
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    result: FloatArray = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    return result


def cut(vectors: FloatArray, dimensions: int, normalize: bool) -> FloatArray:  # noqa: FBT001  # the spec's field
    """The first `dimensions` components, at unit length again if the model normalises (Matryoshka embeddings).

    Formula: Kusupati et al. 2022, "Matryoshka Representation Learning": a prefix is itself a vector.

    Raises:
        UsageError: more dimensions are asked for than there are, or fewer than one.
    """
    if not 1 <= dimensions <= vectors.shape[-1]:
        raise UsageError(
            f"dimensions must lie between 1 and the model's {vectors.shape[-1]}, not {dimensions}"
        )
    shorter = np.ascontiguousarray(vectors[..., :dimensions])
    return normalized(shorter) if normalize else shorter


def weighted_mean(vectors: FloatArray, weights: FloatArray, normalize: bool) -> FloatArray:  # noqa: FBT001  # same
    """The mean `(dim,)` of rows `(n, dim)`, weighted by `(n,)`, at unit length if the model normalises."""
    mean = (vectors * (weights / weights.sum())[:, None]).sum(axis=0, dtype=np.float32)
    return normalized(mean) if normalize else mean


def quantize(vectors: FloatArray, output: Output) -> npt.NDArray[Any]:
    """Vectors `(n, dim)` as they are stored.

    Returns:
        `float32` and `float16`: `(n, dim)`. `int8`: `(n, dim)`, `round(127 × v)` clipped to ±127, for vectors of unit
        length. `binary`: `(n, ceil(dim / 8))` uint8, one bit a component, set where it is above 0, first component in
        the highest bit.
    """
    if output == "float32":
        return vectors
    if output == "float16":
        return vectors.astype(np.float16)
    if output == "int8":
        steps = np.clip(np.rint(vectors * np.float32(INT8_SCALE)), -127, 127)
        int8: npt.NDArray[np.int8] = steps.astype(np.int8)
        return int8
    if output == "binary":
        return np.packbits(vectors > 0, axis=-1)
    raise UsageError(f"output must be float32, float16, int8 or binary, not {output!r}")
