"""Every architecture and pooling against sentence-transformers, on tiny random models."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from embatch.types import FloatArray

pytestmark = pytest.mark.torch
pytest.importorskip("sentence_transformers")

ARCHITECTURES = ("bert", "roberta", "xlm-roberta", "distilbert", "mpnet", "modernbert")


def embed(folder: Path, texts: list[str], *, prompt: str = "", one_by_one: bool = False) -> FloatArray:
    """Vectors of the OpenVINO backend in fp32."""
    from embatch.backends.openvino import OpenVINOBackend

    files: Any = SimpleNamespace(path=folder, name="tiny", revision="0", known=None)
    backend = OpenVINOBackend(files, precision="fp32", streams=1)
    payloads = backend.tokenize(texts, prompt=prompt).payloads
    batches = [[payload] for payload in payloads] if one_by_one else [payloads]
    vectors = np.concatenate([backend.embed(batch) for batch in batches])
    backend.close()
    return vectors


def assert_same(ours: FloatArray, theirs: FloatArray, cosine: float = 0.99999) -> None:
    """Equal direction row by row, and equal length."""
    norms = np.linalg.norm(ours, axis=1), np.linalg.norm(theirs, axis=1)
    cosines = np.einsum("ij,ij->i", ours, theirs) / (norms[0] * norms[1])
    assert cosines.min() >= cosine, cosines
    np.testing.assert_allclose(norms[0], norms[1], rtol=1e-3)


@pytest.mark.parametrize(
    "pooling", ["mean", "cls", "max", "lasttoken", "mean_sqrt_len_tokens", "weightedmean"]
)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_architecture_and_pooling_match(
    tiny_model: Callable[..., Any], texts: list[str], architecture: str, pooling: str
) -> None:
    """Each architecture with each pooling gives the vectors of sentence-transformers, padded or not."""
    model = tiny_model(architecture, pooling=pooling)
    theirs = model.reference.encode(texts, batch_size=4)
    assert_same(embed(model.folder, texts), theirs)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_changes_nothing(tiny_model: Callable[..., Any], texts: list[str], architecture: str) -> None:
    """A text has the same vector alone as in a batch with longer ones."""
    folder = tiny_model(architecture).folder
    assert_same(embed(folder, texts), embed(folder, texts, one_by_one=True), cosine=0.999999)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tokens_match(tiny_model: Callable[..., Any], texts: list[str], architecture: str) -> None:
    """Ids, lengths and the cut are those of sentence-transformers, with and without a prompt."""
    from embatch.backends.layout import read_layout
    from embatch.backends.tokenizing import TextTokenizer

    model = tiny_model(architecture)
    tokenizer = TextTokenizer(read_layout(model.folder))
    for prompt in ("", "query: ", "Represent this sentence for searching relevant passages: "):
        ours = tokenizer.tokenize(texts, prompt=prompt)
        theirs = model.reference.preprocess([prompt + text for text in texts])
        for row, payload in enumerate(ours.payloads):
            real = theirs["attention_mask"][row].bool()
            np.testing.assert_array_equal(payload, theirs["input_ids"][row][real].numpy())
        counts = tokenizer.count(texts, prompt=prompt)
        assert ours.truncated.tolist() == (counts > tokenizer.max_tokens).tolist()
        assert ours.truncated.tolist().count(True) >= 1
