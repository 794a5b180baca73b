"""Vectors as points of a plane."""

from __future__ import annotations

import sys
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from embatch.frontends.map import projection
from embatch.frontends.map.projection import DIRECTIONS, Axes, boxed, layout, nearest, spread

Rows = npt.NDArray[np.float32]


def clusters(count: int, each: int, dimensions: int = 32, seed: int = 0) -> Rows:
    """`(count * each, dimensions)`: points around some centres, one cluster after the other."""
    random = np.random.default_rng(seed)
    centres = np.repeat(random.normal(size=(count, dimensions)), each, axis=0)
    return (centres + 0.05 * random.normal(size=centres.shape)).astype(np.float32)


@pytest.mark.parametrize("shape", [(1, 5), (7, 5), (40, 700), (900, 64), (800, 600)])
def test_directions_are_those_of_a_full_decomposition(shape: tuple[int, int]) -> None:
    """Every shape of matrix, with the short way or the long one, keeps nearly as much as the exact components."""
    random = np.random.default_rng(1)
    rows = (random.normal(size=shape) * np.linspace(3, 0.1, shape[1]) ** 4).astype(np.float32)
    axes = Axes.of(rows)
    count = min(DIRECTIONS, *shape)
    assert axes.directions.shape == (shape[1], count)
    values = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
    kept = float((axes.reduce(rows) ** 2).sum())
    assert kept == pytest.approx(float((values[:count] ** 2).sum()), rel=1e-2, abs=1e-3)


def test_neighbours_are_exact_and_begin_with_the_row_itself() -> None:
    """Every row's neighbours are the nearest ones, the nearest first, itself before rows that equal it."""
    rows = np.concatenate([clusters(5, 30), clusters(1, 1).repeat(20, axis=0)])
    indices, distances = nearest(rows, 8, lambda *_: None)
    exact = np.linalg.norm(rows[:, None] - rows[None], axis=2)
    assert indices[:, 0].tolist() == list(range(len(rows)))
    assert (distances[:, 0] == 0).all()
    np.testing.assert_allclose(distances, np.sort(exact, axis=1)[:, :8], atol=2e-3)


@pytest.mark.parametrize("count", [1, 2, 3, 14])
def test_a_few_points_are_laid_out_without_neighbourhoods(count: int) -> None:
    """So few that there is nothing to learn from still get finite places in the box."""
    rows = clusters(count, 1)
    points = layout(Axes.of(rows).reduce(rows), seed=0)
    assert points.shape == (count, 2)
    assert np.isfinite(points).all()
    assert (np.abs(points) <= 1).all()


def test_equal_points_have_one_place() -> None:
    """Vectors that are all the same do not stop the layout."""
    rows = np.ones((40, 8), np.float32)
    assert not layout(Axes.of(rows).reduce(rows), seed=0).any()


def test_similar_vectors_lie_near_each_other_and_the_map_is_the_same_again() -> None:
    """Most points' nearest neighbour on the map is of their own cluster, and a seed gives one map."""
    pytest.importorskip("umap")
    rows = clusters(6, 40)
    reduced = Axes.of(rows).reduce(rows)
    told: list[str] = []
    points = layout(reduced, seed=3, tell=lambda phase, *_: told.append(phase))
    near, _ = nearest(points, 2, lambda *_: None)
    assert (near[:, 1] // 40 == np.arange(240) // 40).mean() > 0.95
    np.testing.assert_array_equal(layout(reduced, seed=3), points)
    assert {"comparing", "arranging"} <= set(told)


class FakeUMAP:
    """Stands in for the library: remembers how it was called, prints to the bar, and gives the points back."""

    called: dict[str, Any]

    def __init__(self, **options: Any) -> None:
        type(self).called = options

    def fit_transform(self, rows: Rows) -> Rows:
        bar = self.called["tqdm_kwds"]["file"]
        for text in ("\r0/200", "", "\r17/200", "\n"):
            bar.write(text)
        bar.flush()
        warnings.warn("of no interest here", UserWarning, stacklevel=1)
        return rows[:, :2]


@pytest.mark.parametrize(("exact", "given"), [(100, True), (20, False)])
def test_neighbours_are_compared_here_up_to_a_size(
    monkeypatch: pytest.MonkeyPatch, exact: int, given: bool
) -> None:
    """Very many points leave their neighbours to the library; its progress is told, and its warnings are not shown."""
    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=FakeUMAP))
    monkeypatch.setattr(projection, "EXACT", exact)
    rows = clusters(3, 20)
    told: list[tuple[str, int, int]] = []
    points = layout(Axes.of(rows).reduce(rows), seed=5, tell=lambda *what: told.append(what))
    assert points.shape == (60, 2)
    assert (FakeUMAP.called["precomputed_knn"][0] is not None) is given
    assert FakeUMAP.called["random_state"] == 5
    assert [what for what in told if what[0] == "arranging"] == [
        ("arranging", 0, 0),
        ("arranging", 0, 200),
        ("arranging", 17, 200),
    ]


def test_spreading_changes_no_order() -> None:
    """Points that are left of others, or below them, stay so, and equal ones stay equal."""
    points = boxed(np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32) ** 5)
    points[7] = points[8]
    even = spread(points)
    for axis in range(2):
        order = np.argsort(points[:, axis], kind="stable")
        assert (np.diff(even[order, axis]) >= 0).all()
    np.testing.assert_array_equal(even[7], even[8])
    assert np.abs(even).max() == pytest.approx(1.0)
