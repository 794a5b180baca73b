"""Whether the files of a model are what they should be: at a glance at each start, from end to end when asked.

Resolving glances at what it finds; `embatch models verify` and `fetch` read everything. What a file should be is told
by the digests that are pinned, by the record that was written when it was fetched, and by the hub's cache, which
names large files after their digest. It repairs nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embatch.backends import digests
from embatch.backends.download import mismatch
from embatch.backends.files import check_tensors, survey
from embatch.backends.manifest import read_manifest
from embatch.errors import CorruptModelError

if TYPE_CHECKING:
    from pathlib import Path

    from embatch.backends.download import Wanted
    from embatch.backends.files import Selection

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """A file of a model, read from end to end."""

    path: str
    """Inside the model's folder, with forward slashes."""
    size_bytes: int
    sha256: str
    """What was found; empty if the file is missing."""
    expected: str | None
    """What it should be; None if nothing is known about it."""

    @property
    def ok(self) -> bool:
        """Whether the file is there, and is what it should be as far as that is known."""
        return self.sha256 == self.expected if self.expected else bool(self.sha256)


def glance(folder: Path, wanted: Wanted) -> Selection:
    """Notice what is missing, cut short or swapped, without reading weights that were read before.

    Raises:
        CorruptModelError: names the file, what was expected and what was found.
        UnsupportedModelError: the weights exist only as a pickle.
    """
    manifest = read_manifest(folder)
    for path, record in manifest.files.items() if manifest else ():
        found = (folder / path).stat().st_size if (folder / path).is_file() else None
        if found != record.size_bytes:
            told = "is missing" if found is None else f"has {found:,} bytes"
            raise CorruptModelError(
                f"{folder / path} {told}; {record.size_bytes:,} bytes were fetched (SHA-256 {record.sha256})",
                hint=f"Run `embatch models fetch {wanted.spoken}`: it replaces a copy that is damaged.",
            )
    selection = survey(folder)
    check_tensors(folder, selection.weights)
    for file in wanted.pinned:
        if file.path in selection.paths:
            digest = digests.remembered(folder / file.path)
            if digest != file.sha256:
                raise mismatch(folder / file.path, digest, file.sha256, wanted.spoken)
    return selection


def read_all(folder: Path, wanted: Wanted) -> tuple[CheckedFile, ...]:
    """Read every file that matters, and those that were fetched and are gone, in the order of their paths."""
    manifest = read_manifest(folder)
    recorded = {path: record.sha256 for path, record in manifest.files.items()} if manifest else {}
    pinned = {file.path: file.sha256 for file in wanted.pinned}
    present = survey(folder).paths if not recorded else ()
    checked = []
    for name in sorted({*recorded, *present, *(path for path in pinned if (folder / path).is_file())}):
        path = folder / name
        expected = pinned.get(name) or recorded.get(name) or _blob_digest(path)
        if path.is_file():
            digest = digests.compute(path)
            digests.remember(path, digest)
            checked.append(CheckedFile(name, path.stat().st_size, digest, expected))
        else:
            checked.append(CheckedFile(name, 0, "", expected))
    return tuple(checked)


def _blob_digest(path: Path) -> str | None:
    """What the hub's cache says: it links large files to a blob that is named after its SHA-256."""
    blob = path.resolve().name
    return blob if path.is_symlink() and _DIGEST.fullmatch(blob) else None
