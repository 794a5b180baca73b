"""What readers of the Lance store are to see: one small file that is replaced as a whole.

It names the version of the table that was published, and what goes with it. Whoever opens a store reads this first.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from embatch.errors import IndexBrokenError, IndexNotFoundError
from embatch.storage.files import os_errors, sync_folder
from embatch.storage.vectors.lance_rows import FOLDER
from embatch.types import ModelSpec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILE = "published.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorIndex:
    """How the vectors are indexed, and what that was found to be worth."""

    kind: str
    """Lance's name of the type, such as `IVF_RQ`."""
    partitions: int
    probes: int
    """Partitions that a query looks at."""
    refine: int
    """A query takes so many times as many candidates as it wants, and compares these exactly."""
    rows: int
    """In the table when it was made."""
    recall: float
    """At 10, measured then."""

    def __str__(self) -> str:
        """In words, for a person."""
        return f"{self.kind}, {self.partitions} lists, {self.probes} probed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One state of the store that readers may see."""

    version: int
    """Of the table."""
    spec: ModelSpec
    chunks: int
    files: int
    about: Mapping[str, str] = field(default_factory=dict)
    vector_index: VectorIndex | None = None
    earlier: tuple[tuple[int, float], ...] = ()
    """Versions published before it that are still there, and when they were replaced, in seconds since 1970."""


def load(location: Path) -> Published:
    """What was published last.

    Raises:
        IndexNotFoundError: there is no store, or nothing of it was published yet.
        IndexBrokenError: the file is damaged, or of a newer version.
    """
    path = location / FILE
    try:
        fields: dict[str, Any] = json.loads(path.read_bytes())
        if fields.pop("format") != _FORMAT:
            raise IndexBrokenError(
                f"the index {str(location)!r} was made by another version of embatch",
                hint="Update embatch, or make the index anew with `embatch index --rebuild`.",
            )
        return _parsed(fields)
    except (FileNotFoundError, NotADirectoryError) as error:
        began = (location / FOLDER).exists()
        what = "an index that has not been completed yet" if began else "no index"
        raise IndexNotFoundError(f"there is {what} in {str(location)!r}") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise IndexBrokenError(f"the file {str(path)!r} cannot be read: {error}") from error


def save(location: Path, published: Published) -> None:
    """Let readers see this state, in one step that outlasts a power cut."""
    path, new = location / FILE, location / f"{FILE}.new"
    spec = json.loads(published.spec.to_json())
    text = json.dumps({"format": _FORMAT, **asdict(published), "spec": spec}, indent=1)
    with os_errors(location):
        with new.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    sync_folder(location)


def _parsed(fields: dict[str, Any]) -> Published:
    index = fields.pop("vector_index")
    return Published(
        version=int(fields["version"]),
        spec=ModelSpec.from_json(json.dumps(fields["spec"])),
        chunks=int(fields["chunks"]),
        files=int(fields["files"]),
        about={str(key): str(value) for key, value in fields["about"].items()},
        vector_index=None if index is None else VectorIndex(**index),
        earlier=tuple((int(version), float(when)) for version, when in fields["earlier"]),
    )
