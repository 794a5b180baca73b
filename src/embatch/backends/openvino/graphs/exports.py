"""Graphs that a folder brings along, as OpenVINO or ONNX files, made to look like those built here.

For architectures without a builder. Whatever integer inputs the exported graph has become two, ids and mask, and its
token vectors get the pooling that the folder says. Quantised exports are passed over: their vectors would differ.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino
from openvino import opset15 as ops

from embatch.backends.openvino.failures import reading
from embatch.backends.openvino.graphs import blocks
from embatch.backends.openvino.graphs.pooling import pool
from embatch.errors import CorruptModelError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from embatch.backends.layout import Layout
    from embatch.backends.openvino.graphs.blocks import Node

# What exporters put into the names of quantised, shortened or hardware-bound variants of the plain file.
_VARIANT = re.compile(
    r"q(u|d)?int\d|quant|int8|int4|uint8|[_-]q\d|fp16|float16|bnb|_O[1-4]\b|avx|arm64", re.IGNORECASE
)
VECTORS = "sentence_embedding"
"""What the output of every graph of ours is called."""
_PLAIN_NAMES = ("openvino_model", "model")
_TOKEN_OUTPUTS = ("token_embeddings", "last_hidden_state")
_TEXT_OUTPUTS = (VECTORS, "text_embeds")


def exported_file(layout: Layout) -> Path | None:
    """The unquantised OpenVINO file of the folder, else its ONNX file; None if it has neither."""
    return _plain(layout.weights.openvino) or _plain(layout.weights.onnx)


def exported_model(path: Path, layout: Layout) -> openvino.Model:
    """The graph in `path` with the inputs and the output that `build_model` promises.

    Raises:
        CorruptModelError: OpenVINO cannot read it.
        UnsupportedModelError: inputs or outputs that are not those of a text encoder.
    """
    if path.suffix == ".xml" and not path.with_suffix(".bin").is_file():
        raise CorruptModelError(f"{path.with_suffix('.bin')} is missing: {path.name} has its weights there")
    with reading(path):
        model = openvino.Core().read_model(path)
        ids, mask = blocks.new_inputs()
        _replace_inputs(model, {"input_ids": ids, "attention_mask": mask}, path)
        floats = ops.convert(mask, "f32")
        vectors = blocks.named(_pooled(model, floats, layout, path), VECTORS)
        return openvino.Model([ops.result(vectors)], [ids, mask], layout.model_type)


def _plain(paths: Sequence[Path]) -> Path | None:
    plain = [path for path in paths if not _VARIANT.search(path.stem)]
    named = [path for path in plain if path.stem in _PLAIN_NAMES]
    return next(iter(named or plain), None)


def _replace_inputs(model: openvino.Model, ours: dict[str, Node], path: Path) -> None:
    """Feed each input of the exported graph from ids and mask, in the type that it wants."""
    for parameter in model.get_parameters():
        names = parameter.output(0).get_names() or {parameter.get_friendly_name()}
        source = _source(names, ours)
        if source is None:
            raise UnsupportedModelError(f"{path}: no support for its input {min(names)!r}")
        wanted = parameter.get_element_type()
        parameter.set_partial_shape(openvino.PartialShape([-1, -1]))
        parameter.output(0).replace(ops.convert(source, wanted.to_string()).output(0))


def _source(names: set[str], ours: dict[str, Node]) -> Node | None:
    """What the input of one of these names is in terms of ids and mask."""
    for name, node in ours.items():
        if name in names:
            return node
    ids = ours["input_ids"]
    nothing = ops.multiply(ids, ops.constant(np.int32(0)))
    if "token_type_ids" in names:
        return nothing
    if "position_ids" in names:
        return ops.add(ops.convert(blocks.token_range(ids), "i32"), nothing)
    return None


def _pooled(model: openvino.Model, mask: Node, layout: Layout, path: Path) -> Node:
    """The finished vectors: from token vectors by the layout's modules, or as the graph made them."""
    outputs: dict[str, Any] = {
        name: result.input_value(0) for result in model.get_results() for name in result.output(0).get_names()
    }
    for name in _TOKEN_OUTPUTS:
        if name in outputs:
            return pool(ops.convert(outputs[name], "f32"), mask, layout)
    finished = next((outputs[name] for name in _TEXT_OUTPUTS if name in outputs), None)
    if finished is None:
        raise UnsupportedModelError(
            f"{path}: none of its outputs {sorted(outputs)} holds token or text vectors"
        )
    return ops.convert(finished, "f32")
