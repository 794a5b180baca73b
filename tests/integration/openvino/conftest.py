"""Tiny random models in sentence-transformers layout, made in the test: every architecture, pooling and head."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from embatch.backends.openvino import OpenVINOBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from embatch.backends.resolve import ModelFiles
    from embatch.types import FloatArray

WORDS = (
    "the boundary layer over a flat plate in supersonic flow was measured with heated wires and compared to theory "
    "retry failed requests when servers answer slowly but stop after three attempts and say so in one clear line "
    "Über den Wolken muß die Freiheit wohl grenzenlos sein naïve café coöperate résumé 東京 は 日本 の 首都 です "
    "def mean values return sum values len values if values else zero 0 1 2 3 12 345 ( ) [ ] { } . , ; : ! ? - _ / "
)

TEXTS = [
    "flow",
    "the boundary layer",
    "Retry failed requests, when servers answer slowly; but stop after three attempts!",
    "Über den Wolken muß die Freiheit wohl grenzenlos sein: naïve café résumé",
    "東京は日本の首都です。",
    "def mean(values):\n\n    return sum(values) / len(values) if values else 0\n",
    "  two  leading   blanks, and\ttabs ",
    "unknownword Ω≈ç√∫ 🙂 and <s> [SEP] </s> <pad> [PAD] inside",
    " ".join([WORDS] * 3),
    "word" * 200,
]
"""Of very different lengths, with all that tokenisers trip over; two are longer than the limit."""


def embed(files: ModelFiles, texts: list[str]) -> FloatArray:
    """Vectors in fp32."""
    backend = OpenVINOBackend(files, precision="fp32", streams=1)
    vectors = backend.embed(backend.tokenize(texts).payloads)
    backend.close()
    return vectors


@dataclass(frozen=True)
class TinyModel:
    """A folder, and the same model in sentence-transformers."""

    folder: Path
    reference: Any


@pytest.fixture
def texts() -> list[str]:
    """Ten texts from one word to far beyond the limit."""
    return TEXTS


@pytest.fixture
def tiny_model(tmp_path: Path) -> Iterator[Callable[..., TinyModel]]:
    """`tiny_model("bert", pooling="mean", …)` makes a folder and its reference; see `_make`."""
    pytest.importorskip("sentence_transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what PyTorch and transformers warn of is not ours
        yield lambda architecture, **options: _make(tmp_path / architecture, architecture, **options)


def _make(
    folder: Path,
    architecture: str,
    *,
    pooling: str | tuple[str, ...] = "mean",
    dense: str | None = None,
    normalize: bool = True,
    max_tokens: int = 48,
    dtype: str = "float32",
    config: dict[str, Any] | None = None,
    prompts: dict[str, str] | None = None,
    shard_size: str = "1GB",
) -> TinyModel:
    """A saved model with random weights that are large enough to make every part of it matter."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules
    from transformers import AutoConfig, AutoModel

    tokenizer = _TOKENIZERS[architecture]()
    sizes = {**_CONFIGS[architecture], "vocab_size": len(tokenizer), **(config or {})}
    torch.manual_seed(7)
    encoder = AutoModel.from_config(AutoConfig.for_model(architecture, **sizes))
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            norm = "norm" in name.lower() and name.endswith("weight")
            parameter.copy_(torch.randn_like(parameter) * 0.25 + (1.0 if norm else 0.0))
    bare = folder / "bare"
    encoder.to(getattr(torch, dtype)).save_pretrained(bare, max_shard_size=shard_size)
    tokenizer.save_pretrained(bare)
    transformer = modules.Transformer(str(bare), processor_kwargs={"model_max_length": max_tokens})
    parts: list[Any] = [
        transformer,
        modules.Pooling(transformer.get_embedding_dimension(), pooling_mode=pooling),
    ]
    if dense is not None:
        width = parts[-1].get_embedding_dimension()
        parts.append(modules.Dense(width, 24, activation_function=getattr(torch.nn, dense)()))
    if normalize:
        parts.append(modules.Normalize())
    reference = SentenceTransformer(modules=parts, prompts=prompts, device="cpu")
    reference.save_pretrained(str(folder / "model"), create_model_card=False)
    if shard_size != "1GB":
        _copy_shards(bare, folder / "model")
    return TinyModel(folder / "model", reference.float().eval())


def _copy_shards(bare: Path, model: Path) -> None:
    """sentence-transformers saves one file; the shards are those of the bare model."""
    (model / "model.safetensors").unlink()
    for path in bare.glob("model*"):
        path.rename(model / path.name)


def _wordpiece() -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=400, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False
    )
    tokenizer.train_from_iterator([WORDS, WORDS.upper()], trainer)
    ids = tokenizer.get_vocab()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    return tokenizer


def _bert_tokenizer() -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=_wordpiece(),
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def _roberta_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS], trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **_ANGLED)


def _xlm_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" ", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=300,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS] * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **_ANGLED)


_ANGLED = {
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "mask_token": "<mask>",
}

_SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
_PADDED = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {**_SIZES, "max_position_embeddings": 64},
    "roberta": {**_SIZES, **_PADDED, "max_position_embeddings": 66, "type_vocab_size": 1},
    "xlm-roberta": {**_SIZES, **_PADDED, "max_position_embeddings": 66, "type_vocab_size": 1},
    "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 64},
    "mpnet": {**_SIZES, **_PADDED, "max_position_embeddings": 514},
    "modernbert": {
        **_SIZES,
        "num_hidden_layers": 5,
        "max_position_embeddings": 64,
        "local_attention": 16,
        "global_attn_every_n_layers": 3,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": None,
        "cls_token_id": 2,
        "sep_token_id": 3,
    },
}
_TOKENIZERS: dict[str, Callable[[], Any]] = {
    "bert": _bert_tokenizer,
    "roberta": _roberta_tokenizer,
    "xlm-roberta": _xlm_tokenizer,
    "distilbert": _bert_tokenizer,
    "mpnet": _roberta_tokenizer,
    "modernbert": _bert_tokenizer,
}


def edit_json(path: Path, **changes: object) -> None:
    """Change fields of a JSON object; None removes one."""
    fields = json.loads(path.read_text(encoding="utf-8"))
    fields.update(changes)
    path.write_text(json.dumps({k: v for k, v in fields.items() if v is not None}), encoding="utf-8")


@pytest.fixture
def edit() -> Callable[..., None]:
    """`edit(path, field=value)` changes a JSON file."""
    return edit_json


@pytest.fixture
def plain_model(tmp_path: Path, wordpiece: Any) -> Callable[..., ModelFiles]:
    """`plain_model(config={…}, weights={…})`: a random BERT written without PyTorch; None removes a tensor."""

    def make(
        *,
        config: dict[str, Any] | None = None,
        weights: dict[str, Any] | None = None,
        name: str = "tiny",
    ) -> ModelFiles:
        from safetensors.numpy import save_file

        from embatch.backends.resolve import ModelFiles

        folder = tmp_path / name
        fields = {"model_type": "bert", **_SIZES, "vocab_size": wordpiece.get_vocab_size(), **(config or {})}
        fields.setdefault("max_position_embeddings", 64)
        tensors = {**random_bert(fields), **(weights or {})}
        files = {
            "config.json": fields,
            "modules.json": [
                {"path": "", "type": "sentence_transformers.models.Transformer"},
                {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
                {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
            ],
            "1_Pooling/config.json": {"pooling_mode_mean_tokens": True},
            "sentence_bert_config.json": {"max_seq_length": 48},
        }
        for path, value in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(json.dumps(value), encoding="utf-8")
        wordpiece.save(str(folder / "tokenizer.json"))
        save_file({k: v for k, v in tensors.items() if v is not None}, folder / "model.safetensors")
        return ModelFiles(path=folder, name=name, revision="0" * 16, known=None)

    return make


@pytest.fixture
def wordpiece() -> Any:
    """A small WordPiece tokeniser."""
    return _wordpiece()


def random_bert(config: dict[str, Any]) -> dict[str, Any]:
    """Tensors of a BERT, large enough that every part of it matters."""
    import numpy as np

    random = np.random.default_rng(7)
    width, inner = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], width),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], width),
        "embeddings.token_type_embeddings.weight": (2, width),
    }
    norms = ["embeddings.LayerNorm"]
    for number in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{number}."
        for name, outputs, inputs in (
            ("attention.self.query", width, width),
            ("attention.self.key", width, width),
            ("attention.self.value", width, width),
            ("attention.output.dense", width, width),
            ("intermediate.dense", inner, width),
            ("output.dense", width, inner),
        ):
            shapes[f"{layer}{name}.weight"] = (outputs, inputs)
            shapes[f"{layer}{name}.bias"] = (outputs,)
        norms += [f"{layer}attention.output.LayerNorm", f"{layer}output.LayerNorm"]
    tensors = {name: random.normal(0, 0.25, shape) for name, shape in shapes.items()}
    for norm in norms:
        tensors[f"{norm}.weight"] = random.normal(1, 0.25, width)
        tensors[f"{norm}.bias"] = random.normal(0, 0.25, width)
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
