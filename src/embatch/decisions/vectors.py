"""Arithmetic on finished vectors: cut, average, and store in fewer bits.

Pure numpy, between a backend's answer and what is stored or handed over. It computes no vectors of texts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from embatch.errors import BadVectorError, UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    from embatch.types import FloatArray, Output

INT8_SCALE = 127.0
"""A component of 1.0 in a unit vector becomes 127."""
_UNIT_SLACK = 1.001  # what rounding may add to a component of a unit vector
_FLOAT16_MAX = 65504.0


def is_finite_rows(vectors: FloatArray) -> npt.NDArray[np.bool_]:
    """`(n,)`: whether each row of `(n, dim)` is free of NaN and infinity."""
    finite: npt.NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(vectors), axis=1)
    return finite


def normalized(vectors: FloatArray) -> FloatArray:
    """Each row divided by its Euclidean length; a zero row stays zero.

    Args:
        vectors: `(n, dim)` float32.
    """
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    result: FloatArray = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    return result


def cut(vectors: FloatArray, dimensions: int, *, normalize: bool) -> FloatArray:
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


def weighted_mean(vectors: FloatArray, weights: FloatArray, *, normalize: bool) -> FloatArray:
    """The mean `(dim,)` of rows `(n, dim)`, weighted by `(n,)`, at unit length if the model normalises."""
    mean = (vectors * (weights / weights.sum())[:, None]).sum(axis=0, dtype=np.float32)
    return normalized(mean) if normalize else mean


def quantize(vectors: FloatArray, output: Output) -> npt.NDArray[Any]:
    """Vectors `(n, dim)` as they are stored.

    Returns:
        `float32` and `float16`: `(n, dim)`; a row of NaN stays one. `int8`: `(n, dim)`, `round(127 × v)`, for vectors
        of unit length; divided by 127 it is the vector again, each component within 1/254. `binary`:
        `(n, ceil(dim / 8))` uint8, one bit a component, set where it is above 0, first component in the highest bit.

    Raises:
        BadVectorError: NaN or infinity, which int8 and binary cannot say, or a component too large for float16.
        UsageError: int8 of vectors that are not of unit length, or an unknown output.
    """
    if output == "float32":
        return vectors
    if output == "float16":
        return _float16(vectors)
    if output == "int8":
        return _int8(vectors)
    if output == "binary":
        _check_finite(vectors, output)
        return np.packbits(vectors > 0, axis=-1)
    raise UsageError(f"output must be float32, float16, int8 or binary, not {output!r}")


def row_bytes(dimensions: int, output: Output) -> int:
    """Bytes of one vector in this form."""
    return int(quantize(np.zeros((1, dimensions), np.float32), output).nbytes)


def _float16(vectors: FloatArray) -> npt.NDArray[np.float16]:
    largest = float(np.abs(vectors).max(initial=0.0, where=~np.isnan(vectors)))
    if largest > _FLOAT16_MAX:
        raise BadVectorError(
            f"a component of {largest:g} does not fit into float16, which ends at {_FLOAT16_MAX:,.0f}",
            hint="Store these vectors as float32.",
        )
    return vectors.astype(np.float16)


def _int8(vectors: FloatArray) -> npt.NDArray[np.int8]:
    _check_finite(vectors, "int8")
    largest = float(np.abs(vectors).max(initial=0.0))
    if largest > _UNIT_SLACK:
        raise UsageError(
            f"int8 holds components from -1 to 1, and there is one of {largest:g}: vectors of this model have no "
            "unit length",
            hint="Use output float16 or float32, or a model that normalises.",
        )
    steps = np.clip(np.rint(vectors * np.float32(INT8_SCALE)), -INT8_SCALE, INT8_SCALE)
    int8: npt.NDArray[np.int8] = steps.astype(np.int8)
    return int8


def _check_finite(vectors: FloatArray, output: Output) -> None:
    finite = np.isfinite(vectors)
    if not finite.all():
        row = int(np.argmin(finite.all(axis=-1)))
        raise BadVectorError(f"row {row} holds NaN or infinity, which {output} cannot store")
