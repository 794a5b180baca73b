"""Chunks and their vectors in a folder, with the library Lance: the store that needs no server.

The end of *document → chunks → vectors → store* on one machine. This module is the door; `lance_reader` and
`lance_writer` do the work. A folder holds the table `chunks.lance`, which LanceDB opens, the manifest of files that
only the writer uses, the lock of the writer, and `published.json`, which says what readers see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from embatch.storage.vectors.lance_errors import load_lance

if TYPE_CHECKING:
    from pathlib import Path

    from embatch.chunks import ChunkReader, ChunkWriter
    from embatch.types import ModelSpec


def open_reader(location: Path) -> ChunkReader:
    """The store in this folder, as last published. The caller closes it.

    Raises:
        IndexNotFoundError: there is none, or nothing of it was published yet.
        IndexBrokenError: its files cannot be read.
        MissingExtraError: the extra `search` is not installed.
    """
    load_lance()
    from embatch.storage.vectors.lance_reader import LanceReader

    return LanceReader(location)


def open_writer(location: Path, *, spec: ModelSpec, fresh: bool = False) -> ChunkWriter:
    """The store in this folder, to change it; made if there is none. The caller closes it.

    Raises:
        IndexBusyError: another process is changing it.
        IndexMismatchError: it was made with another model, and `fresh` is not set.
        IndexBrokenError: its files cannot be read, and `fresh` is not set.
        OutputNotWritableError: the folder may not be written.
        DiskFullError: no space is left.
        MissingExtraError: the extra `search` is not installed.
    """
    load_lance()
    from embatch.storage.vectors.lance_writer import LanceWriter

    return LanceWriter(location, spec=spec, fresh=fresh)
