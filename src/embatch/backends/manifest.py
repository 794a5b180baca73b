"""What is written down beside a fetched model: where it came from, and each file's size and digest.

Fetching writes it; glancing at a model and verifying it compare with it. A folder that came another way has none.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embatch.backends.files import MANIFEST
from embatch.backends.jsonfile import read_json
from embatch.errors import CorruptModelError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file as it was fetched."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A fetched model."""

    model: str
    """Canonical name."""
    origin: str
    """The hub's address, or the package that it was taken from."""
    version: str
    """The hub's commit, or the package's version."""
    files: dict[str, FileRecord]
    """By path inside the folder, with forward slashes."""

    def write(self, folder: Path) -> None:
        """Put it into the model's folder."""
        record = {
            "model": self.model,
            "origin": self.origin,
            "version": self.version,
            "files": {
                path: {"bytes": file.size_bytes, "sha256": file.sha256} for path, file in self.files.items()
            },
        }
        (folder / MANIFEST).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest | None:
    """The record beside a model; None where there is none.

    Raises:
        CorruptModelError: it is not what `write` writes.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    record = read_json(path)
    try:
        files = {
            name: FileRecord(int(entry["bytes"]), str(entry["sha256"]))
            for name, entry in record["files"].items()
        }
        return Manifest(str(record["model"]), str(record["origin"]), str(record["version"]), files)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptModelError(f"{path} is no record of a fetched model: {error!r}") from error
