"""Which editions an index in PostgreSQL has, and the one that a writer works on.

Between the connection and the writer: it makes the schema, chooses or adds an edition, and drops those that nobody
needs. What is in an edition it does not look at.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row

from embatch.errors import IndexMismatchError, SearchIndexError
from embatch.storage.vectors import pgvector_sql as sql
from embatch.storage.vectors.pgvector_sql import named
from embatch.types import ModelSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg import Connection

    from embatch.storage.vectors.pgvector_connect import Location

LONGEST = 16_000
"""Dimensions that pgvector stores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edition:
    """A row of the table `editions`; see `pgvector_sql` for what the columns mean."""

    edition: int
    format: int
    spec: str
    status: str
    changed: bool
    generation: int
    mark: int
    chunks: int
    files: int
    words: int
    about: Mapping[str, str]
    about_next: Mapping[str, str]
    has_words_index: bool
    has_vector_index: bool
    measured_rows: int
    ef_search: int | None
    recall: float | None

    @property
    def model(self) -> ModelSpec:
        """The model that its vectors were made with."""
        return ModelSpec.from_json(self.spec)


def editions_of(connection: Connection, location: Location) -> list[Edition]:
    """All editions, the newest first; none if there is no index.

    Raises:
        IndexMismatchError: a newer version of embatch made it.
    """
    if not connection.execute(sql.FIND_EDITIONS, {"schema": location.schema}).fetchone()[0]:
        return []
    return rows(connection, location, sql.EDITIONS)


def rows(
    connection: Connection, location: Location, statement: str, parameters: Mapping[str, Any] | None = None
) -> list[Edition]:
    """The editions that a statement gives."""
    with connection.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(statement, parameters).fetchall()
    for row in found:
        if row.get("format") != sql.FORMAT:
            raise IndexMismatchError(f"{location.shown} was made by another version of embatch.")
    return [Edition(**row) for row in found]


def edition_to_write(connection: Connection, location: Location, spec: ModelSpec, *, fresh: bool) -> Edition:
    """The edition that a writer with this model goes on with. Call it with the writer's lock held.

    Raises:
        IndexMismatchError: the index was made with another model, or the schema holds tables of somebody else.
        SearchIndexError: vectors of this size cannot be stored.
    """
    if spec.dimensions > LONGEST:
        raise SearchIndexError(
            f"pgvector stores vectors of up to {LONGEST:,} dimensions, and the model has {spec.dimensions:,}.",
            hint="Ask for fewer dimensions with --dimensions.",
        )
    with connection.transaction():
        _make_schema(connection, location)
    drop_old(connection, location)
    found = [edition for edition in editions_of(connection, location) if edition.status != "old"]
    new = next((edition for edition in found if edition.status == "new"), None)
    live = next((edition for edition in found if edition.status == "live"), None)
    if not fresh:
        if new is not None and new.model == spec:
            return new  # a rebuild that was interrupted goes on
        existing = live or new
        if existing is not None and existing.model != spec:
            raise IndexMismatchError(
                f"{location.shown} was made with the model {existing.model.model!r} "
                f"({existing.model.fingerprint[:8]}), not with {spec.model!r} ({spec.fingerprint[:8]})."
            )
    if new is not None:
        with connection.transaction():
            drop(connection, new.edition)
    if live is not None and not fresh:
        return live
    with connection.transaction():
        return _add(connection, location, spec)


def drop(connection: Connection, edition: int) -> None:
    """Drop an edition's tables and the knowledge of it. Call it within a transaction."""
    connection.execute(named(sql.DROP_TABLES, edition))
    connection.execute(named(sql.FORGET_EDITION, edition))


def drop_old(connection: Connection, location: Location) -> None:
    """Drop the editions that were replaced, unless somebody reads them at this moment."""
    for edition in editions_of(connection, location):
        if edition.status != "old":
            continue
        with suppress(psycopg.errors.LockNotAvailable), connection.transaction():
            connection.execute(sql.BRIEF_LOCK_WAIT)
            drop(connection, edition.edition)


def _make_schema(connection: Connection, location: Location) -> None:
    parameters = {"schema": location.schema}
    if connection.execute(sql.FIND_EDITIONS, parameters).fetchone()[0]:
        return
    if connection.execute(sql.FOREIGN_TABLES, parameters).fetchone()[0]:
        raise IndexMismatchError(
            f"The schema of {location.shown} holds other tables, and is no index.",
            hint="Name the index otherwise, behind a # at the end of the location.",
        )
    if not connection.execute(sql.SCHEMA_EXISTS, parameters).fetchone()[0]:
        connection.execute(
            psycopg.sql.SQL("CREATE SCHEMA {}").format(psycopg.sql.Identifier(location.schema))
        )
    connection.execute(sql.CREATE_EDITIONS)


def _add(connection: Connection, location: Location, spec: ModelSpec) -> Edition:
    parameters = {"format": sql.FORMAT, "spec": spec.to_json()}
    (edition,) = rows(connection, location, sql.ADD_EDITION, parameters)
    for statement in sql.CREATE_TABLES:
        connection.execute(named(statement, edition.edition, dim=spec.dimensions))
    return edition
