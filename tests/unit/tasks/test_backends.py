"""Batches of tasks: the same vectors as one at a time, of the promised shape and length, whatever some hold."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embatch.errors import ItemError, ItemsFailedError, UsageError
from embatch.frontends.tasks.backends import even_count
from embatch.tasks import NeuralBackend, TaskBackend, TaskEmbedder, TFIDFBackend

TASKS = [
    {
        "title": f"Fix part {number}",
        "description": "words " * (number % 7),
        "files_touched": [f"src/{number}.py"],
    }
    for number in range(41)
]


@pytest.fixture(
    params=[
        pytest.param("tfidf"),
        pytest.param("hashed"),
        pytest.param("neural", marks=pytest.mark.model),
    ]
)
def backend(request: pytest.FixtureRequest) -> TaskBackend:
    if request.param == "neural":
        return NeuralBackend()
    return TFIDFBackend() if request.param == "tfidf" else NeuralBackend(model_name="hashing-384")


def test_batch_embeddings_shape(backend: TaskBackend) -> None:
    """N tasks give (N, 384) float32, none give (0, 384)."""
    assert backend.compute_embeddings_batch(TASKS).shape == (41, 384)
    empty = backend.compute_embeddings_batch([])
    assert empty.shape == (0, 384)
    assert empty.dtype == np.float32


def test_batch_embeddings_normalized(backend: TaskBackend) -> None:
    """Every vector is of unit length."""
    vectors = backend.compute_embeddings_batch(TASKS, 8)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_batch_vs_sequential(backend: TaskBackend, size: int) -> None:
    """Any batch size gives each task the vector that it gets alone, in its own row."""
    batched = backend.compute_embeddings_batch(TASKS, batch_size=size)
    single = np.stack([backend.compute_embedding(**task) for task in TASKS])  # type: ignore[arg-type]  # as given
    cosines = np.einsum("ij,ij->i", batched, single)
    assert cosines.min() >= 0.9999
    assert (batched @ single.T).argmax(axis=1).tolist() == list(range(41))


def test_unrelated_tasks_are_not_similar() -> None:
    """Hashed words of two unrelated tasks are nearly orthogonal, files or not."""
    one, other = TFIDFBackend().compute_embeddings_batch(
        [
            {"title": "Fix login timeout", "files_touched": ["src/auth/session.py"]},
            {"title": "Write release notes", "files_touched": ["docs/CHANGELOG.md"]},
        ]
    )
    assert abs(float(one @ other)) < 0.15


def test_a_bad_task_raises_for_all() -> None:
    """By default nothing is computed, and every bad task is named."""
    with pytest.raises(ItemsFailedError) as caught:
        TFIDFBackend().compute_embeddings_batch([{"title": "a"}, {}, {"title": 5, "task_id": "T3"}])
    assert [(failure.row, failure.key) for failure in caught.value.failures] == [(1, "1"), (2, "T3")]
    with pytest.raises(ItemError):
        TFIDFBackend().compute_embedding("", None, [])


def test_bad_tasks_are_isolated_on_request() -> None:
    """Asked to collect, a bad task's row is NaN and the others have the vectors that they have without it."""
    backend = TFIDFBackend()
    tasks: list[dict[str, Any]] = [
        {"title": "a task"},
        {"title": None},
        {"title": "\ud800"},
        {"title": "another"},
    ]
    vectors = backend.compute_embeddings_batch(tasks, on_error="collect")
    assert np.isnan(vectors).all(axis=1).tolist() == [False, True, True, False]
    np.testing.assert_array_equal(vectors[[0, 3]], backend.compute_embeddings_batch([tasks[0], tasks[3]]))
    _, failures = backend.embed_tasks(tasks)
    assert [failure.row for failure in failures] == [1, 2]


def test_keys_that_mean_nothing_here_change_nothing() -> None:
    """Records may be passed as they are."""
    backend = TFIDFBackend()
    rich = {"title": "a", "task_id": "T", "outcome": {"status": "success"}, "embedding": [1.0]}
    np.testing.assert_array_equal(
        backend.compute_embeddings_batch([rich]), backend.compute_embeddings_batch([{"title": "a"}])
    )


@pytest.mark.parametrize("wrong", ["text", {"title": "a"}, 5, None])
def test_what_is_no_list_of_tasks_is_refused(wrong: object) -> None:
    """One task must be put into a list."""
    with pytest.raises(UsageError, match="list of mappings"):
        TFIDFBackend().compute_embeddings_batch(wrong)  # type: ignore[arg-type]  # on purpose


def test_a_batch_size_below_one_is_refused() -> None:
    """A size that makes no sense is an error, not an endless loop."""
    with pytest.raises(UsageError, match="batch_size"):
        TFIDFBackend().compute_embeddings_batch([{"title": "a"}], 0)


def test_progress_is_shown_on_standard_error_and_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """With a bar the vectors are the same, and standard output stays empty."""
    plain = TaskEmbedder("tfidf").compute_embeddings_batch(TASKS, 2)
    shown = TaskEmbedder("tfidf").compute_embeddings_batch(TASKS, 2, show_progress=True)
    np.testing.assert_array_equal(plain, shown)
    said = capsys.readouterr()
    assert not said.out
    assert "41/41" in said.err


@given(st.integers(1, 5000), st.integers(1, 300), st.integers(1, 16))
def test_batches_keep_all_streams_busy(tasks: int, batch_size: int, streams: int) -> None:
    """No batch is larger than asked for, and no stream does a batch more than another needs to."""
    count = even_count(tasks, batch_size, streams)
    assert 1 <= count <= batch_size
    rounds = ceil(ceil(tasks / batch_size) / streams)
    assert ceil(ceil(tasks / count) / streams) <= rounds
