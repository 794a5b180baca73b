"""Models of task vectors, kept warm: one for each process and settings, opened when first used."""

from __future__ import annotations

import atexit
import hashlib
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from embatch.errors import ModelUnavailableError, UnknownModelError, UsageError
from embatch.frontends.opening import is_remote

if TYPE_CHECKING:
    from embatch.frontends.embedder import Embedder

EXACT = {"fp32", "bf16", "fp16"}
"""Precisions whose vectors may be compared: a model is run in them only where its cosine to fp32 stays ≥ 0.9999."""

_lock = threading.Lock()
_warm: dict[ModelSettings, Embedder] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """What a model is opened with."""

    model: str
    dimensions: int
    device: str | None = None
    offline: bool = False
    """Never ask a network for its files."""
    way_out: str = ""
    """What to do where its files are missing."""


def opened(settings: ModelSettings) -> Embedder:
    """The open model of these settings; whoever asks second gets the same one.

    Raises:
        UsageError: it has fewer dimensions than wanted, or is a provider's model.
        ModelError: it cannot be had.
    """
    with _lock:
        if settings not in _warm:
            if not _warm:
                atexit.register(release_models)
            _warm[settings] = _open(settings)
        return _warm[settings]


def release_models() -> None:
    """Give back the memory of all models that are kept warm. They are opened again when they are used again."""
    atexit.unregister(release_models)
    with _lock:
        for embedder in _warm.values():
            embedder.close()
        _warm.clear()


def fingerprint(embedder: Embedder, *, recipe: str) -> str:
    """32 hex digits: vectors of tasks may be compared if theirs are equal.

    It is the same on machines that compute in different precisions, as long as these give the same vectors.

    Args:
        embedder: the model.
        recipe: how a task is put into words.
    """
    spec = embedder.spec
    if spec.precision in EXACT:
        spec = replace(spec, precision="fp32")
    return hashlib.sha256(f"{spec.fingerprint} {recipe}".encode()).hexdigest()[:32]


def _open(settings: ModelSettings) -> Embedder:
    from embatch.frontends.embedder import Embedder

    if is_remote(settings.model):
        raise UsageError(
            f"task vectors are made on this machine, and {settings.model!r} is a provider's model",
            hint="Name a local model; see `embatch models list`.",
        )
    try:
        embedder = Embedder(
            settings.model,
            device=settings.device,
            offline=settings.offline,
            profiles=False,
            on_error="collect",
        )
    except ModelUnavailableError as error:
        raise ModelUnavailableError(str(error), hint=settings.way_out or error.hint) from error
    found = embedder.dimensions
    if found == settings.dimensions:
        return embedder
    backend = embedder.backend
    if found < settings.dimensions:
        embedder.close()
        raise UsageError(
            f"{settings.model} gives vectors of {found} numbers, and {settings.dimensions} are wanted",
            hint=f"Use a model of at least {settings.dimensions} dimensions, or target_dims={found}.",
        )
    return Embedder(
        settings.model, backend=backend, dimensions=settings.dimensions, profiles=False, on_error="collect"
    )


def folder(path: str, source: str) -> str:
    """The folder of a model, checked.

    Raises:
        UnknownModelError: there is none.
    """
    if not Path(path).expanduser().is_dir():
        raise UnknownModelError(
            f"{source} names the folder {path!r}, and there is no such folder",
            hint="Name a folder that holds config.json, tokenizer.json and model.safetensors.",
        )
    return str(Path(path).expanduser())
