"""Where an index lies, and what the files in it are called.

An index of a folder lies in `.embatch/index` below it and is found from anywhere inside, as version control finds its
repository. Paths in it are relative to that folder, so that the whole may be moved. It opens nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embatch.errors import IndexNotFoundError, SourceNotFoundError
from embatch.storage.sources.listing import to_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FOLDER = Path(".embatch") / "index"
"""Below the folder that is indexed."""

_ROOT = "root"


@dataclass(frozen=True, slots=True)
class Place:
    """An index's location and the folder that its paths are relative to."""

    location: str
    """A folder, or the URL of a database."""
    root: Path
    """Absolute."""

    @classmethod
    def to_write(cls, paths: Sequence[str], location: str | None) -> Place:
        """Where an index of these files and folders is, or will be.

        Without a location: the index that the first folder at or above all of them has; else a new one in the folder
        that holds them all.

        Raises:
            SourceNotFoundError: a path does not exist.
        """
        absolute = [_existing(path) for path in paths]
        common = Path(os.path.commonpath([path if path.is_dir() else path.parent for path in absolute]))
        if location is not None:
            return cls(location if is_url(location) else str(Path(location).absolute()), common)
        found = above(common)
        root = common if found is None else found
        return cls(str(root / FOLDER), root)

    @classmethod
    def to_read(cls, location: str | None, start: Path | None = None) -> str:
        """The location of the index that is meant: the given one, or the nearest at or above `start`.

        A folder may be given as the index itself, or as the folder that has one.

        Raises:
            IndexNotFoundError: there is none.
        """
        if location is not None and is_url(location):
            return location
        start = Path.cwd() if start is None else start
        if location is not None:
            folder = Path(location).absolute()
            return str(folder / FOLDER if (folder / FOLDER).is_dir() else folder)
        found = above(start)
        if found is None:
            raise IndexNotFoundError(
                f"No index at or above {str(start)!r}.",
                hint="Make one with `embatch index PATH`, or name it with --index.",
            )
        return str(found / FOLDER)

    def with_root(self, about: Mapping[str, str]) -> Place:
        """The place with the root that the index was made with, where it says so."""
        told = about.get(_ROOT)
        return self if not told else Place(self.location, Path(told))

    def about(self) -> dict[str, str]:
        """What an index must remember of its root: nothing, if it lies below it."""
        below = not is_url(self.location) and Path(self.location) == self.root / FOLDER
        return {} if below else {_ROOT: str(self.root)}

    def key(self, path: str) -> str:
        """What a file is called in the index: relative to the root with `/`, or absolute outside of it."""
        absolute = os.path.abspath(path)  # noqa: PTH100  # links are not followed: a file is called as it is reached
        relative = os.path.relpath(absolute, self.root)
        return to_key(absolute if relative.startswith(os.pardir) else relative)

    def shown(self, key: str, start: Path | None = None) -> str:
        """The path of a file as a person at `start` would write it."""
        full = self.root / key
        relative = os.path.relpath(full, Path.cwd() if start is None else start)
        return to_key(str(full) if relative.startswith(os.pardir) else relative)


def root_of(location: str, about: Mapping[str, str]) -> Path:
    """The folder that an index's paths are relative to."""
    told = about.get(_ROOT)
    if told:
        return Path(told)
    return Path.cwd() if is_url(location) else Path(location).parent.parent


def above(start: Path) -> Path | None:
    """The nearest folder at or above `start` that has an index."""
    start = start.absolute()
    for folder in (start, *start.parents):
        if (folder / FOLDER).is_dir():
            return folder
    return None


def is_url(location: str) -> bool:
    """Whether a location is a database's, not a folder's."""
    return "://" in location


def _existing(path: str) -> Path:
    if not os.path.lexists(path):
        raise SourceNotFoundError(f"No such file or folder: {path!r}.")
    return Path(os.path.abspath(path))  # noqa: PTH100  # as in `key`
