"""Embedding models as OpenVINO graphs: token ids and a mask go in, finished vectors come out.

`build_model` makes the graph of any supported folder, in float32. Architectures are a table from `model_type` to a
builder: a new one is one function and one line. Compiling and running are the backend's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import openvino
from openvino import opset15 as ops

from embatch.backends.openvino.graphs import bert, blocks, modernbert
from embatch.backends.openvino.graphs.blocks import Inputs, Node, without_blank_keys
from embatch.backends.openvino.graphs.exports import VECTORS, exported_file, exported_model
from embatch.backends.openvino.graphs.pooling import pool
from embatch.backends.openvino.graphs.weights import Weights
from embatch.errors import UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from embatch.backends.jsonfile import JsonFile
    from embatch.backends.layout import Layout

__all__ = ["ARCHITECTURES", "Architecture", "build_model", "without_blank_keys"]

_WORDS = "embeddings.word_embeddings.weight"


class Architecture(NamedTuple):
    """How one kind of encoder becomes a graph."""

    build: Callable[[JsonFile, Weights, Inputs], Node]
    """Token vectors `(batch, tokens, width)` from the configuration, the tensors and the inputs."""
    anchor: str
    """A tensor that every such model has: what stands before its name in a file is a prefix."""


ARCHITECTURES: dict[str, Architecture] = {
    "bert": Architecture(bert.bert, _WORDS),
    "roberta": Architecture(bert.roberta, _WORDS),
    "xlm-roberta": Architecture(bert.roberta, _WORDS),
    "camembert": Architecture(bert.roberta, _WORDS),
    "distilbert": Architecture(bert.distilbert, _WORDS),
    "mpnet": Architecture(bert.mpnet, _WORDS),
    "modernbert": Architecture(modernbert.modernbert, "embeddings.tok_embeddings.weight"),
}
"""By `model_type`."""


def build_model(layout: Layout) -> openvino.Model:
    """The graph of the model in `layout`: built from safetensors where a builder knows how, else as exported.

    Inputs `input_ids` and `attention_mask`, both `(batch, tokens)` int32, padded on the right; output
    `sentence_embedding`, `(batch, dim)` float32, pooled and normalised as the folder says.

    Raises:
        UnsupportedModelError: an architecture or option that no builder models, and no exported graph.
        CorruptModelError: tensors or files that are missing, broken, or of the wrong shape.
    """
    exported = exported_file(layout)
    try:
        return _built(layout)
    except UnsupportedModelError:
        if exported is None:
            raise
    return exported_model(exported, layout)


def _built(layout: Layout) -> openvino.Model:
    architecture = ARCHITECTURES.get(layout.model_type)
    if architecture is None:
        raise UnsupportedModelError(
            f"{layout.folder}: the openvino backend has no graph for the architecture {layout.model_type!r}, only for "
            f"{', '.join(ARCHITECTURES)}, and the folder has no unquantised ONNX or OpenVINO file"
        )
    if not layout.weights.safetensors:
        raise UnsupportedModelError(f"{layout.folder} has neither safetensors nor an unquantised export")
    ids, mask = blocks.new_inputs()
    inputs = Inputs(ids, ops.convert(mask, "f32"), blocks.new_blank_keys(ids))
    with Weights(layout.weights.safetensors, anchor=architecture.anchor) as weights:
        tokens = architecture.build(layout.config, weights, inputs)
    vectors = blocks.named(pool(tokens, inputs.mask, layout), VECTORS)
    return openvino.Model([ops.result(vectors)], [ids, mask], layout.model_type)
