"""The default model itself: its vectors are pinned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import openvino
import pytest

from embatch.backends.openvino import OpenVINOBackend, device
from embatch.backends.sample import sample_texts

if TYPE_CHECKING:
    from embatch.backends.resolve import ModelFiles
    from embatch.types import FloatArray

pytestmark = pytest.mark.model

TEXTS = [
    "hello world",
    "What is the boundary layer?",
    "def mean(values): return sum(values) / len(values)",
    "x " * 400,
]
GOLDEN = [
    [-0.03448, 0.03102, 0.00674, 0.02611, -0.03936],
    [-0.02524, 0.04188, 0.0064, -0.02117, 0.0216],
    [0.022, 0.03478, -0.02561, -0.02148, -0.10754],
    [-0.00206, -0.03747, -0.03149, -0.04256, -0.10017],
]


@pytest.fixture(scope="module")
def minilm() -> ModelFiles:
    """The files of the default model."""
    from embatch.backends.resolve import resolve

    return resolve("minilm")


def embed(files: ModelFiles, texts: list[str], precision: Any) -> FloatArray:
    """Vectors in the precision."""
    backend = OpenVINOBackend(files, precision=precision, streams=1)
    vectors = backend.embed(backend.tokenize(texts).payloads)
    backend.close()
    return vectors


def test_vectors_are_pinned(minilm: ModelFiles) -> None:
    """The first five components of four texts, as sentence-transformers 6.2 computes them in fp32."""
    vectors = embed(minilm, TEXTS, "fp32")
    np.testing.assert_allclose(vectors[:, :5], GOLDEN, atol=2e-5)


def test_what_the_model_says_about_itself(minilm: ModelFiles) -> None:
    """384 dimensions, 256 tokens, mean pooling, normalised, no prompts."""
    backend = OpenVINOBackend(minilm, precision="fp32", streams=1)
    backend.close()
    spec = backend.spec
    assert (spec.model, spec.dimensions, spec.max_tokens) == (
        "sentence-transformers/all-MiniLM-L6-v2",
        384,
        256,
    )
    assert (spec.pooling, spec.normalize, backend.prompts) == ("mean", True, {})
    assert spec.revision == minilm.revision


def test_the_fast_precision_keeps_its_promise(minilm: ModelFiles) -> None:
    """On texts of all kinds the native precision has mean cosine 0.9999 and least 0.9995 to fp32."""
    native = device.native_precision(openvino.Core())
    if native == "fp32":
        pytest.skip("this processor computes natively in fp32 only")
    texts = sample_texts(64)
    cosines = np.einsum("ij,ij->i", embed(minilm, texts, "fp32"), embed(minilm, texts, native))
    assert cosines.mean() >= 0.9999
    assert cosines.min() >= 0.9995


def test_padding_changes_nothing(minilm: ModelFiles) -> None:
    """A text has the same vector alone as beside one that fills the limit."""
    together = embed(minilm, TEXTS, "fp32")
    alone = np.concatenate([embed(minilm, [text], "fp32") for text in TEXTS])
    assert np.einsum("ij,ij->i", together, alone).min() >= 0.999999


@pytest.mark.torch
def test_vectors_are_those_of_sentence_transformers(minilm: ModelFiles) -> None:
    """On texts of all kinds: cosine 0.99999 in fp32."""
    reference = pytest.importorskip("sentence_transformers").SentenceTransformer(
        str(minilm.path), device="cpu"
    )
    texts = [*sample_texts(32), *TEXTS]
    cosines = np.einsum("ij,ij->i", embed(minilm, texts, "fp32"), reference.encode(texts))
    assert cosines.min() >= 0.99999
