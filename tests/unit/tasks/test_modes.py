"""Which mode and which model task vectors are made with, by arguments and by the environment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from embatch.errors import ModelUnavailableError, UnknownModelError, UsageError
from embatch.tasks import NeuralBackend, TaskEmbedder, TFIDFBackend, release_models

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "EMBEDDINGS",
        "EMBED_MODEL_NAME",
        "EMBED_MODEL_PATH",
        "EMBED_ALLOW_DOWNLOAD",
        "EMBED_DEVICE",
    ):
        monkeypatch.delenv(f"QUALITY_GRAPH_{name}", raising=False)
    monkeypatch.setenv("EMBATCH_CACHE", str(tmp_path))


def test_the_argument_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without either, words are hashed."""
    assert TaskEmbedder().mode == "tfidf"
    monkeypatch.setenv("QUALITY_GRAPH_EMBEDDINGS", "neural")
    assert TaskEmbedder().mode == "neural"
    assert TaskEmbedder("tfidf").mode == "tfidf"
    monkeypatch.setenv("QUALITY_GRAPH_EMBEDDINGS", "best")
    with pytest.raises(UsageError, match="QUALITY_GRAPH_EMBEDDINGS must be tfidf or neural, not 'best'"):
        TaskEmbedder()


def test_the_environment_names_the_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder comes before a name, and an argument before both."""
    monkeypatch.setenv("QUALITY_GRAPH_EMBED_MODEL_NAME", "mpnet")
    monkeypatch.setenv("QUALITY_GRAPH_EMBED_DEVICE", "cpu")
    assert NeuralBackend().model_name == "mpnet"
    assert NeuralBackend().device == "cpu"
    monkeypatch.setenv("QUALITY_GRAPH_EMBED_MODEL_PATH", str(tmp_path))
    assert NeuralBackend().model_path == str(tmp_path)
    assert NeuralBackend(model_name="minilm").model_path is None
    monkeypatch.setenv("QUALITY_GRAPH_EMBED_MODEL_PATH", str(tmp_path / "none"))
    with pytest.raises(UnknownModelError, match="QUALITY_GRAPH_EMBED_MODEL_PATH"):
        NeuralBackend()


def test_a_model_that_is_not_here_is_not_fetched_unasked() -> None:
    """The error names the three ways out."""
    backend = NeuralBackend(model_name="owner/nowhere")
    with pytest.raises(ModelUnavailableError) as caught:
        backend.compute_embedding("a")
    for way in (
        "embatch models fetch",
        "QUALITY_GRAPH_EMBED_ALLOW_DOWNLOAD=1",
        "QUALITY_GRAPH_EMBED_MODEL_PATH",
    ):
        assert way in caught.value.hint


def test_a_switch_that_is_neither_on_nor_off_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt permission is not taken for one."""
    monkeypatch.setenv("QUALITY_GRAPH_EMBED_ALLOW_DOWNLOAD", "maybe")
    with pytest.raises(UsageError, match="must be 0 or 1"):
        NeuralBackend()


def test_a_model_is_cut_to_the_dimensions_wanted_but_never_padded() -> None:
    """More components than wanted are cut, at unit length; fewer are refused by name."""
    vector = NeuralBackend(64, model_name="hashing-128").compute_embedding("Fix the login form")
    assert vector.shape == (64,)
    assert abs(float(vector @ vector) - 1) < 1e-6
    with pytest.raises(UsageError, match="gives vectors of 128 numbers, and 384 are wanted"):
        NeuralBackend(model_name="hashing-128").compute_embedding("a")


def test_one_model_is_kept_warm_for_each_settings() -> None:
    """Backends with the same settings share a model; released, it is opened again when it is needed."""
    first = TFIDFBackend().embedder
    assert TFIDFBackend().embedder is first
    assert TFIDFBackend(64).embedder is not first
    release_models()
    assert TFIDFBackend().embedder is not first


def test_a_providers_model_is_refused() -> None:
    """Task vectors are made on this machine."""
    with pytest.raises(UsageError, match="provider's model"):
        NeuralBackend(model_name="openai:text-embedding-3-small").compute_embedding("a")


def test_modes_have_different_fingerprints() -> None:
    """Vectors of the same model from other words are not comparable."""
    assert TFIDFBackend().fingerprint != NeuralBackend(model_name="hashing-384").fingerprint
    assert TFIDFBackend().fingerprint == TaskEmbedder("tfidf").fingerprint
