"""From what the user calls a model to a folder with its files on this machine.

A backend loads from the folder that this returns. It looks, in this order, at a local folder, embatch's own cache, the
Hugging Face cache, and then fetches from the hub or the model's mirror. It opens no weights beyond their header, and
imports no library of the hub's before it needs one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embatch.backends import digests
from embatch.backends.cache import model_folder, models_folder
from embatch.backends.catalog import MODELS, find, unknown
from embatch.backends.checking import glance, read_all
from embatch.backends.download import Wanted, fetch, unavailable
from embatch.backends.files import is_model
from embatch.backends.manifest import read_manifest
from embatch.errors import CorruptModelError, ModelError, UnknownModelError, UsageError

if TYPE_CHECKING:
    from embatch.backends.cache import FileProgress
    from embatch.backends.catalog import KnownModel
    from embatch.backends.checking import CheckedFile

_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model whose files are on this machine, whole as far as sizes and headers tell."""

    path: Path
    """The folder; read-only as far as embatch is concerned."""
    name: str
    """Canonical name, or the folder's name for a folder of the user's own."""
    revision: str
    """16 hex digits that pin the weights, whatever folder they lie in."""
    known: KnownModel | None
    """What the catalogue has about it."""


def resolve(
    model: str, *, revision: str | None = None, offline: bool = False, on_progress: FileProgress | None = None
) -> ModelFiles:
    """The files of a model, fetched if they are not here.

    Args:
        model: a folder, an alias of the catalogue (`minilm`), or a name on the hub (`owner/name`).
        revision: branch, tag or commit on the hub. Pinned digests and mirrors then do not apply.
        offline: use what is on this machine and no network.
        on_progress: called with a file's name, bytes so far and bytes in all (None if that is not known) while it
            comes in; not at all if everything is here. It may be called from another thread.

    Raises:
        UnknownModelError: nothing has this name; close names are in the hint.
        ModelUnavailableError: the files are not here and cannot be fetched; the message names every way out.
        CorruptModelError: a file is damaged, or is not the one that is pinned.
        UnsupportedModelError: the weights exist only as a pickle.
        DiskFullError, OutputNotWritableError: the cache folder takes no more.
        UsageError: a revision of a local folder.
    """
    folder = _given_folder(model, revision)
    if folder is not None:
        return _own(folder)
    wanted = _named(model, revision)
    notes: list[str] = []
    found = _at_hand(wanted, notes)
    if found is not None:
        return found
    return _checked(fetch(wanted, offline=offline, notes=notes, on_progress=on_progress), wanted)


def locate(model: str, *, revision: str | None = None) -> ModelFiles | None:
    """What `resolve` would return without a network; None if the files are not here.

    Raises:
        UnknownModelError, CorruptModelError, UnsupportedModelError, UsageError: as `resolve`.
    """
    folder = _given_folder(model, revision)
    return _own(folder) if folder is not None else _at_hand(_named(model, revision), [])


def ensure(
    model: str, *, revision: str | None = None, on_progress: FileProgress | None = None
) -> tuple[ModelFiles, bool]:
    """The files of a model, proven to be whole: read in full if they are here, fetched again if they are damaged.

    Returns:
        The files, and whether this call fetched them.

    Raises:
        EmbatchError: as `resolve`.
    """
    folder = _given_folder(model, revision)
    if folder is not None:
        return _own(folder), False
    wanted = _named(model, revision)
    try:
        found = _at_hand(wanted, [])
        if found is not None and all(file.ok for file in read_all(found.path, wanted)):
            return found, False
    except CorruptModelError:
        pass  # a copy of ours that is damaged: replaced now
    return _checked(fetch(wanted, replace=True, on_progress=on_progress), wanted), True


def verify(model: str, *, revision: str | None = None) -> tuple[Path, tuple[CheckedFile, ...]]:
    """Read every file of a model that is on this machine, and compare it with what it should be.

    Returns:
        The model's folder, and its files.

    Raises:
        ModelUnavailableError: the model is not on this machine.
        UnknownModelError, UnsupportedModelError, UsageError: as `resolve`.
    """
    folder = _given_folder(model, revision)
    if folder is not None:
        return folder, read_all(folder, Wanted(folder.name, None, _recognised(folder)))
    wanted = _named(model, revision)
    found = next(iter(_places(wanted)), None)
    if found is None:
        raise unavailable(wanted, ["this machine's caches: not there"])
    return found, read_all(found, wanted)


def fetched() -> list[str]:
    """Names of all models in embatch's own cache, those outside the catalogue too, in order."""
    names = set()
    for folder in models_folder().glob("[!.]*"):
        try:
            manifest = read_manifest(folder)
        except CorruptModelError:
            continue  # told when somebody asks for that model
        if manifest is not None:
            names.add(manifest.model)
    return sorted(names)


def _given_folder(model: str, revision: str | None) -> Path | None:
    """The folder that the user means, or None if it is a name."""
    path = Path(model).expanduser()
    meant = path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1 or "\\" in model
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError) as error:  # no permission on the way there, or no possible path
        if not meant:
            return None
        raise UnknownModelError(f"{model!r} cannot be looked at: {error}") from error
    if is_folder and is_model(path):
        if revision:
            raise UsageError(
                f"{path} is a folder: it has no revision {revision!r}", hint="Leave the revision out."
            )
        return path.resolve()
    if is_file:
        raise UnknownModelError(f"{model!r} is a file", hint="Give the model's folder, not one of its files.")
    # A folder that happens to be called like a model stands in nobody's way.
    if is_folder and (meant or find(model) is None):
        raise UnknownModelError(
            f"The folder {model!r} holds no model: neither modules.json nor config.json",
            hint="Give the folder that has the model's config.json and model.safetensors.",
        )
    if meant:
        raise UnknownModelError(
            f"There is no folder {model!r}", hint="Check the path, or give a model's name."
        )
    return None


def _named(model: str, revision: str | None) -> Wanted:
    """The model behind an alias or a name in the form owner/name."""
    known = find(model)
    if known is not None:
        return Wanted(known.name, revision, known)
    if _NAME.fullmatch(model) is None:
        raise unknown(
            model,
            f"No model {model!r}: neither a folder here, nor an alias, nor a name in the form owner/name",
        )
    return Wanted(model, revision, None)


def _places(wanted: Wanted) -> list[Path]:
    """The folders on this machine that hold the model, or part of it, embatch's own cache first."""
    own = model_folder(wanted.name, wanted.revision)
    if is_model(own):
        return [own]
    from embatch.backends import (
        hub,
    )  # half of a cold start's imports; not needed where the model is in our cache

    snapshot = hub.cached(wanted.name, wanted.revision)
    return [snapshot] if snapshot is not None and is_model(snapshot) else []


def _at_hand(wanted: Wanted, notes: list[str]) -> ModelFiles | None:
    """The model if it is on this machine. What is wrong with another program's copy goes to `notes`."""
    for place in _places(wanted):
        try:
            return _checked(place, wanted)
        except ModelError as error:
            if place == model_folder(wanted.name, wanted.revision):
                raise
            # The hub's cache may hold half a model, or another version than the one that is pinned.
            notes.append(f"the Hugging Face cache: {error}")
    return None


def _checked(folder: Path, wanted: Wanted) -> ModelFiles:
    selection = glance(folder, wanted)
    revision = digests.revision_of(folder, [folder / path for path in selection.weights])
    return ModelFiles(folder, wanted.name, revision, wanted.known)


def _own(folder: Path) -> ModelFiles:
    """A folder of the user's. One whose files are a pinned model's is that model, wherever it was copied to."""
    known = _recognised(folder)
    return _checked(folder, Wanted(known.name if known else folder.name, None, known))


def _recognised(folder: Path) -> KnownModel | None:
    for model in MODELS:
        here = [file for file in model.pinned if (folder / file.path).is_file()]
        # Sizes first: a folder of another model is told apart without reading it.
        if {"model.safetensors", "tokenizer.json"} <= {file.path for file in here} and all(
            (folder / file.path).stat().st_size == file.size_bytes
            and digests.remembered(folder / file.path) == file.sha256
            for file in here
        ):
            return model
    return None
