"""How tensors may be stored, and what is said about those that are broken, missing or of another model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.integration.openvino.conftest import embed

from embatch.backends.openvino import OpenVINOBackend
from embatch.errors import BackendError, CorruptModelError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from embatch.backends.resolve import ModelFiles

    MakeModel = Callable[..., ModelFiles]


@pytest.mark.parametrize(
    ("dtype", "cosine"), [(np.float16, 0.9999), (ml_dtypes.bfloat16, 0.99), (np.float64, 1.0)]
)
def test_weights_of_any_float_type(
    plain_model: MakeModel, texts: list[str], dtype: Any, cosine: float
) -> None:
    """Weights in float16, bfloat16 and float64 give the vectors of the float32 model, up to their own rounding."""
    files = plain_model()
    expected = embed(files, texts)
    path = files.path / "model.safetensors"
    rounded = {name: tensor.astype(dtype) for name, tensor in load_file(path).items()}
    save_file(rounded, path)
    stored = embed(files, texts)
    assert np.einsum("ij,ij->i", stored, expected).min() >= cosine - 1e-5
    save_file({name: tensor.astype(np.float32) for name, tensor in rounded.items()}, path)
    np.testing.assert_allclose(embed(files, texts), stored, atol=1e-5)


def test_shards_prefixes_and_old_names(plain_model: MakeModel, texts: list[str]) -> None:
    """Tensors spread over files, under a head's prefix and with the oldest names, are the same model."""
    files = plain_model()
    expected = embed(files, texts)
    path = files.path / "model.safetensors"
    tensors = load_file(path)
    path.unlink()
    renamed = {
        "bert."
        + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for name, t in tensors.items()
    }
    renamed["cls.predictions.bias"] = np.zeros(3, dtype=np.float32)
    _save_shards(files.path, renamed, 3)
    np.testing.assert_array_equal(embed(files, texts), expected)


def test_an_activation_by_any_name(plain_model: MakeModel, texts: list[str]) -> None:
    """The activations that configurations name are told apart."""
    vectors = {
        name: embed(plain_model(config={"hidden_act": name}, name=name), texts)
        for name in ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")
    }
    np.testing.assert_array_equal(vectors["gelu_new"], vectors["gelu_pytorch_tanh"])
    for one, other in (("gelu", "gelu_new"), ("gelu", "relu"), ("relu", "silu")):
        assert np.abs(vectors[one] - vectors[other]).max() > 1e-5


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"model_type": "t5"}, "no graph for the architecture 't5', only for bert"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        ({"hidden_act": "xielu"}, "activation 'xielu'"),
        ({"is_decoder": True}, "decoder"),
    ],
)
def test_what_no_graph_models_is_named(plain_model: MakeModel, config: dict[str, Any], told: str) -> None:
    """An architecture or option without a graph is refused with the way out."""
    with pytest.raises(UnsupportedModelError, match=told) as caught:
        OpenVINOBackend(plain_model(config=config), precision="fp32")
    assert 'pip install "embatch[torch]"' in caught.value.hint


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ({"encoder.layer.1.output.dense.bias": None}, "no tensor encoder.layer.1.output.dense.bias"),
        ({"encoder.layer.0.output.dense.bias": np.zeros(31, np.float32)}, r"shape \(31,\), not \(32,\)"),
        ({"encoder.layer.0.output.dense.bias": np.zeros(32, np.int32)}, "holds I32, not floats"),
        ({"embeddings.word_embeddings.weight": None}, "no tensor embeddings.word_embeddings.weight"),
    ],
)
def test_broken_tensors_are_named(plain_model: MakeModel, weights: dict[str, Any], told: str) -> None:
    """A tensor that is missing, of another shape or no float is named with the file."""
    with pytest.raises(CorruptModelError, match=told):
        OpenVINOBackend(plain_model(weights=weights), precision="fp32")


@pytest.mark.parametrize("keep", [0, 7, 5_000])
def test_a_file_cut_short_is_corrupt(plain_model: MakeModel, keep: int) -> None:
    """A truncated weight file is a CorruptModelError that names it."""
    files = plain_model()
    path = files.path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorruptModelError, match=r"model\.safetensors is no readable safetensors file"):
        OpenVINOBackend(files, precision="fp32")


def test_ids_that_the_model_lacks_are_refused(plain_model: MakeModel) -> None:
    """An id beyond the table of words would be read from foreign memory: it is an error that names the id."""
    backend = OpenVINOBackend(plain_model(), precision="fp32", streams=1)
    with pytest.raises(BackendError, match="none with the id 999999"):
        backend.embed([np.array([2, 999_999, 3], dtype=np.int32)])
    backend.close()


def _save_shards(folder: Path, tensors: dict[str, Any], count: int) -> None:
    names = sorted(tensors)
    weight_map = {}
    for shard in range(count):
        file = f"model-{shard + 1:05}-of-{count:05}.safetensors"
        mine = names[shard::count]
        save_file({name: tensors[name] for name in mine}, folder / file)
        weight_map.update(dict.fromkeys(mine, file))
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
