"""SentenceTransformerEmbedder: fixed batches by default, tuned ones with the feature flag, same vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.doubles import FakeBackend

from embatch.errors import EmptyTextError, ItemsFailedError, UsageError
from embatch.frontends.sentence_transformer import BatchTuner, SentenceTransformerEmbedder

TEXTS = [f"document number {i}" for i in range(100)]


def embedder(backend: FakeBackend, **options: Any) -> SentenceTransformerEmbedder:
    return SentenceTransformerEmbedder(backend=backend, **options)


def test_a_fixed_size_spans_documents() -> None:
    """Without the flag, batches hold batch_size documents, and vectors are in order."""
    backend = FakeBackend()
    vectors = embedder(backend, batch_size=32).embed_batch(TEXTS)
    np.testing.assert_array_equal(vectors, np.stack([backend.vector(text) for text in TEXTS]))
    assert sorted(len(batch) for batch in backend.batches) == [4, 32, 32, 32]


@pytest.mark.parametrize("how", ["argument", "environment", "tuner"])
def test_with_the_flag_the_tuner_chooses(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Turned on by argument, environment or a tuner of one's own, the tuner's sizes are used and recorded."""
    ways: dict[str, dict[str, Any]] = {
        "argument": {"enable_batch_auto_tuning": True},
        "environment": {},
        "tuner": {"batch_tuner": BatchTuner(min_size=5, initial_size=5, max_size=8)},
    }
    if how == "environment":
        monkeypatch.setenv("ENABLE_BATCH_AUTO_TUNING", "True")
    backend = FakeBackend()
    with embedder(backend, **ways[how]) as e:
        vectors = e.embed_batch(TEXTS * 3, document_type="notes")
        assert e.batch_tuner is not None
        statistics = e.batch_tuner.get_statistics()
    np.testing.assert_array_equal(vectors[:100], np.stack([backend.vector(text) for text in TEXTS]))
    assert statistics["batches_tracked"] == len(backend.batches)
    assert list(statistics["profiles"]) == ["notes"]
    assert statistics["avg_doc_size"] == pytest.approx(np.mean([len(text) for text in TEXTS]), rel=0.01)


def test_tuned_batches_hold_the_tokens_of_so_many_documents_of_mean_length() -> None:
    """A batch of long documents holds fewer of them than one of short ones, and begins where the backend says."""
    backend = FakeBackend()
    texts = [f"{i} " + " ".join(["w"] * (2 if i % 2 else 120)) for i in range(400)]
    with embedder(backend, batch_tuner=BatchTuner(min_size=2, initial_size=2)) as e:
        e.embed_batch(texts)
    long = [len(batch) for batch in backend.batches if len(str(batch[0]).split()) > 50]
    short = [len(batch) for batch in backend.batches if len(str(batch[-1]).split()) < 50]
    assert max(long) < max(short)


def test_one_text_is_one_vector() -> None:
    """embed_text has the shape (d,) and raises the text's own error."""
    backend = FakeBackend()
    e = embedder(backend)
    np.testing.assert_array_equal(e.embed_text("hello"), backend.vector("hello"))
    assert (e.dimensions, e.model_name) == (8, "fake")
    with pytest.raises(EmptyTextError):
        e.embed_text("")


def test_bad_texts_are_named_with_the_tuner_too() -> None:
    """None among the documents is a named failure, not a crash of the tuner."""
    with pytest.raises(ItemsFailedError):
        embedder(FakeBackend(), enable_batch_auto_tuning=True).embed_batch(["a", None])  # type: ignore[list-item]  # what callers without types do


@pytest.mark.parametrize("texts", ["one text", b"bytes", None, 7])
def test_one_text_instead_of_several_is_refused(texts: Any) -> None:
    """A string is not taken for a list of its characters."""
    for tuned in (False, True):
        with pytest.raises(UsageError, match="list of texts"):
            embedder(FakeBackend(), enable_batch_auto_tuning=tuned).embed_batch(texts)


def test_no_documents_give_an_empty_matrix() -> None:
    """An empty batch has the shape (0, d), tuned or not."""
    for tuned in (False, True):
        e = embedder(FakeBackend(), enable_batch_auto_tuning=tuned)
        assert e.embed_batch([]).shape == (0, 8)


def test_a_size_without_room_is_refused() -> None:
    """batch_size must be at least 1."""
    with pytest.raises(UsageError):
        embedder(FakeBackend(), batch_size=0)
