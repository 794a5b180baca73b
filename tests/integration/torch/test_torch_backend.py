"""The torch backend against sentence-transformers' own `encode`, and what it refuses."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.tiny_bert import write_tiny_bert

from embatch.backends import torch_device
from embatch.backends.resolve import resolve
from embatch.errors import (
    BackendError,
    CorruptModelError,
    MissingExtraError,
    OutOfMemoryError,
    UnsupportedModelError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from embatch.backends.torch import TorchBackend
    from embatch.types import FloatArray

TEXTS = [
    "a",
    "the query",
    "Batched tokens, and the vectors of a searched model!",
    "Über den Wolken; 東京 🙂",
    "search the text of a token " * 30,
]


@pytest.fixture
def open_torch() -> Iterator[Callable[..., TorchBackend]]:
    """`open_torch(folder, …)` opens a backend on the processor and closes it after the test."""
    pytest.importorskip("sentence_transformers")
    from embatch.backends.torch import TorchBackend

    opened: list[TorchBackend] = []

    def make(folder: Path, **options: Any) -> TorchBackend:
        opened.append(TorchBackend(resolve(str(folder)), **{"device": "cpu", **options}))
        return opened[-1]

    yield make
    for backend in opened:
        backend.close()


def embed(backend: TorchBackend, texts: list[str], prompt: str = "") -> FloatArray:
    return backend.embed(backend.tokenize(texts, prompt=prompt).payloads)


def reference(folder: Path) -> Any:
    """The same folder under sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what others warn of while loading is not ours
        return SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": "float32"})


def assert_same(ours: FloatArray, theirs: FloatArray) -> None:
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    assert ours.shape == theirs.shape
    assert (np.einsum("ij,ij->i", ours, theirs) / norms).min() > 0.99999
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), np.linalg.norm(theirs, axis=1), rtol=1e-4)


def saved(folder: Path, modules: list[Any], **options: Any) -> Path:
    """A model made of `modules`, saved the way sentence-transformers does."""
    from sentence_transformers import SentenceTransformer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        SentenceTransformer(modules=modules, device="cpu", **options).save_pretrained(str(folder))
    return folder


def pooling(mode: str, *, include_prompt: bool = True) -> Any:
    from sentence_transformers.sentence_transformer import modules

    return modules.Pooling(64, pooling_mode=mode, include_prompt=include_prompt)


def transformer(folder: Path, tiny_bert: Path, config: Any) -> Any:
    """A random transformer of any architecture, with the tokeniser of the tiny BERT."""
    import torch
    from sentence_transformers.sentence_transformer import modules
    from transformers import AutoModel

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        AutoModel.from_config(config).save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tiny_bert / name, folder / name)
        return modules.Transformer(str(folder), max_seq_length=32)


@pytest.mark.torch
@pytest.mark.parametrize("prompt", ["", "query: "])
def test_matches_encode(open_torch: Callable[..., TorchBackend], tiny_bert: Path, prompt: str) -> None:
    """A plain BERT gives the vectors of `encode`, with and without a prompt, from embatch's own tokens."""
    backend = open_torch(tiny_bert)
    assert_same(embed(backend, TEXTS, prompt), reference(tiny_bert).encode(TEXTS, prompt=prompt or None))
    assert backend.spec.max_tokens == 32
    assert backend.spec.precision == "fp32"
    assert backend.prompts == {"query": "query: "}


@pytest.mark.torch
def test_spec_equals_that_of_openvino(open_torch: Callable[..., TorchBackend], tiny_bert: Path) -> None:
    """Both engines in fp32 give one fingerprint, and the same vectors: a store serves either."""
    from embatch.backends.openvino import OpenVINOBackend

    other = OpenVINOBackend(resolve(str(tiny_bert)), precision="fp32")
    ours = open_torch(tiny_bert)
    assert ours.spec == other.spec
    assert_same(embed(ours, TEXTS), other.embed(other.tokenize(TEXTS).payloads))
    other.close()


@pytest.mark.torch
@pytest.mark.parametrize(
    ("architecture", "mode"), [("electra", "cls"), ("qwen3", "lasttoken"), ("deberta-v2", "mean")]
)
def test_architectures_that_openvino_lacks(
    open_torch: Callable[..., TorchBackend], tiny_bert: Path, tmp_path: Path, architecture: str, mode: str
) -> None:
    """What sentence-transformers loads runs, decoders with the last token included."""
    from transformers import AutoConfig

    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    extra: dict[str, dict[str, Any]] = {
        "electra": {"embedding_size": 64},
        "qwen3": {"num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": False},
        "deberta-v2": {"relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]},
    }
    config = AutoConfig.for_model(
        architecture,
        vocab_size=200,
        max_position_embeddings=64,
        pad_token_id=0,
        **sizes,
        **extra[architecture],
    )
    first = transformer(tmp_path / "transformer", tiny_bert, config)
    folder = saved(tmp_path / "model", [first, pooling(mode)])
    backend = open_torch(folder)
    assert_same(embed(backend, TEXTS), reference(folder).encode(TEXTS))
    assert_same(embed(backend, TEXTS[:1]), embed(backend, TEXTS)[:1])


@pytest.mark.torch
def test_prompt_outside_the_mean(
    open_torch: Callable[..., TorchBackend], tiny_bert: Path, tmp_path: Path
) -> None:
    """A model that leaves the prompt out of its mean does so here, also in batches of several prompts."""
    first = reference(tiny_bert)[0]
    folder = saved(tmp_path / "model", [first, pooling("mean", include_prompt=False)])
    backend, model = open_torch(folder), reference(folder)
    expected = model.encode(TEXTS, prompt="query: "), model.encode(TEXTS)
    assert_same(embed(backend, TEXTS, "query: "), expected[0])
    payloads = [*backend.tokenize(TEXTS, prompt="query: ").payloads, *backend.tokenize(TEXTS).payloads]
    assert_same(backend.embed(payloads[::-1])[::-1], np.concatenate(expected))
    assert not np.allclose(*expected)
    made = backend.tokenize(TEXTS)
    assert made.lengths[-1] == 32
    assert made.truncated[-1]
    assert not made.truncated[0]


@pytest.mark.torch
def test_own_tokenizer_splits(
    open_torch: Callable[..., TorchBackend], tiny_bert: Path, tmp_path: Path
) -> None:
    """The pieces of a long text fit, and join to the text, with the model's own tokeniser too."""
    first = reference(tiny_bert)[0]
    folder = saved(tmp_path / "model", [first, pooling("mean", include_prompt=False)])
    backend = open_torch(folder)
    for text in (TEXTS[-1], "x" * 500, "東京" * 100):
        pieces = backend.split(text, prompt="query: ")
        assert "".join(pieces) == text
        assert not backend.tokenize(pieces, prompt="query: ").truncated.any()
    with pytest.raises(UsageError, match="prompt alone"):
        backend.split("text", prompt="query " * 40)


@pytest.mark.torch
def test_static_embeddings(open_torch: Callable[..., TorchBackend], tiny_bert: Path, tmp_path: Path) -> None:
    """A model without a transformer runs, and takes texts of any length."""
    from sentence_transformers.sentence_transformer import modules
    from tokenizers import Tokenizer

    table = np.random.default_rng(0).standard_normal((200, 16)).astype(np.float32)
    tokenizer = Tokenizer.from_file(str(tiny_bert / "tokenizer.json"))
    static = modules.StaticEmbedding(tokenizer, embedding_weights=table)
    folder = saved(tmp_path / "model", [static])
    (folder / "config.json").unlink(missing_ok=True)
    backend = open_torch(folder)
    assert_same(embed(backend, TEXTS), reference(folder).encode(TEXTS))
    assert backend.split(TEXTS[-1]) == [TEXTS[-1]]
    assert backend.spec.dimensions == 16
    assert not backend.tokenize(TEXTS).truncated.any()


@pytest.mark.torch
def test_bf16_on_request(open_torch: Callable[..., TorchBackend], tiny_bert: Path) -> None:
    """Half precision stays near fp32, in vectors of float32 and of length one."""
    backend = open_torch(tiny_bert, precision="bf16")
    vectors = embed(backend, TEXTS)
    assert backend.spec.precision == "bf16"
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.einsum("ij,ij->i", vectors, reference(tiny_bert).encode(TEXTS)).min() > 0.995


@pytest.mark.torch
@pytest.mark.parametrize(
    ("spread", "offered", "taken"),
    [
        (0.15, ("bf16", "fp16"), "bf16"),
        (1.2, ("bf16", "fp16"), "fp16"),
        (1.2, ("bf16",), "fp32"),
    ],
)
def test_auto_measures_before_it_trusts(
    open_torch: Callable[..., TorchBackend],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spread: float,
    offered: tuple[str, ...],
    taken: str,
) -> None:
    """The first precision that keeps cosine 0.9999 is taken; if none does, fp32 is back, bit for bit."""
    folder = write_tiny_bert(tmp_path / "model", spread=spread)
    exact = embed(open_torch(folder, precision="fp32"), TEXTS)
    monkeypatch.setattr(torch_device, "fast_precisions", lambda _torch, _device: offered)
    backend = open_torch(folder)
    vectors = embed(backend, TEXTS)
    assert backend.spec.precision == taken
    assert np.einsum("ij,ij->i", vectors, exact).mean() >= 0.9998
    assert taken != "fp32" or np.array_equal(vectors, exact)


@pytest.mark.torch
def test_stored_half_precision_is_taken_on_a_gpu(
    open_torch: Callable[..., TorchBackend],
    tiny_bert: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A model that was published in bf16 is computed in bf16 where the device prefers that, unmeasured."""
    folder = shutil.copytree(tiny_bert, tmp_path / "half")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    monkeypatch.setattr(torch_device, "fast_precisions", lambda _torch, _device: ("bf16", "fp16"))
    assert open_torch(folder).spec.precision == "bf16"


@pytest.mark.torch
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8"}, "does not compute in int8"),
        ({"precision": "fp16"}, "computes in bf16, fp32"),
        ({"device": "cuda:99"}, "not there; there are: .*cpu"),
        ({"device": "toaster"}, "no device; there are: .*cpu"),
        ({"streams": 0}, "streams=0"),
    ],
)
def test_options_that_make_no_sense(
    open_torch: Callable[..., TorchBackend], tiny_bert: Path, options: dict[str, Any], message: str
) -> None:
    """What this machine lacks is refused before the model is loaded, with what there is."""
    with pytest.raises(UsageError, match=message):
        open_torch(tiny_bert, **options)


@pytest.mark.torch
def test_pickles_are_refused(
    open_torch: Callable[..., TorchBackend], tiny_bert: Path, tmp_path: Path
) -> None:
    """Weights in a pickle are not loaded, and the message says how to convert them."""
    from embatch.backends.resolve import ModelFiles
    from embatch.backends.torch import TorchBackend

    folder = shutil.copytree(tiny_bert, tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UnsupportedModelError, match="pickle"):
        TorchBackend(ModelFiles(folder, "pickled", "0", None), device="cpu")


@pytest.mark.torch
def test_models_that_cannot_be_loaded(
    open_torch: Callable[..., TorchBackend], tiny_bert: Path, tmp_path: Path
) -> None:
    """An architecture that nobody knows is an error that names the folder, not a traceback."""
    folder = shutil.copytree(tiny_bert, tmp_path / "unknown")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "no-such-thing"}))
    with pytest.raises((UnsupportedModelError, CorruptModelError), match="unknown"):
        open_torch(folder)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", OutOfMemoryError),
        (
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate",
            OutOfMemoryError,
        ),
        ("mat1 and mat2 shapes cannot be multiplied", BackendError),
    ],
)
def test_failures_are_named(
    open_torch: Callable[..., TorchBackend], tiny_bert: Path, message: str, kind: type[BackendError]
) -> None:
    """A failed allocation is told apart from other failures, and the backend goes on working."""
    backend = open_torch(tiny_bert)
    fails = iter([True])

    def fail(*_: object) -> None:
        if next(fails, False):
            raise RuntimeError(message)

    hook = backend._model.register_forward_pre_hook(fail)
    with pytest.raises(kind, match="PyTorch") as caught:
        embed(backend, TEXTS)
    assert type(caught.value) is kind
    hook.remove()
    assert embed(backend, TEXTS).shape == (5, 64)


def test_missing_extra(monkeypatch: pytest.MonkeyPatch, tiny_bert: Path) -> None:
    """Without the libraries the error names the extra to install."""
    from embatch.backends.torch import TorchBackend

    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match="torch") as caught:
        TorchBackend(resolve(str(tiny_bert)))
    assert 'pip install "embatch[torch]"' in caught.value.hint
