"""Arithmetic on finished vectors: cut, average, quantise, and tell the finite ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from embatch.decisions.vectors import INT8_SCALE, cut, is_finite_rows, normalized, quantize, weighted_mean
from embatch.errors import BadVectorError, UsageError

if TYPE_CHECKING:
    from embatch.types import FloatArray

FINITE = st.floats(-1000, 1000, width=32)
SHAPES = arrays.array_shapes(min_dims=2, max_dims=2, max_side=24)
matrices = arrays.arrays(np.float32, SHAPES, elements=FINITE)
wild = arrays.arrays(np.float32, SHAPES, elements=st.floats(width=32))


def unit(vectors: FloatArray) -> FloatArray:
    """Rows of length one, the zero rows made a basis vector."""
    vectors[np.linalg.norm(vectors, axis=1) < 1e-3] = np.eye(1, vectors.shape[1], dtype=np.float32)
    return normalized(vectors)


@given(matrices, st.data())
def test_cut_keeps_the_first_components(vectors: FloatArray, data: st.DataObject) -> None:
    """Without normalising, cutting is taking a prefix."""
    dimensions = data.draw(st.integers(1, vectors.shape[1]))
    np.testing.assert_array_equal(cut(vectors, dimensions, normalize=False), vectors[:, :dimensions])


@given(matrices, st.data())
def test_cut_normalises_again(vectors: FloatArray, data: st.DataObject) -> None:
    """A cut row points where the prefix points and has length one; a row of zeros stays zeros."""
    dimensions = data.draw(st.integers(1, vectors.shape[1]))
    shorter = cut(vectors, dimensions, normalize=True)
    lengths = np.linalg.norm(vectors[:, :dimensions].astype(np.float64), axis=1)
    np.testing.assert_array_equal(shorter[lengths == 0], 0)
    clear = lengths > 1e-6
    np.testing.assert_allclose(np.linalg.norm(shorter[clear], axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(
        shorter[clear] * lengths[clear, None], vectors[clear, :dimensions], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("dimensions", [0, -1, 9])
def test_cut_refuses_dimensions_that_are_not_there(dimensions: int) -> None:
    """Fewer than one and more than the model's are both named with the number asked for."""
    with pytest.raises(UsageError, match=f"between 1 and the model's 8, not {dimensions}"):
        cut(np.ones((2, 8), dtype=np.float32), dimensions, normalize=True)


def test_cut_of_no_rows_is_no_rows() -> None:
    """An empty batch has the shape that was asked for."""
    assert cut(np.empty((0, 8), dtype=np.float32), 3, normalize=True).shape == (0, 3)


@given(matrices)
def test_the_mean_of_equal_windows_is_the_window(vectors: FloatArray) -> None:
    """Whatever the weights, averaging copies of one vector gives that vector."""
    copies = np.repeat(vectors[:1], 5, axis=0)
    weights = np.array([1, 2, 3, 4, 5], dtype=np.float32)
    np.testing.assert_allclose(
        weighted_mean(copies, weights, normalize=False), vectors[0], rtol=1e-5, atol=1e-5
    )


def test_the_mean_counts_windows_by_weight() -> None:
    """A window of three tokens pulls three times as hard as one of one token."""
    windows = np.eye(2, dtype=np.float32)
    mean = weighted_mean(windows, np.array([3, 1], dtype=np.float32), normalize=False)
    np.testing.assert_allclose(mean, [0.75, 0.25])
    direction = weighted_mean(windows, np.array([3, 1], dtype=np.float32), normalize=True)
    np.testing.assert_allclose(direction, np.array([3, 1]) / np.sqrt(10), rtol=1e-6)


@given(wild)
def test_finite_rows_are_those_that_numpy_calls_finite(vectors: FloatArray) -> None:
    """NaN and either infinity anywhere in a row disqualify that row only."""
    np.testing.assert_array_equal(is_finite_rows(vectors), np.isfinite(vectors).all(axis=1))


@given(matrices)
def test_float32_is_stored_as_it_is(vectors: FloatArray) -> None:
    """The default output costs nothing: the very array comes back."""
    assert quantize(vectors, "float32") is vectors


@given(matrices)
def test_float16_is_the_nearest_half(vectors: FloatArray) -> None:
    """Half precision is numpy's own rounding."""
    halves = quantize(vectors, "float16")
    assert halves.dtype == np.float16
    np.testing.assert_array_equal(halves, vectors.astype(np.float16))


def test_float16_keeps_rows_of_nan() -> None:
    """A failed row of a call's result says so in half precision too."""
    halves = quantize(np.array([[np.nan, np.nan], [1, 2]], dtype=np.float32), "float16")
    np.testing.assert_array_equal(np.isnan(halves).all(axis=1), [True, False])


@pytest.mark.parametrize("value", [70_000.0, -70_000.0, np.inf])
def test_float16_refuses_what_would_become_infinite(value: float) -> None:
    """A component beyond the largest half is an error, and no infinity is stored in silence."""
    with pytest.raises(BadVectorError, match="does not fit into float16"):
        quantize(np.array([[0, value]], dtype=np.float32), "float16")


@given(matrices)
def test_int8_reads_back_within_half_a_step(vectors: FloatArray) -> None:
    """Divided by 127, each component of a unit vector is the original within 1/254."""
    vectors = unit(vectors)
    steps = quantize(vectors, "int8")
    assert steps.dtype == np.int8
    assert np.abs(steps / INT8_SCALE - vectors).max() <= 0.5 / INT8_SCALE + 1e-6
    assert steps.min() >= -127


def test_int8_refuses_vectors_that_are_not_of_unit_length() -> None:
    """Clipping would bend such vectors, so the component is named instead."""
    with pytest.raises(UsageError, match="one of 3"):
        quantize(np.array([[0.1, -3.0]], dtype=np.float32), "int8")


@given(matrices)
def test_binary_keeps_the_signs(vectors: FloatArray) -> None:
    """One bit a component, first component in the highest bit, padded with zero bits."""
    bits = quantize(vectors, "binary")
    assert bits.dtype == np.uint8
    assert bits.shape == (len(vectors), -(-vectors.shape[1] // 8))
    unpacked = np.unpackbits(bits, axis=1)
    np.testing.assert_array_equal(unpacked[:, : vectors.shape[1]], vectors > 0)
    assert not unpacked[:, vectors.shape[1] :].any()


@pytest.mark.parametrize("output", ["int8", "binary"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_cannot_say_nan_refuses_it(output: str, bad: float) -> None:
    """int8 and binary have no code for a failed row: it must be taken out first, and the row is named."""
    vectors = np.array([[0.5, 0.5], [0.5, bad]], dtype=np.float32)
    with pytest.raises(BadVectorError, match="row 1"):
        quantize(vectors, output)  # type: ignore[arg-type]  # parametrised over the literals


def test_an_unknown_output_is_named() -> None:
    """The message lists what there is."""
    with pytest.raises(UsageError, match="float32, float16, int8 or binary, not 'int4'"):
        quantize(np.ones((1, 2), dtype=np.float32), "int4")  # type: ignore[arg-type]  # on purpose
