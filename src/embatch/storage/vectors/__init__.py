"""Stores of chunks and their vectors: which one a location means.

The last step of *document → chunks → vectors → store*. A folder is a store of files (`lance`), an address that begins
with `postgresql://` a database (`pgvector`). The libraries are loaded when a store is opened.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from embatch.chunks import ChunkReader, ChunkWriter
    from embatch.types import ModelSpec

_POSTGRESQL = ("postgresql://", "postgres://")


def open_reader(location: str | os.PathLike[str]) -> ChunkReader:
    """The store at `location` for searching, as last published. The caller closes it.

    Raises:
        IndexNotFoundError: there is none, or nothing of it has been published yet.
        IndexBrokenError: its files cannot be read.
        MissingExtraError: the library for it is not installed.
    """
    if isinstance(location, str) and location.startswith(_POSTGRESQL):
        from embatch.storage.vectors import pgvector

        return pgvector.open_reader(location)
    from embatch.storage.vectors.lance import open_reader as open_folder

    return open_folder(Path(location))


def open_writer(location: str | os.PathLike[str], *, spec: ModelSpec, fresh: bool = False) -> ChunkWriter:
    """The store at `location` for changing, made if there is none. The caller closes it.

    Args:
        location: a folder, or an address of a database.
        spec: the model that the vectors come from.
        fresh: start over, whatever is there. Readers keep what was published until the first `publish`.

    Raises:
        IndexBusyError: another process is changing it.
        IndexMismatchError: it was made with another model, and `fresh` is not set.
        IndexBrokenError: its files cannot be read, and `fresh` is not set.
        OutputNotWritableError: it may not be written.
        DiskFullError: no space is left.
        MissingExtraError: the library for it is not installed.
    """
    if isinstance(location, str) and location.startswith(_POSTGRESQL):
        from embatch.storage.vectors import pgvector

        return pgvector.open_writer(location, spec=spec, fresh=fresh)
    from embatch.storage.vectors.lance import open_writer as open_folder

    return open_folder(Path(location), spec=spec, fresh=fresh)
