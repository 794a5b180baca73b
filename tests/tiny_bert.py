"""A BERT of random weights in the layout of sentence-transformers: small, whole, and made without PyTorch.

Both engines run it, so that one folder can be put through every backend. Its vectors mean nothing, but every part of
the model moves them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

if TYPE_CHECKING:
    from pathlib import Path

WIDTH, INNER, LAYERS, HEADS = 64, 128, 2, 4
MAX_TOKENS = 32
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,:;!?-()'\"/_"
WORDS = [
    "the",
    "and",
    "of",
    "query",
    "text",
    "batch",
    "vector",
    "token",
    "model",
    "search",
    "##ing",
    "##ed",
]


def write_tiny_bert(
    folder: Path, *, seed: int = 0, spread: float = 0.15, normalize: bool = True, prompts: bool = True
) -> Path:
    """Write the folder: weights, configuration, tokeniser and modules.

    A larger `spread` of the weights makes a model that loses more in half precision.
    """
    vocabulary = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS]
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        _weights(len(vocabulary), seed, spread), str(folder / "model.safetensors"), metadata={"format": "pt"}
    )
    _tokenizer(vocabulary).save(str(folder / "tokenizer.json"))
    _write(folder / "config.json", _config(len(vocabulary)))
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": MAX_TOKENS,
            **{f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")},
        },
    )
    _write(folder / "sentence_bert_config.json", {"max_seq_length": MAX_TOKENS, "do_lower_case": False})
    names = ["Transformer", "Pooling", "Normalize"] if normalize else ["Transformer", "Pooling"]
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [
        {"idx": at, "name": str(at), "path": paths[name], "type": f"sentence_transformers.models.{name}"}
        for at, name in enumerate(names)
    ]
    _write(folder / "modules.json", modules)
    _write(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": WIDTH, "pooling_mode_mean_tokens": True},
    )
    if normalize:
        (folder / "2_Normalize").mkdir(exist_ok=True)
    if prompts:
        about = {"prompts": {"query": "query: ", "document": ""}, "similarity_fn_name": "cosine"}
        _write(folder / "config_sentence_transformers.json", about)
    return folder


def _config(words: int) -> dict[str, Any]:
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": words,
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "hidden_act": "gelu",
        "max_position_embeddings": MAX_TOKENS * 2,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    }


def _weights(words: int, seed: int, spread: float) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (words, WIDTH),
        "embeddings.position_embeddings.weight": (MAX_TOKENS * 2, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
        "pooler.dense.weight": (WIDTH, WIDTH),
        "pooler.dense.bias": (WIDTH,),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}."
        for name in (
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
        ):
            shapes |= {f"{at}{name}.weight": (WIDTH, WIDTH), f"{at}{name}.bias": (WIDTH,)}
        shapes |= {f"{at}intermediate.dense.weight": (INNER, WIDTH), f"{at}intermediate.dense.bias": (INNER,)}
        shapes |= {f"{at}output.dense.weight": (WIDTH, INNER), f"{at}output.dense.bias": (WIDTH,)}
        norms += [f"{at}attention.output.LayerNorm", f"{at}output.LayerNorm"]
    random = np.random.default_rng(seed)
    weights = {name: random.normal(0, spread, shape).astype(np.float32) for name, shape in shapes.items()}
    for norm in norms:
        weights[f"{norm}.weight"] = (1 + random.normal(0, 0.05, WIDTH)).astype(np.float32)
        weights[f"{norm}.bias"] = random.normal(0, 0.05, WIDTH).astype(np.float32)
    return weights


def _tokenizer(vocabulary: list[str]) -> Tokenizer:
    ids = {word: number for number, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
