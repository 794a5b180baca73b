"""Which files of a model are taken, and what is said of those that are broken."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embatch.backends.files import check_tensors, is_model, module_folders, select, survey
from embatch.errors import CorruptModelError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAMES = st.sampled_from(
    [
        "config.json",
        "modules.json",
        "vocab.txt",
        "sentencepiece.bpe.model",
        "model.safetensors",
        "model.fp16.safetensors",
        "model-00001-of-00002.safetensors",
        "pytorch_model.bin",
        "model.onnx",
        "openvino_model.xml",
        "openvino_model.bin",
        "training_args.bin",
        "rust_model.ot",
        "README.md",
    ]
)
FOLDERS = st.sampled_from(["", "1_Pooling/", "2_Dense/", "onnx/", "openvino/", "../", "checkpoint-500/"])
PATHS = st.sets(st.builds(lambda folder, name: folder + name, FOLDERS, NAMES))


@given(paths=PATHS)
def test_selection_is_safe(paths: set[str]) -> None:
    """Whatever a repository holds: only its own files, none outside its modules, none twice, and no pickle."""
    selection = select(paths, ("", "1_Pooling", "2_Dense"))
    assert set(selection.paths) <= paths
    assert len(set(selection.paths)) == len(selection.paths)
    for path in selection.paths:
        assert not path.startswith(("../", "checkpoint-"))
        assert "pytorch_model" not in path
        assert not path.endswith(".bin") or path.endswith("openvino_model.bin")


@given(paths=PATHS)
def test_selection_ignores_order(paths: set[str]) -> None:
    """A listing in another order gives the same files in the same order."""
    assert select(sorted(paths)) == select(sorted(paths, reverse=True))


@pytest.mark.parametrize(
    ("paths", "modules", "weights"),
    [
        (["model.safetensors", "pytorch_model.bin", "onnx/model.onnx"], [""], ["model.safetensors"]),
        (["model.safetensors", "model.fp16.safetensors"], [""], ["model.safetensors"]),
        (
            ["model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors", "x.safetensors"],
            [""],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
        (
            ["model.safetensors", "2_Dense/model.safetensors", "3_Other/model.safetensors"],
            ["", "1_Pooling", "2_Dense"],
            ["model.safetensors", "2_Dense/model.safetensors"],
        ),
        (["0_Transformer/model.safetensors"], ["0_Transformer"], ["0_Transformer/model.safetensors"]),
        (
            ["pytorch_model.bin", "onnx/model.onnx", "onnx/model.onnx_data", "onnx/model_quantized.onnx"],
            [""],
            ["onnx/model.onnx", "onnx/model.onnx_data"],
        ),
        (
            ["onnx/model.onnx", "openvino/openvino_model.bin", "openvino/openvino_model.xml"],
            [""],
            ["openvino/openvino_model.bin", "openvino/openvino_model.xml"],
        ),
        (["pytorch_model.bin"], [""], []),
    ],
)
def test_the_smallest_sufficient_weights_are_taken(
    paths: list[str], modules: list[str], weights: list[str]
) -> None:
    """One format of the weights is chosen: safetensors, or else one exported graph with what belongs to it."""
    assert list(select(paths, modules).weights) == weights


def test_pickles_are_named_where_nothing_else_is_there() -> None:
    """Weights that exist only as a pickle are reported; those beside safetensors are not worth a word."""
    assert select(["config.json", "pytorch_model.bin"]).pickled == ("pytorch_model.bin",)
    assert select(["config.json", "pytorch_model.bin", "model.safetensors"]).pickled == ()


@pytest.mark.parametrize(
    ("modules", "folders"),
    [
        ([{"path": ""}, {"path": "1_Pooling"}], ("", "1_Pooling")),
        ([{"path": "."}, {"path": "/1_Pooling/"}], ("", "1_Pooling")),
        ([{"path": "../../secrets"}], ("",)),
        ([{"path": 3}, "x", None], ("",)),
        ({"path": "x"}, ("",)),
        (None, ("",)),
    ],
)
def test_module_folders(modules: Any, folders: tuple[str, ...]) -> None:
    """Folders come from modules.json, whatever it holds, and none leads out of the model's folder."""
    assert module_folders(modules) == folders


def test_survey_of_a_whole_folder(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    """A folder on this machine is judged by the same rule as a repository."""
    folder = tiny_model(tmp_path / "model")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"x")
    assert is_model(folder)
    assert survey(folder).weights == ("model.safetensors",)
    assert "1_Pooling/config.json" in survey(folder).others


def test_survey_without_weights(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    """A folder whose weights were not copied is named as such."""
    folder = tiny_model(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CorruptModelError, match="has no weights"):
        survey(folder)


def test_survey_of_a_pickle(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    """A pickle is refused with the way to convert it."""
    folder = tiny_model(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UnsupportedModelError, match=r"pytorch_model\.bin") as caught:
        survey(folder)
    assert "save_pretrained" in caught.value.hint


def test_survey_of_broken_modules(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    """A modules.json that is no JSON is a corrupt model."""
    folder = tiny_model(tmp_path / "model")
    (folder / "modules.json").write_text("{", encoding="utf-8")
    with pytest.raises(CorruptModelError, match=r"modules\.json"):
        survey(folder)


def test_a_folder_without_configuration_is_no_model(tmp_path: Path) -> None:
    """JSON of another kind does not make a folder a model."""
    (tmp_path / "package.json").write_text(json.dumps({}), encoding="utf-8")
    assert not is_model(tmp_path)


@pytest.mark.parametrize("kept", [0, 4, 100, 4000])
def test_weights_that_were_cut_short(tmp_path: Path, tiny_model: Callable[..., Path], kept: int) -> None:
    """A copy that ended early is noticed by its header, and the file is named."""
    weights = tiny_model(tmp_path / "model") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(CorruptModelError, match=r"model\.safetensors"):
        check_tensors(weights.parent, ["model.safetensors"])


def test_whole_weights_pass(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    """A whole file raises nothing."""
    check_tensors(tiny_model(tmp_path / "model"), ["model.safetensors"])
