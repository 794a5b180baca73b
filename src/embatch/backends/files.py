"""Which files of a model matter, and whether those that are here are whole.

The hub offers a dozen formats of the same weights; fetching takes the smallest set that some backend can run, and
resolving checks a folder by the same rule. It reads file names, JSON and the header of safetensors, no weights. What
the configuration means is `layout`'s matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from embatch.backends.jsonfile import read_json
from embatch.errors import CorruptModelError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MANIFEST = "embatch-files.json"
"""Beside a fetched model: where it came from, and each file's size and digest."""

_SMALL = (".json", ".txt", ".model")  # configuration, vocabularies, sentencepiece
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# In this order of preference, each with what belongs to it. OpenVINO's .bin holds raw numbers, not a pickle.
_OPENVINO = ("openvino/openvino_model.xml", "openvino_model.xml")
_ONNX = ("onnx/model.onnx", "model.onnx")
_PICKLE_HINT = (
    "A pickle runs code when it is opened, so embatch opens none. Where you trust the file, convert it once with "
    "sentence-transformers: `SentenceTransformer(name).save_pretrained(folder)`, and pass --model folder."
)


@dataclass(frozen=True, slots=True)
class Selection:
    """The files of a model that embatch uses, as paths with forward slashes, relative to its folder."""

    weights: tuple[str, ...]
    """What pins the vectors: safetensors of all modules, or the files of one exported graph."""
    others: tuple[str, ...]
    """Configuration and tokeniser."""
    pickled: tuple[str, ...] = ()
    """Weights that exist in no other form. Never fetched, never opened."""

    @property
    def paths(self) -> tuple[str, ...]:
        """All of them, small files first: a broken repository is noticed before the large download."""
        return self.others + self.weights


def select(paths: Iterable[str], modules: Sequence[str] = ("",)) -> Selection:
    """The files that matter among `paths`.

    Args:
        paths: every file of the model, relative, with forward slashes.
        modules: the folders that its `modules.json` names, the transformer's first; `""` is the model's own.

    >>> select(["config.json", "model.safetensors", "pytorch_model.bin", "onnx/model.onnx"]).paths
    ('config.json', 'model.safetensors')
    """
    every = sorted(set(paths))
    folders = list(dict.fromkeys(("", *modules)))
    here = [path for path in every if _parent(path) in folders and path != MANIFEST]
    tensors = [path for folder in folders for path in _safetensors(here, folder)]
    transformer = modules[0] if modules else ""
    exported: list[str] = []
    if not any(_parent(path) in {"", transformer} for path in tensors):
        exported = _export(every, transformer)
    others = tuple(path for path in here if path.endswith(_SMALL))
    covered = {_parent(path) for path in tensors} | ({"", transformer} if exported else set())
    pickled = [path for path in here if path.endswith(_PICKLES) and _parent(path) not in covered]
    return Selection((*tensors, *exported), others, tuple(pickled))


def module_folders(modules: Any) -> tuple[str, ...]:
    """The folders that the content of `modules.json` names, in order; just the model's own if it makes no sense.

    Whoever loads the model complains about a broken file; here it only decides what is fetched.
    """
    entries = modules if isinstance(modules, list) else []
    named = [entry.get("path", "") for entry in entries if isinstance(entry, dict)]
    inside = [
        path.strip("/") for path in named if isinstance(path, str) and ".." not in PurePosixPath(path).parts
    ]
    return tuple("" if path == "." else path for path in inside) or ("",)


def is_model(folder: Path) -> bool:
    """Whether the folder claims to be a model: it has a configuration."""
    return any((folder / name).is_file() for name in ("modules.json", "config.json"))


def survey(folder: Path) -> Selection:
    """The files of a model folder on this machine that matter.

    Raises:
        CorruptModelError: there are no weights, or `modules.json` cannot be read.
        UnsupportedModelError: the weights are there only as a pickle.
    """
    listing = folder / "modules.json"
    modules = module_folders(read_json(listing)) if listing.is_file() else ("",)
    places = dict.fromkeys(
        ("", *modules, "onnx", "openvino", *(f"{modules[0]}/{sub}" for sub in ("onnx", "openvino")))
    )
    paths = [
        path.relative_to(folder).as_posix()
        for place in places
        if (folder / place).is_dir()
        for path in (folder / place).iterdir()
        if path.is_file()
    ]
    selection = select(paths, modules)
    refuse_pickles(str(folder), selection)
    if not selection.weights:
        raise CorruptModelError(
            f"{folder} has no weights: neither safetensors, nor ONNX, nor OpenVINO files",
            hint="Copy the whole folder, model.safetensors included, or pass the model's name to fetch it.",
        )
    return selection


def refuse_pickles(name: str, selection: Selection) -> None:
    """Raise if the model cannot be run without opening a pickle.

    Raises:
        UnsupportedModelError: names the file.
    """
    if selection.pickled and not selection.weights:
        raise UnsupportedModelError(
            f"{name} has its weights only as a pickle ({selection.pickled[0]})", hint=_PICKLE_HINT
        )


def check_tensors(folder: Path, weights: Sequence[str]) -> None:
    """Read the header of each safetensors file: a copy that was cut short is named here, not by a crash later.

    Raises:
        CorruptModelError: names the file and what the reader found.
    """
    tensors = [folder / path for path in weights if path.endswith(".safetensors")]
    if not tensors:
        return
    from safetensors import SafetensorError, safe_open

    for path in tensors:
        try:
            with safe_open(str(path), framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            size = path.stat().st_size if path.exists() else 0
            raise CorruptModelError(
                f"{path} ({size:,} bytes) is cut short or no safetensors file: {error}",
                hint="Copy or fetch the file again.",
            ) from error


def _safetensors(here: Sequence[str], folder: str) -> list[str]:
    """The safetensors of one folder, without variants such as `model.fp16.safetensors`."""
    found = [path for path in here if _parent(path) == folder and path.endswith(".safetensors")]
    names = {PurePosixPath(path).name: path for path in found}
    if "model.safetensors" in names:
        return [names["model.safetensors"]]
    shards = [path for name, path in names.items() if name.startswith("model-") and "-of-" in name]
    return shards or found


def _export(every: Sequence[str], transformer: str) -> list[str]:
    """One exported graph with the files that belong to it, or nothing."""
    roots = dict.fromkeys((f"{transformer}/" if transformer else "", ""))
    for names in (_OPENVINO, _ONNX):
        for graph in (root + name for root in roots for name in names):
            if graph in every:
                # model.onnx keeps large weights in model.onnx_data or model.onnx.data
                stem = graph.removesuffix(".xml")
                beside = f"{stem}.bin" if graph.endswith(".xml") else f"{graph}"
                return [path for path in every if path == graph or path.startswith(beside)]
    return []


def _parent(path: str) -> str:
    parent = PurePosixPath(path).parent.as_posix()
    return "" if parent == "." else parent
