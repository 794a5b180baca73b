"""What a model folder says about itself, read once and checked: the layout of sentence-transformers.

Resolving yields a folder; this reads its modules, limits, prompts and weight files into one frozen `Layout`, from
which the OpenVINO backend builds its graph and its tokeniser. It opens only JSON: no weights, no pickles, and no
tokeniser.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from embatch.backends.jsonfile import JsonFile, read_json
from embatch.errors import CorruptModelError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Pooling = Literal["cls", "max", "mean", "mean_sqrt_len", "weighted_mean", "last"]
"""How token vectors become one vector: first token, maximum, mean, sum over √n, mean weighted by position, last."""

Side = Literal["left", "right"]

# (name in `pooling_mode`, older flag of its own, ours), in the order in which several are concatenated.
_POOLINGS: tuple[tuple[str, str, Pooling], ...] = (
    ("cls", "pooling_mode_cls_token", "cls"),
    ("max", "pooling_mode_max_tokens", "max"),
    ("mean", "pooling_mode_mean_tokens", "mean"),
    ("mean_sqrt_len_tokens", "pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len"),
    ("weightedmean", "pooling_mode_weightedmean_tokens", "weighted_mean"),
    ("lasttoken", "pooling_mode_lasttoken", "last"),
)
# Older folders name this file after the architecture.
_TRANSFORMER_FILES = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
_NO_LIMIT = 10**9
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_CONVERT_HINT = (
    "A pickle runs code when it is opened, so embatch opens none. Where you trust the file, convert it once with "
    "sentence-transformers: `SentenceTransformer(folder).save_pretrained(new_folder)`, and give the new folder."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """A linear layer after pooling: `activation(x · weightᵀ + bias)`."""

    weights: Path
    """Safetensors file with `linear.weight` `(out, in)` and, if `bias`, `linear.bias` `(out,)`."""
    in_features: int
    out_features: int
    bias: bool
    activation: str
    """Class name in lower case, such as `tanh` or `identity`."""


@dataclass(frozen=True, slots=True)
class Normalize:
    """Division by the L2 norm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFiles:
    """The files that hold the transformer's weights, by format."""

    safetensors: tuple[Path, ...] = ()
    """One file, or the shards that the index names."""
    onnx: tuple[Path, ...] = ()
    openvino: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A model folder, understood."""

    folder: Path
    transformer: Path
    """Folder of the transformer and its tokeniser: `folder` itself, or one inside it."""
    config: JsonFile
    """The transformer's `config.json`."""
    tokenizer_config: JsonFile
    """`tokenizer_config.json`; without fields where there is none."""
    model_type: str
    hidden_size: int
    pooling: tuple[Pooling, ...]
    """More than one: their results are concatenated in this order."""
    head: tuple[Dense | Normalize, ...]
    """What follows pooling, in order."""
    dimensions: int
    """Numbers in a finished vector."""
    max_tokens: int
    """Longest text in tokens, special tokens included."""
    lower_case: bool
    """Whether texts are lower-cased before the tokeniser's own normalisation."""
    padding_side: Side
    truncation_side: Side
    """Which end of an overlong text is cut off."""
    weights: WeightFiles
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity: str = "cosine"

    @property
    def normalize(self) -> bool:
        """Whether finished vectors have unit length."""
        return bool(self.head) and isinstance(self.head[-1], Normalize)


def read_layout(folder: Path) -> Layout:
    """What `folder` holds: sentence-transformers modules, or a bare transformer, which is pooled by the mean.

    Raises:
        CorruptModelError: a file that must be there is missing or broken; names the file and the reason.
        UnsupportedModelError: a module or option that only sentence-transformers itself can run, or weights
            that exist only as a pickle.
    """
    modules = _modules(folder)
    transformer = modules.transformer
    config = JsonFile.read(transformer / "config.json")
    options = _transformer_options(transformer)
    tokenizer_config = JsonFile.read_optional(transformer / "tokenizer_config.json")
    hidden_size = _hidden_size(config)
    about = JsonFile.read_optional(folder / "config_sentence_transformers.json")
    prompts = about.table("prompts").fields
    return Layout(
        folder=folder,
        transformer=transformer,
        config=config,
        tokenizer_config=tokenizer_config,
        model_type=config.text("model_type"),
        hidden_size=hidden_size,
        pooling=modules.pooling,
        head=modules.head,
        dimensions=_dimensions(modules, hidden_size),
        max_tokens=_max_tokens(config, options, tokenizer_config),
        lower_case=options.flag("do_lower_case", default=False),
        padding_side=_side(tokenizer_config, "padding_side"),
        truncation_side=_side(tokenizer_config, "truncation_side"),
        weights=_weight_files(transformer, folder),
        prompts={name: str(prompt) for name, prompt in prompts.items() if prompt},
        default_prompt_name=about.text("default_prompt_name", "") or None,
        similarity=about.text("similarity_fn_name", "cosine"),
    )


@dataclass(frozen=True, slots=True)
class _Modules:
    transformer: Path
    pooling: tuple[Pooling, ...]
    head: tuple[Dense | Normalize, ...]


def _modules(folder: Path) -> _Modules:
    """The modules that `modules.json` names, told apart by class name: the packages' paths have moved often."""
    listing = folder / "modules.json"
    if not listing.is_file():
        return _Modules(folder, ("mean",), ())
    transformer: Path | None = None
    pooling: tuple[Pooling, ...] = ()
    head: list[Dense | Normalize] = []
    for kind, path in _module_list(listing):
        if kind == "Transformer" and transformer is None:
            transformer = path
        elif kind == "Pooling" and transformer is not None and not pooling:
            pooling = _pooling(JsonFile.read(path / "config.json"))
        elif kind == "Dense" and pooling:
            head.append(_dense(path))
        elif kind == "Normalize" and pooling:
            head.append(Normalize())
        elif kind != "Dropout":  # dropout does nothing outside training
            raise UnsupportedModelError(f"{listing}: no support for the module {kind} at this place")
    if transformer is None or not pooling:
        raise UnsupportedModelError(f"{listing} names no Transformer with Pooling after it")
    return _Modules(transformer, pooling, tuple(head))


def _module_list(listing: Path) -> list[tuple[str, Path]]:
    """(class name, folder) of each module in order."""
    entries = read_json(listing)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise CorruptModelError(f"{listing} must hold a list of objects")
    modules = [JsonFile(listing, entry) for entry in entries]
    found = []
    for module in modules:
        kind = module.text("type").rsplit(".", 1)[-1]
        path = (listing.parent / module.text("path", ".")).resolve()
        if not path.is_relative_to(listing.parent.resolve()):
            raise CorruptModelError(f"{listing}: path {module.text('path')!r} leads out of the folder")
        found.append((kind, path))
    return found


def _pooling(config: JsonFile) -> tuple[Pooling, ...]:
    if not config.flag("include_prompt", default=True):
        raise UnsupportedModelError(f"{config.path}: pooling without the prompt's tokens is not supported")
    ours = {name: pooling for name, _, pooling in _POOLINGS}
    if config.has("pooling_mode"):
        named: Any = config.fields["pooling_mode"]
        modes = [named] if isinstance(named, str) else named
        unknown = [mode for mode in modes if mode not in ours]
        if unknown or not modes:
            raise UnsupportedModelError(f"{config.path}: unknown pooling mode {named!r}")
        return tuple(ours[mode] for mode in modes)
    chosen = tuple(pooling for _, flag, pooling in _POOLINGS if config.flag(flag, default=False))
    return chosen or ("mean",)


def _dense(folder: Path) -> Dense:
    config = JsonFile.read(folder / "config.json")
    weights = folder / "model.safetensors"
    if not weights.is_file():
        if (folder / "pytorch_model.bin").is_file():
            raise UnsupportedModelError(f"{folder} has its weights only as a pickle", hint=_CONVERT_HINT)
        raise CorruptModelError(f"{weights} is missing")
    if config.flag("use_residual", default=False):
        raise UnsupportedModelError(f"{config.path}: a residual Dense module is not supported")
    for key in ("module_input_name", "module_output_name"):
        if config.text(key, "sentence_embedding") != "sentence_embedding":
            raise UnsupportedModelError(f"{config.path}: {key} {config.text(key)!r} is not supported")
    activation = config.text("activation_function", "torch.nn.modules.activation.Tanh")
    if not activation.startswith("torch."):
        raise UnsupportedModelError(f"{config.path}: activation {activation!r} is code of the model's own")
    return Dense(
        weights=weights,
        in_features=config.integer("in_features"),
        out_features=config.integer("out_features"),
        bias=config.flag("bias", default=True),
        activation=activation.rsplit(".", 1)[-1].lower(),
    )


def _transformer_options(transformer: Path) -> JsonFile:
    """What sentence-transformers adds to the transformer: limit, lower-casing, and options of newer versions."""
    paths = [path for name in _TRANSFORMER_FILES if (path := transformer / name).is_file()]
    options = JsonFile.read_optional(paths[0] if paths else transformer / _TRANSFORMER_FILES[0])
    task = options.text("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        raise UnsupportedModelError(f"{options.path}: transformer_task {task!r} is not supported")
    output = options.table("modality_config").table("text").text("method_output_name", "last_hidden_state")
    if output != "last_hidden_state":
        raise UnsupportedModelError(f"{options.path}: pooling over {output!r} is not supported")
    return options


def _hidden_size(config: JsonFile) -> int:
    key = next((key for key in ("hidden_size", "dim", "d_model") if config.has(key)), "hidden_size")
    return config.integer(key)


def _dimensions(modules: _Modules, hidden_size: int) -> int:
    """Numbers in a finished vector; refuses a Dense module that does not fit what comes before it."""
    width = hidden_size * len(modules.pooling)
    for step in modules.head:
        if isinstance(step, Dense):
            if step.in_features != width:
                raise CorruptModelError(
                    f"{step.weights.parent}: takes {step.in_features} numbers, gets {width}"
                )
            width = step.out_features
    return width


def _max_tokens(config: JsonFile, options: JsonFile, tokenizer_config: JsonFile) -> int:
    """The limit as sentence-transformers derives it, but never more than there are positions."""
    declared = [
        source.integer(key)
        for source, key in (
            (options.table("processor_kwargs"), "model_max_length"),
            (options.table("tokenizer_args"), "model_max_length"),
            (options, "max_seq_length"),
            (tokenizer_config, "model_max_length"),
        )
        if source.has(key)
    ]
    limit = min(declared[0] if declared else _NO_LIMIT, _positions(config))
    if limit < 1 or limit >= _NO_LIMIT:
        raise CorruptModelError(f"{config.path.parent}: no usable limit of tokens (found {limit})")
    return limit


def _positions(config: JsonFile) -> int:
    """How many tokens have a position of their own. RoBERTa's kin lose those up to the padding token's."""
    positions = config.integer("max_position_embeddings", _NO_LIMIT)
    if config.text("model_type", "") in {"roberta", "xlm-roberta", "camembert", "mpnet"} and positions > 0:
        # MPNet pads its positions at 1, whatever its configuration says.
        padding = 1 if config.text("model_type") == "mpnet" else config.integer("pad_token_id", 1)
        return positions - padding - 1
    return positions if positions > 0 else _NO_LIMIT


def _side(tokenizer_config: JsonFile, key: str) -> Side:
    side = tokenizer_config.text(key, "right")
    if side not in get_args(Side):
        raise CorruptModelError(f"{tokenizer_config.path}: {key} must be 'left' or 'right', not {side!r}")
    return "left" if side == "left" else "right"


def _weight_files(transformer: Path, folder: Path) -> WeightFiles:
    files = WeightFiles(
        safetensors=_safetensors(transformer),
        onnx=_exports(transformer, folder, "onnx", "*.onnx"),
        openvino=_exports(transformer, folder, "openvino", "*.xml"),
    )
    if files.safetensors or files.onnx or files.openvino:
        return files
    if any((transformer / name).is_file() for name in _PICKLES):
        raise UnsupportedModelError(f"{transformer} has its weights only as a pickle", hint=_CONVERT_HINT)
    raise CorruptModelError(
        f"{transformer} has no weights: neither safetensors, nor ONNX, nor OpenVINO files"
    )


def _safetensors(transformer: Path) -> tuple[Path, ...]:
    single, index = transformer / "model.safetensors", transformer / "model.safetensors.index.json"
    if single.is_file():
        return (single,)
    if not index.is_file():
        return ()
    shards = sorted({str(name) for name in JsonFile.read(index).table("weight_map").fields.values()})
    paths = tuple(transformer / name for name in shards)
    missing = [path.name for path in paths if not path.is_file() or path.parent != transformer]
    if missing or not paths:
        raise CorruptModelError(
            f"{index} names files that are not there: {', '.join(missing) or 'none at all'}"
        )
    return paths


def _exports(transformer: Path, folder: Path, subfolder: str, pattern: str) -> tuple[Path, ...]:
    """Exported graphs, wherever the exporters put them: beside the transformer or in a folder of their own."""
    places = dict.fromkeys((transformer / subfolder, folder / subfolder, transformer, folder))
    return tuple(path for place in places if place.is_dir() for path in sorted(place.glob(pattern)))
