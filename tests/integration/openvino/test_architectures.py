"""Every architecture and pooling against sentence-transformers, on tiny random models."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from embatch.backends.openvino import OpenVINOBackend
    from embatch.types import FloatArray

pytestmark = pytest.mark.torch
pytest.importorskip("sentence_transformers")

ARCHITECTURES = ("bert", "roberta", "xlm-roberta", "distilbert", "mpnet", "modernbert")


def open_backend(folder: Path) -> OpenVINOBackend:
    """In fp32, on one stream."""
    from embatch.backends.openvino import OpenVINOBackend

    files: Any = SimpleNamespace(path=folder, name="tiny", revision="0", known=None)
    return OpenVINOBackend(files, precision="fp32", streams=1)


def embed(folder: Path, texts: list[str], *, prompt: str = "", one_by_one: bool = False) -> FloatArray:
    """Vectors of the OpenVINO backend in fp32."""
    backend = open_backend(folder)
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
def test_every_number_of_tokens_matches(tiny_model: Callable[..., Any], architecture: str) -> None:
    """Batches of any length: graphs have more keys than tokens where that fills their vectors."""
    model = tiny_model(architecture)
    words = ["flow", "over", "a", "flat", "plate", "in", "one", "clear", "line"] * 6
    pairs = [[" ".join(words[:count]), "flow"] for count in range(1, 50)]
    backend = open_backend(model.folder)
    for pair in pairs:
        assert_same(backend.embed(backend.tokenize(pair).payloads), model.reference.encode(pair))
    backend.close()


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


HEADS: list[dict[str, Any]] = [
    {"normalize": False},
    {"dense": "Tanh"},
    {"dense": "Identity", "normalize": False},
    {"dense": "GELU"},
    {"dense": "ReLU"},
    {"dense": "Sigmoid"},
    {"dense": "SiLU"},
    {"pooling": ("cls", "mean", "max")},
    {"pooling": ("mean", "lasttoken"), "dense": "Tanh"},
]


@pytest.mark.parametrize("head", HEADS, ids=str)
def test_what_follows_pooling_matches(
    tiny_model: Callable[..., Any], texts: list[str], head: dict[str, Any]
) -> None:
    """Dense with each activation, Normalize or none, and several poolings side by side."""
    model = tiny_model("bert", **head)
    assert_same(embed(model.folder, texts), model.reference.encode(texts, batch_size=4))


@pytest.mark.parametrize(
    "activation", ["gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu", "swish"]
)
def test_activations_match(tiny_model: Callable[..., Any], texts: list[str], activation: str) -> None:
    """Each activation that a configuration may name."""
    model = tiny_model("bert", config={"hidden_act": activation})
    assert_same(embed(model.folder, texts), model.reference.encode(texts, batch_size=4))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_half_precision_weights_match(
    tiny_model: Callable[..., Any], texts: list[str], architecture: str, dtype: str
) -> None:
    """Weights stored in half precision are computed with in fp32, as the reference is made to do."""
    model = tiny_model(architecture, dtype=dtype)
    assert_same(embed(model.folder, texts), model.reference.encode(texts, batch_size=4))


def test_shards_match(tiny_model: Callable[..., Any], texts: list[str]) -> None:
    """A model saved in several files is the same model."""
    model = tiny_model("bert", shard_size="20KB")
    assert len(list(model.folder.glob("model-*.safetensors"))) > 2
    assert_same(embed(model.folder, texts), model.reference.encode(texts, batch_size=4))


def test_a_bare_transformer_matches(tiny_model: Callable[..., Any], texts: list[str]) -> None:
    """A folder without modules.json is pooled by the mean, as sentence-transformers does."""
    from sentence_transformers import SentenceTransformer

    bare = tiny_model("bert").folder.parent / "bare"
    reference = SentenceTransformer(str(bare), device="cpu")
    theirs = reference.encode(texts[:-2], batch_size=4)
    assert_same(embed(bare, texts[:-2]), theirs)


@pytest.mark.parametrize(
    "config",
    [
        {"norm_bias": True, "mlp_bias": True, "attention_bias": True},
        {"local_attention": 4},
        {"global_attn_every_n_layers": 2},
        {"hidden_activation": "silu"},
    ],
    ids=str,
)
def test_options_of_modernbert_match(
    tiny_model: Callable[..., Any], texts: list[str], config: dict[str, Any]
) -> None:
    """Biases, the reach of local attention, which layers are global, and the activation."""
    model = tiny_model("modernbert", config=config)
    assert_same(embed(model.folder, texts), model.reference.encode(texts, batch_size=4))


def test_the_older_configuration_of_modernbert_matches(
    tiny_model: Callable[..., Any], edit: Callable[..., None], texts: list[str]
) -> None:
    """Folders saved before `layer_types` and `rope_parameters` mean the same."""
    model = tiny_model("modernbert")
    edit(
        model.folder / "config.json",
        layer_types=None,
        rope_parameters=None,
        global_attn_every_n_layers=3,
        global_rope_theta=160_000.0,
        local_rope_theta=10_000.0,
    )
    assert_same(embed(model.folder, texts), model.reference.encode(texts, batch_size=4))


def test_long_texts_of_mpnet_match(tiny_model: Callable[..., Any]) -> None:
    """The bias by distance holds beyond 128 tokens, where all distances share a bucket."""
    model = tiny_model("mpnet", max_tokens=500)
    texts = ["the boundary layer " * count for count in (20, 60, 100, 200)]
    assert_same(embed(model.folder, texts), model.reference.encode(texts, batch_size=4))


@pytest.mark.parametrize("form", ["openvino", "onnx"])
def test_a_graph_exported_from_pytorch_matches(
    plain_model: Callable[..., Any], texts: list[str], form: str
) -> None:
    """An architecture without a builder runs from what PyTorch's exporters make of it, pooled and normalised here."""
    import openvino
    import torch

    files = plain_model(config={"model_type": "exotic"})
    (files.path / "model.safetensors").unlink()
    module = exotic_encoder()
    example = torch.ones((2, 7), dtype=torch.int64)
    path = files.path / ("model.onnx" if form == "onnx" else "openvino_model.xml")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters' own
        if form == "onnx":
            pytest.importorskip("onnx")
            names = {"input_names": ["input_ids", "attention_mask"], "output_names": ["last_hidden_state"]}
            axes = {
                name: {0: "batch", 1: "tokens"}
                for name in ("input_ids", "attention_mask", "last_hidden_state")
            }
            torch.onnx.export(module, (example, example), path, dynamic_axes=axes, dynamo=False, **names)
        else:
            converted = openvino.convert_model(module, example_input=(example, example))
            for input_, name in zip(converted.inputs, ("input_ids", "attention_mask"), strict=True):
                input_.get_tensor().set_names({name})
            converted.outputs[0].get_tensor().set_names({"last_hidden_state"})
            openvino.save_model(converted, path, compress_to_fp16=False)
    theirs = [exotic_vector(module, files, text) for text in texts]
    assert_same(embed(files.path, texts), np.stack(theirs))


def exotic_encoder() -> Any:
    """A module of no known architecture: each token sees the sum of all tokens that are no padding."""
    import torch

    def forward(self: Any, input_ids: Any, attention_mask: Any) -> Any:
        x = self.words(input_ids)
        total = (x * attention_mask.unsqueeze(-1)).sum(1, keepdim=True)
        return torch.tanh(self.mix(x + total))

    torch.manual_seed(3)
    # Made by `type`: without PyTorch's types a subclass of its Module cannot be checked.
    module: Any = type("Exotic", (torch.nn.Module,), {"forward": forward})()
    module.words, module.mix = torch.nn.Embedding(500, 32), torch.nn.Linear(32, 32)
    return module.requires_grad_(False).eval()


def exotic_vector(module: Any, files: Any, text: str) -> FloatArray:
    """The module's vector of one text: mean of its token vectors, normalised."""
    import torch

    from embatch.backends.layout import read_layout
    from embatch.backends.tokenizing import TextTokenizer

    (ids,) = TextTokenizer(read_layout(files.path)).tokenize([text]).payloads
    row = torch.tensor(np.asarray(ids)[np.newaxis].astype(np.int64))
    mean: FloatArray = module(row, torch.ones_like(row)).mean(1)[0].numpy()
    return mean / np.linalg.norm(mean)
