"""`embatch.embed`: models stay open between calls, a few of them, and none closes while somebody uses it."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from tests.doubles import FakeBackend

from embatch.errors import BackendClosedError
from embatch.frontends.embedder import Embedder
from embatch.frontends.one_call import OpenEmbedders, embed


class Opened:
    """Opens embedders over fakes, and remembers them by what they were asked for."""

    def __init__(self) -> None:
        self.by_model: dict[str, list[Embedder]] = {}

    def __call__(self, *, model: str, **_: Any) -> Embedder:
        embedder = Embedder(backend=FakeBackend(), profiles=False)
        self.by_model.setdefault(model, []).append(embedder)
        return embedder


def is_closed(embedder: Embedder) -> bool:
    try:
        embedder.embed(["a"])
    except BackendClosedError:
        return True
    return False


def test_the_models_used_last_stay_open() -> None:
    """Two models in turn are opened once each; a third closes the one that was used longest ago."""
    opened = Opened()
    pool = OpenEmbedders(opened, kept=2)
    for model in ("a", "b", "a", "b", "c", "b"):
        with pool.use(model=model) as embedder:
            assert embedder.embed(["x"]).vectors.shape == (1, 8)
    assert {model: len(some) for model, some in opened.by_model.items()} == {"a": 1, "b": 1, "c": 1}
    assert [is_closed(opened.by_model[model][0]) for model in "abc"] == [True, False, False]


def test_a_model_in_use_closes_only_when_its_user_is_done() -> None:
    """Other threads may open whatever they like meanwhile."""
    opened = Opened()
    pool = OpenEmbedders(opened, kept=1)
    entered, leave = threading.Event(), threading.Event()
    shapes: list[tuple[int, ...]] = []

    def use() -> None:
        with pool.use(model="slow") as embedder:
            entered.set()
            leave.wait(10)
            shapes.append(embedder.embed(["x"]).vectors.shape)

    thread = threading.Thread(target=use)
    thread.start()
    entered.wait(10)
    with pool.use(model="other"):
        pass
    leave.set()
    thread.join()
    assert shapes == [(1, 8)]
    assert is_closed(opened.by_model["slow"][0])


def test_lists_among_the_arguments_are_told_apart_by_content() -> None:
    """Texts to calibrate on are a list; equal ones are the same embedder."""
    opened = Opened()
    pool = OpenEmbedders(opened)
    for calibration in (["a"], ["a"], ["b"]):
        with pool.use(model="m", calibration=calibration):
            pass
    assert len(opened.by_model["m"]) == 2


def test_hashing_needs_no_model() -> None:
    """The function itself, with the backend that has no files."""
    vectors = embed(["a text", "another"], model="hashing", dimensions=64)
    assert vectors.shape == (2, 64)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_an_embedder_that_cannot_be_opened_is_not_kept() -> None:
    """The next call tries again."""
    calls = []

    def fail(**_: Any) -> Embedder:
        calls.append(1)
        raise OSError("no such file")

    pool = OpenEmbedders(fail)
    for _ in range(2):
        with pytest.raises(OSError, match="no such file"), pool.use(model="m"):
            pass
    assert len(calls) == 2
