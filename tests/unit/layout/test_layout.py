"""What is read from a model folder, and what is said about a broken one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from embatch.backends.layout import Dense, Normalize, read_layout
from embatch.errors import CorruptModelError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    MakeFolder = Callable[..., Path]


def test_a_folder_of_sentence_transformers_is_understood(model_folder: MakeFolder) -> None:
    """Modules, sizes, limit and weights are those of the folder."""
    folder = model_folder()
    layout = read_layout(folder)
    assert (layout.model_type, layout.hidden_size, layout.dimensions) == ("bert", 32, 32)
    assert (layout.pooling, layout.head, layout.normalize) == (("mean",), (Normalize(),), True)
    assert (layout.max_tokens, layout.lower_case, layout.truncation_side) == (48, False, "right")
    assert layout.weights.safetensors == (folder / "model.safetensors",)
    assert (layout.prompts, layout.default_prompt_name, layout.similarity) == ({}, None, "cosine")


def test_a_bare_transformer_is_pooled_by_the_mean(model_folder: MakeFolder) -> None:
    """Without modules.json the folder is a transformer: mean pooling, no normalisation."""
    layout = read_layout(model_folder({"modules.json": None, "1_Pooling/config.json": None}))
    assert (layout.pooling, layout.head, layout.normalize) == (("mean",), (), False)


def test_newer_class_names_and_folders_are_understood(model_folder: MakeFolder) -> None:
    """Modules are told apart by class name, wherever the package keeps the class and the folder the module."""
    modules = [
        {"path": "0_Transformer", "type": "sentence_transformers.base.modules.transformer.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling"},
        {"path": "2_Dropout", "type": "sentence_transformers.models.Dropout"},
    ]
    changes = {
        "modules.json": modules,
        "config.json": None,
        "0_Transformer/config.json": {"model_type": "bert", "hidden_size": 8, "max_position_embeddings": 9},
        "0_Transformer/model.safetensors": "weights",
        "1_Pooling/config.json": {"embedding_dimension": 8, "pooling_mode": "lasttoken"},
    }
    layout = read_layout(model_folder(changes))
    assert (layout.transformer.name, layout.pooling, layout.max_tokens) == ("0_Transformer", ("last",), 9)


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("cls",)),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, ("max", "mean")),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, ("mean_sqrt_len",)),
        ({"pooling_mode": ["lasttoken", "weightedmean"]}, ("last", "weighted_mean")),
        ({}, ("mean",)),
    ],
)
def test_pooling_modes(model_folder: MakeFolder, config: dict[str, Any], pooling: tuple[str, ...]) -> None:
    """Both ways of naming modes are read; several are concatenated and widen the vector."""
    layout = read_layout(model_folder({"1_Pooling/config.json": config}))
    assert layout.pooling == pooling
    assert layout.dimensions == 32 * len(pooling)


def test_a_dense_module_sets_the_dimensions(model_folder: MakeFolder) -> None:
    """A Dense module is read with its sizes, and what follows it stays in order."""
    layout = read_layout(model_folder(_with_dense({"in_features": 32, "out_features": 16})))
    dense, normalize = layout.head
    assert isinstance(dense, Dense)
    assert (dense.out_features, dense.bias, dense.activation) == (16, True, "tanh")
    assert (layout.dimensions, normalize) == (16, Normalize())


def test_prompts_and_similarity(model_folder: MakeFolder) -> None:
    """Named prompts are read verbatim, empty ones left out."""
    about = {
        "prompts": {"query": "query: ", "document": ""},
        "default_prompt_name": "query",
        "similarity_fn_name": "dot",
    }
    layout = read_layout(model_folder({"config_sentence_transformers.json": about}))
    assert (layout.prompts, layout.default_prompt_name) == ({"query": "query: "}, "query")
    assert layout.similarity == "dot"


@pytest.mark.parametrize(
    ("options", "tokenizer", "config", "limit"),
    [
        ({"max_seq_length": 48}, {"model_max_length": 512}, {}, 48),
        ({"max_seq_length": 256}, {"model_max_length": 512}, {}, 64),  # never beyond the positions
        ({"max_seq_length": None}, {"model_max_length": 32}, {}, 32),
        ({}, {"model_max_length": 1e30}, {}, 64),
        ({}, {}, {}, 64),
        ({"processor_kwargs": {"model_max_length": 20}, "max_seq_length": 30}, {}, {}, 20),
        ({}, {"model_max_length": 512}, {"model_type": "xlm-roberta", "pad_token_id": 1}, 62),
        ({}, {"model_max_length": 512}, {"model_type": "mpnet", "pad_token_id": 0}, 62),
    ],
)
def test_limit_of_tokens(
    model_folder: MakeFolder,
    options: dict[str, Any],
    tokenizer: dict[str, Any],
    config: dict[str, Any],
    limit: int,
) -> None:
    """The limit is the folder's own, else the tokeniser's, and never more than the model has positions."""
    base = {"model_type": "bert", "hidden_size": 32, "max_position_embeddings": 64}
    changes = {
        "sentence_bert_config.json": options,
        "tokenizer_config.json": tokenizer,
        "config.json": {**base, **config},
    }
    assert read_layout(model_folder(changes)).max_tokens == limit


def test_shards_are_listed_once_each(model_folder: MakeFolder) -> None:
    """An index of shards gives each file once."""
    index = {
        "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}
    }
    changes = {
        "model.safetensors": None,
        "model.safetensors.index.json": index,
        "model-1.safetensors": "w",
        "model-2.safetensors": "w",
    }
    names = [path.name for path in read_layout(model_folder(changes)).weights.safetensors]
    assert names == ["model-1.safetensors", "model-2.safetensors"]


def test_exported_files_are_found(model_folder: MakeFolder) -> None:
    """ONNX and OpenVINO files are weights too."""
    changes = {"model.safetensors": None, "onnx/model.onnx": "x", "openvino/openvino_model.xml": "x"}
    weights = read_layout(model_folder(changes)).weights
    assert [path.name for path in (*weights.onnx, *weights.openvino)] == ["model.onnx", "openvino_model.xml"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"config.json": None}, "config.json is missing"),
        ({"config.json": "{"}, "no valid JSON"),
        ({"config.json": "[1]"}, "holds list, not a JSON object"),
        ({"config.json": {"hidden_size": 32}}, "no field 'model_type'"),
        (
            {"config.json": {"model_type": "bert", "hidden_size": "wide"}},
            "must be a whole number, not 'wide'",
        ),
        ({"modules.json": {"a": 1}}, "must hold a list"),
        ({"modules.json": [{"path": "../elsewhere", "type": "x.Transformer"}]}, "leads out of the folder"),
        ({"1_Pooling/config.json": None}, "config.json is missing"),
        ({"tokenizer_config.json": {"truncation_side": "both"}}, "must be 'left' or 'right'"),
        ({"model.safetensors": None}, "has no weights"),
        (
            {"model.safetensors": None, "model.safetensors.index.json": {"weight_map": {"a": "x"}}},
            "not there: x",
        ),
        ({"sentence_bert_config.json": {"max_seq_length": 0}}, "no usable limit"),
        ({"sentence_bert_config.json": {"do_lower_case": "yes"}}, "must be true or false"),
    ],
)
def test_broken_folders_are_named(model_folder: MakeFolder, changes: dict[str, Any], told: str) -> None:
    """A missing or broken file is a CorruptModelError that says which and why."""
    with pytest.raises(CorruptModelError, match=told.replace("(", r"\(")):
        read_layout(model_folder(changes))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"modules.json": [{"path": "", "type": "x.models.WordEmbeddings"}]}, "WordEmbeddings"),
        ({"modules.json": [{"path": "", "type": "x.models.Transformer"}]}, "no Transformer with Pooling"),
        ({"1_Pooling/config.json": {"pooling_mode": "attention"}}, "unknown pooling mode 'attention'"),
        ({"1_Pooling/config.json": {"include_prompt": False}}, "without the prompt's tokens"),
        ({"sentence_bert_config.json": {"transformer_task": "text-generation"}}, "text-generation"),
        ({"model.safetensors": None, "pytorch_model.bin": "pickle"}, "only as a pickle"),
    ],
)
def test_what_cannot_run_here_is_named(model_folder: MakeFolder, changes: dict[str, Any], told: str) -> None:
    """What only sentence-transformers can run is an UnsupportedModelError with a way out."""
    with pytest.raises(UnsupportedModelError, match=told) as caught:
        read_layout(model_folder(changes))
    assert "embatch[torch]" in caught.value.hint or "save_pretrained" in caught.value.hint


@pytest.mark.parametrize(
    ("dense", "error", "told"),
    [
        ({"in_features": 99, "out_features": 16}, CorruptModelError, "takes 99 numbers, gets 32"),
        ({"in_features": 32, "out_features": 16, "use_residual": True}, UnsupportedModelError, "residual"),
        (
            {"in_features": 32, "out_features": 16, "activation_function": "evil.Act"},
            UnsupportedModelError,
            "evil.Act",
        ),
        (
            {"in_features": 32, "out_features": 16, "module_input_name": "token_embeddings"},
            UnsupportedModelError,
            "token_embeddings",
        ),
    ],
)
def test_dense_modules_that_do_not_fit(
    model_folder: MakeFolder, dense: dict[str, Any], error: type[Exception], told: str
) -> None:
    """A Dense module of another width or kind is refused."""
    with pytest.raises(error, match=told):
        read_layout(model_folder(_with_dense(dense)))


def test_dense_weights_in_a_pickle_are_refused(model_folder: MakeFolder) -> None:
    """A Dense module's weights are held to the same rule as the transformer's."""
    changes = _with_dense({"in_features": 32, "out_features": 16})
    del changes["2_Dense/model.safetensors"]
    with pytest.raises(UnsupportedModelError, match="only as a pickle"):
        read_layout(model_folder({**changes, "2_Dense/pytorch_model.bin": "pickle"}))
    (model_folder() / "2_Dense/pytorch_model.bin").unlink()
    with pytest.raises(CorruptModelError, match="is missing"):
        read_layout(model_folder(changes))


def test_a_layout_is_frozen(model_folder: MakeFolder) -> None:
    """Nobody changes what was read."""
    layout: Any = read_layout(model_folder())
    with pytest.raises(AttributeError):
        layout.max_tokens = 3


def _with_dense(config: dict[str, Any]) -> dict[str, Any]:
    modules = [
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"path": "2_Dense", "type": "sentence_transformers.models.Dense"},
        {"path": "3_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    return {"modules.json": modules, "2_Dense/config.json": config, "2_Dense/model.safetensors": "weights"}
