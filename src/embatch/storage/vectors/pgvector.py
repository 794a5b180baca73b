"""Chunks and their vectors in PostgreSQL with pgvector: the second store behind `ChunkReader` and `ChunkWriter`.

The end of *document → chunks → vectors → store* where a database is at hand and many machines search. This module is
the door: it opens readers and writers by a location. It makes no vectors; the libraries are loaded when it is used.

A location is `postgresql://user@host:port/database#name`. The name, `embatch` unless it is given, is the schema in
which the index has its tables: a database holds any number of them. Everything before the `#` is libpq's: a password is
better kept in `PGPASSWORD` or `~/.pgpass`. Sessions must be its own: a pool that hands its connections from client to
client after each transaction keeps neither a writer's lock nor the settings.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from embatch.errors import MissingExtraError

if TYPE_CHECKING:
    from embatch.chunks import ChunkReader, ChunkWriter
    from embatch.types import ModelSpec

SCHEMES = ("postgresql://", "postgres://")
"""What the location of such a store begins with."""


def open_reader(url: str) -> ChunkReader:
    """The index at `url` as it was last published. The caller closes it.

    It keeps to what it saw when it was opened or refreshed, as long as the store has that: until the second publication
    after it. Then it moves on to the newest by itself, always to a whole one.

    Raises:
        IndexNotFoundError: there is none, or nothing was published yet.
        SearchIndexError: the server cannot be reached, refuses, or lacks pgvector.
        MissingExtraError: the extra `pgvector` is not installed.
    """
    _require()
    from embatch.storage.vectors.pgvector_reader import PostgresReader

    return PostgresReader(url)


def open_writer(url: str, *, spec: ModelSpec, fresh: bool = False) -> ChunkWriter:
    """The index at `url`, to change it; made if there is none. The caller closes it.

    Args:
        url: see above.
        spec: the model whose vectors it holds.
        fresh: begin anew with an empty index. Readers see the old one until the new one is published.

    Raises:
        IndexBusyError: another writer has it open.
        IndexMismatchError: it was made with another model, or the schema holds other tables.
        SearchIndexError: the server cannot be reached, refuses, or lacks pgvector.
        MissingExtraError: the extra `pgvector` is not installed.
    """
    _require()
    from embatch.storage.vectors.pgvector_writer import PostgresWriter

    return PostgresWriter(url, spec=spec, fresh=fresh)


def _require() -> None:
    try:
        import_module("psycopg")
        import_module("pgvector.psycopg")
    except ImportError as error:
        raise MissingExtraError(
            f"A search index in PostgreSQL needs libraries that are not installed ({error}).",
            hint='pip install "embatch[pgvector]"',
        ) from error
