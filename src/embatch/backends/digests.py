"""SHA-256 of files, remembered, so that a start does not read 90 MB only to know which weights these are.

Resolving asks for digests to name a model's revision; fetching and verifying compare them with what is expected. A
remembered digest holds for one path, size and modification time; whoever must be sure computes it anew.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from embatch.backends.cache import cache_folder, replace_file
from embatch.errors import CorruptModelError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def compute(path: Path) -> str:
    """SHA-256 of the file's content, 64 hex digits, read now.

    Raises:
        CorruptModelError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CorruptModelError(f"{path} cannot be read: {error.strerror or error}") from error


def remembered(path: Path) -> str:
    """SHA-256 of the file's content; read only if the file is new or changed since it was last asked for."""
    real = path.resolve()  # the hub's cache links to its files
    note = _note(real)
    try:
        stored = json.loads(note.read_text(encoding="utf-8"))
        if stored["state"] == _state(real):
            return str(stored["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none yet, or not readable: compute it
    digest = compute(real)
    remember(real, digest)
    return digest


def remember(path: Path, digest: str) -> None:
    """Keep a digest that has just been computed. A cache folder that cannot be written costs time, no failure."""
    real = path.resolve()
    try:
        record = {"path": str(real), "state": _state(real), "sha256": digest}
        replace_file(_note(real), json.dumps(record))
    except OSError:
        return


def revision_of(folder: Path, weights: Sequence[Path]) -> str:
    """16 hex digits that pin the weights: of the file's own digest, or over all files' paths and digests.

    Args:
        folder: the model's folder, which the paths are relative to.
        weights: at least one file inside it.
    """
    if len(weights) == 1:
        return remembered(weights[0])[:16]
    lines = sorted(f"{path.relative_to(folder).as_posix()} {remembered(path)}\n" for path in weights)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def _note(real: Path) -> Path:
    name = hashlib.sha256(str(real).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return cache_folder() / "digests" / f"{name}.json"


def _state(real: Path) -> list[int]:
    status = real.stat()
    return [status.st_size, status.st_mtime_ns]
