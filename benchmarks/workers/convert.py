"""Makes the files that two peers need from the model's own: an ONNX graph, and CTranslate2's format.

Run once by the interpreter of the CTranslate2 environment: `python -m benchmarks.workers.convert MODEL TARGET`. The
graph is written by PyTorch's exporter and left as it is: ONNX Runtime fuses it when it loads it.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

MAX_TOKENS = 256
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_TOKENIZER_FILES = ("config.json", "tokenizer.json", "special_tokens_map.json", "vocab.txt")


def to_onnx(model: Path, target: Path) -> None:
    """`model.onnx` with dynamic batch and length, beside the tokenizer's files, cut at the model's 256 tokens."""
    import torch
    from transformers import AutoModel

    target.mkdir(parents=True)
    # Without pooler and as a tuple: the one output is the last hidden state.
    encoder = AutoModel.from_pretrained(
        model, attn_implementation="eager", add_pooling_layer=False, return_dict=False
    ).eval()
    ones = torch.ones(2, 8, dtype=torch.long)
    torch.onnx.export(
        encoder,
        (ones, ones, torch.zeros_like(ones)),
        target / "model.onnx",
        input_names=list(_INPUTS),
        output_names=["last_hidden_state"],
        dynamic_axes={name: {0: "batch", 1: "sequence"} for name in (*_INPUTS, "last_hidden_state")},
        opset_version=17,
        dynamo=False,
    )
    for name in _TOKENIZER_FILES:
        shutil.copy(model / name, target / name)
    settings = json.loads((model / "tokenizer_config.json").read_text("utf-8"))
    settings |= {"model_max_length": MAX_TOKENS, "max_length": MAX_TOKENS}
    (target / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")


def to_ctranslate2(model: Path, target: Path) -> None:
    """The weights as int8, in CTranslate2's format."""
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(model)).convert(str(target), quantization="int8")


if __name__ == "__main__":
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    for name, convert in (("onnx", to_onnx), ("ctranslate2", to_ctranslate2)):
        if not (folder / name).exists():
            partial = folder / f"{name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            convert(source, partial)
            partial.rename(folder / name)
