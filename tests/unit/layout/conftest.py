"""Model folders written file by file: enough to read a layout and a tokeniser, no weights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]
CONFIG = {"model_type": "bert", "hidden_size": 32, "max_position_embeddings": 64, "pad_token_id": 0}


def write(path: Path, value: object) -> None:
    """JSON, or text as it is, into a file whose folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


@pytest.fixture
def model_folder(tmp_path: Path) -> Callable[..., Path]:
    """`model_folder({"config.json": {...}, …})`: a valid folder, with files replaced, or removed by None."""

    def make(changes: dict[str, Any] | None = None) -> Path:
        files: dict[str, Any] = {
            "modules.json": MODULES,
            "config.json": CONFIG,
            "sentence_bert_config.json": {"max_seq_length": 48, "do_lower_case": False},
            "tokenizer_config.json": {"model_max_length": 512},
            "1_Pooling/config.json": {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True},
            "model.safetensors": "weights",
            **(changes or {}),
        }
        for name, value in files.items():
            if value is not None:
                write(tmp_path / "model" / name, value)
        return tmp_path / "model"

    return make


@pytest.fixture
def wordpiece_json() -> str:
    """A small lower-casing BERT tokeniser that knows letters, a few words and CJK, with padding stored in it."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = ["the", "boundary", "layer", "flow", "query", ":", ".", ",", "東", "京", *"0123456789"]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters), *words]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(tokens[:5])
    tokenizer.enable_padding(length=128)
    tokenizer.enable_truncation(128)
    return str(tokenizer.to_str())


@pytest.fixture
def bytelevel_json() -> str:
    """A byte-level BPE tokeniser as RoBERTa has."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the boundary layer of the flow, the query: the layer"] * 3, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return str(tokenizer.to_str())


@pytest.fixture
def unigram_json() -> str:
    """A unigram tokeniser over words marked by a lower block, as XLM-RoBERTa has."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = [(chr(code), -6.0) for code in range(ord("a"), ord("z") + 1)]
    pieces = [
        ("<s>", 0.0),
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -3.0),
        ("▁the", -2.0),
        *letters,
    ]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return str(tokenizer.to_str())


@pytest.fixture(params=["wordpiece", "bytelevel", "unigram"])
def tokenizer_json(request: pytest.FixtureRequest) -> str:
    """Each of the three kinds of tokeniser."""
    return str(request.getfixturevalue(f"{request.param}_json"))
