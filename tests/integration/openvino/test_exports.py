"""Folders that bring OpenVINO or ONNX files instead of weights that a builder knows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino
import pytest
from openvino import opset15 as ops
from tests.integration.openvino.conftest import embed

from embatch.backends.layout import read_layout
from embatch.backends.openvino import OpenVINOBackend, build_model
from embatch.backends.openvino.graphs.exports import exported_file
from embatch.errors import CorruptModelError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from embatch.backends.resolve import ModelFiles

    MakeModel = Callable[..., ModelFiles]


def export(
    files: ModelFiles,
    *,
    output: str = "last_hidden_state",
    extra: tuple[str, ...] = ("token_type_ids",),
    name: str = "openvino_model",
) -> Path:
    """Turn a folder of safetensors into one of an exported graph with int64 inputs, as exporters write it."""
    layout = read_layout(files.path)
    model = build_model(layout)
    ids, mask, *more = (parameter(label) for label in ("input_ids", "attention_mask", *extra))
    for ours, theirs in zip(model.get_parameters(), (ids, mask), strict=True):
        ours.output(0).replace(ops.convert(theirs, "i32").output(0))
    node = model.get_results()[0].input_value(0)
    while output == "last_hidden_state" and node.get_partial_shape().rank.get_length() != 3:
        node = node.get_node().input_value(0)
    if output == "last_hidden_state":
        node = node.get_node().input_value(0)  # what pooling multiplies with the mask
    for unused in more:  # so that the input is not dropped: it adds nothing
        zero = ops.multiply(ops.reduce_sum(ops.convert(unused, "f32"), ops.constant([0, 1])), np.float32(0))
        node = ops.add(node, zero)
    result = ops.result(node)
    result.output(0).set_names({output})
    (files.path / "openvino").mkdir(exist_ok=True)
    path = files.path / "openvino" / f"{name}.xml"
    openvino.save_model(
        openvino.Model([result], [ids, mask, *more], "exported"), path, compress_to_fp16=False
    )
    return path


def parameter(name: str) -> Any:
    """An input of int64."""
    node = ops.parameter([-1, -1], np.int64)
    node.output(0).set_names({name})
    return node


def make_exotic(files: ModelFiles) -> None:
    """Take the safetensors away, and the architecture's name."""
    (files.path / "model.safetensors").unlink()
    config = files.path / "config.json"
    fields = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**fields, "model_type": "exotic"}), encoding="utf-8")


@pytest.mark.parametrize("output", ["last_hidden_state", "sentence_embedding"])
def test_an_openvino_file_gives_the_same_vectors(
    plain_model: MakeModel, texts: list[str], output: str
) -> None:
    """Token vectors are pooled here, finished vectors taken as they are."""
    files = plain_model()
    expected = embed(files, texts)
    export(files, output=output)
    make_exotic(files)
    np.testing.assert_allclose(embed(files, texts), expected, atol=1e-5)


def test_positions_and_types_are_filled_in(plain_model: MakeModel, texts: list[str]) -> None:
    """Inputs that follow from the ids are made, not asked for."""
    files = plain_model()
    expected = embed(files, texts)
    export(files, extra=("token_type_ids", "position_ids"))
    make_exotic(files)
    np.testing.assert_allclose(embed(files, texts), expected, atol=1e-5)


def test_the_plain_file_is_preferred(plain_model: MakeModel) -> None:
    """Quantised and shortened variants beside the plain file are passed over; OpenVINO goes before ONNX."""
    files = plain_model()
    plain = export(files)
    for name in ("openvino_model_qint8_quantized.xml", "a_fp16.xml"):
        (plain.parent / name).write_text("x", encoding="utf-8")
    (files.path / "onnx").mkdir()
    for name in ("model.onnx", "model_O4.onnx", "model_qint8_avx512_vnni.onnx"):
        (files.path / "onnx" / name).write_text("x", encoding="utf-8")
    assert exported_file(read_layout(files.path)) == plain
    plain.unlink()
    (plain.parent / "a_fp16.xml").unlink()
    assert exported_file(read_layout(files.path)) == files.path / "onnx" / "model.onnx"
    (files.path / "onnx" / "model.onnx").unlink()
    assert exported_file(read_layout(files.path)) is None


def test_safetensors_are_preferred_where_a_builder_knows_them(
    plain_model: MakeModel, texts: list[str]
) -> None:
    """A broken export beside good weights is never opened."""
    files = plain_model()
    expected = embed(files, texts)
    path = export(files)
    path.write_text("<net", encoding="utf-8")
    np.testing.assert_array_equal(embed(files, texts), expected)


def test_a_foreign_input_is_named(plain_model: MakeModel) -> None:
    """A graph that wants more than text is refused by the input's name."""
    files = plain_model()
    export(files, extra=("pixel_values",))
    make_exotic(files)
    with pytest.raises(UnsupportedModelError, match="no support for its input 'pixel_values'"):
        OpenVINOBackend(files, precision="fp32")


def test_a_foreign_output_is_named(plain_model: MakeModel) -> None:
    """A graph without token or text vectors is refused by its outputs' names."""
    files = plain_model()
    export(files, output="logits")
    make_exotic(files)
    with pytest.raises(UnsupportedModelError, match=r"none of its outputs \['logits'\]"):
        OpenVINOBackend(files, precision="fp32")


@pytest.mark.parametrize("missing", [True, False])
def test_a_broken_export_is_corrupt(plain_model: MakeModel, capfd: Any, missing: bool) -> None:
    """An export that is cut short, or has lost its weights, is a CorruptModelError that names the file."""
    files = plain_model()
    path = export(files)
    make_exotic(files)
    if missing:
        path.with_suffix(".bin").unlink()
    else:
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(CorruptModelError, match="openvino_model"):
        OpenVINOBackend(files, precision="fp32")
    capfd.readouterr()  # OpenVINO tries its other readers, which complain on standard error
