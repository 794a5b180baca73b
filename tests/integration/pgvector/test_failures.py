"""What goes wrong with a server ends as a named error with a way out, and never shows a password."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from embatch.chunks import Where
from embatch.errors import (
    EmbatchError,
    IndexMismatchError,
    IndexNotFoundError,
    SearchIndexError,
    UsageError,
)
from embatch.storage.vectors.pgvector import open_reader, open_writer

if TYPE_CHECKING:
    from tests.integration.pgvector.made import Cut, States, Vectors
    from tests.integration.pgvector.server import Server

    from embatch.types import ModelSpec


def refusal(url: str, spec: object = None) -> EmbatchError:
    """The error that opening ends with; no password is in it, nor in what caused it."""
    with pytest.raises(EmbatchError) as caught:
        open_reader(url) if spec is None else open_writer(url, spec=spec)  # type: ignore[arg-type]  # a ModelSpec
    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter2" not in f"{error!r} {getattr(error, 'hint', '')}"
        error = error.__cause__
    assert caught.value.hint
    return caught.value


@pytest.mark.usefixtures("server")
def test_an_unreachable_server_may_come_back() -> None:
    """Nobody listens: the error is one that may be tried again, and names the server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        error = refusal(f"postgresql://me:hunter2@127.0.0.1:{port}/db")
    assert isinstance(error, SearchIndexError)
    assert error.retryable
    assert f"127.0.0.1:{port}" in str(error)


def test_a_wrong_password_is_not_shown(server: Server, spec: ModelSpec) -> None:
    """The server refuses the password: neither the message nor its causes repeat it."""
    for user in ("embatch", "nobody_known"):
        error = refusal(server.tcp(user=user, password="hunter2"), spec)
        assert isinstance(error, SearchIndexError)
        assert not error.retryable
        assert "PGPASSWORD" in (error.hint or "")


def test_the_right_password_opens(server: Server, spec: ModelSpec, url: str) -> None:
    """Through the network, with a password in the location."""
    name = url.partition("#")[2]
    writer = open_writer(f"{server.tcp()}#{name}", spec=spec)
    writer.publish()
    writer.close()
    reader = open_reader(url)
    assert reader.count() == 0
    assert server.password not in repr(reader)
    reader.close()


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@host:port:9/db",
        "postgresql://me:hunter2@[::1/db",
        "postgresql://me:x@hunter2@host/db",
        "postgresql://me:x/hunter2@host/db",
        "postgresql://me:hunter2@host/db?nonsense=1",
        "postgresql://me:hunter2#x@host/db",
        "postgresql://me:hunter2@host/db#Name",
        "postgresql://me:hunter2@host/db#pg_catalog",
        'postgresql://me:hunter2@host/db#a"; DROP',
    ],
)
def test_a_location_that_makes_no_sense(url: str) -> None:
    """Broken locations are refused before anything is asked, without repeating them."""
    assert isinstance(refusal(url), UsageError)


def test_what_is_missing_is_named(server: Server, spec: ModelSpec) -> None:
    """No such database, and no index in one that there is."""
    assert "createdb" in (refusal(server.url("absent")).hint or "")
    assert isinstance(refusal(f"{server.url()}#absent"), IndexNotFoundError)


def test_a_database_without_the_extension(server: Server, spec: ModelSpec) -> None:
    """A user who may not add pgvector is told what an administrator has to run."""
    server.run(
        "CREATE ROLE plain LOGIN PASSWORD 'x'",
        "CREATE DATABASE bare TEMPLATE template0",
    )
    url = server.url("bare", user="plain")
    assert isinstance(refusal(url), IndexNotFoundError)
    assert "CREATE EXTENSION vector" in (refusal(url, spec).hint or "")
    server.run(
        "CREATE SCHEMA extensions",
        "CREATE EXTENSION vector SCHEMA extensions",
        "GRANT USAGE ON SCHEMA extensions TO plain",
        database="bare",
    )
    assert "GRANT" in (refusal(url, spec).hint or "")
    server.run("GRANT CREATE ON DATABASE bare TO plain", database="bare")
    writer = open_writer(url, spec=spec)
    writer.publish()
    writer.close()
    with pytest.raises(UsageError, match="closed"):
        writer.publish()


def test_another_encoding(server: Server, spec: ModelSpec) -> None:
    """An index needs a database of UTF-8, and the way to one is told."""
    server.run("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    assert "UTF8" in (refusal(server.url("latin"), spec).hint or "")


def test_tables_of_others_are_left_alone(server: Server, spec: ModelSpec, url: str) -> None:
    """A schema with other tables is no place for an index, and one of another version is not touched."""
    name = url.partition("#")[2]
    server.run(
        f"CREATE SCHEMA {name}", f"CREATE TABLE {name}.mine (x int)", f"INSERT INTO {name}.mine VALUES (7)"
    )
    assert isinstance(refusal(url, spec), IndexMismatchError)
    assert server.run(f"SELECT x FROM {name}.mine") == [(7,)]
    open_writer(f"{url}_b", spec=spec).close()
    server.run(f"UPDATE {name}_b.editions SET format = 99")
    assert isinstance(refusal(f"{url}_b", spec), IndexMismatchError)
    assert isinstance(refusal(f"{url}_b"), IndexMismatchError)


def test_damaged_tables(
    server: Server, spec: ModelSpec, url: str, vectors: Vectors, cut: Cut, state: States
) -> None:
    """A table that somebody dropped is an index that is broken; made anew, it works again."""
    name = url.partition("#")[2]
    writer = open_writer(url, spec=spec)
    writer.replace([state("a", 1)], cut("a", ["text"]), vectors(1))
    writer.publish()
    writer.close()
    server.run(f"DROP TABLE {name}.texts_1")
    reader = open_reader(url)
    with pytest.raises(SearchIndexError) as caught:
        reader.nearest(vectors(1), k=1, where=Where())
    assert "--rebuild" in (caught.value.hint or "")
    reader.close()
    writer = open_writer(url, spec=spec, fresh=True)
    writer.replace([state("a", 1)], cut("a", ["text"]), vectors(1))
    writer.publish()
    writer.close()
    reader = open_reader(url)
    assert reader.nearest(vectors(1), k=1, where=Where())[0][0].chunk.text == "text"
    reader.close()


def test_lost_connections(
    server: Server, spec: ModelSpec, url: str, vectors: Vectors, cut: Cut, state: States
) -> None:
    """A writer whose session was cut off says so, and the next one goes on; a reader connects again by itself."""
    writer = open_writer(url, spec=spec)
    writer.replace([state("a", 1)], cut("a", ["text"]), vectors(1))
    writer.publish()
    reader = open_reader(url)
    server.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'embatch'")
    assert reader.nearest(vectors(1), k=1, where=Where())[0][0].chunk.text == "text"
    with pytest.raises(SearchIndexError) as caught:
        writer.replace([state("b", 1)], cut("b", ["more"]), vectors(1))
    assert caught.value.retryable
    with pytest.raises(SearchIndexError):
        writer.publish()
    writer.close()
    writer = open_writer(url, spec=spec)
    assert list(writer.files()) == ["a"]
    writer.close()
    reader.close()


def test_too_many_dimensions(url: str, spec: ModelSpec) -> None:
    """Vectors beyond what pgvector stores are refused before a table is made."""
    from dataclasses import replace

    assert "16,000" in str(refusal(url, replace(spec, dimensions=16_001)))


@pytest.mark.parametrize("library", ["psycopg", "pgvector.psycopg"])
def test_without_the_extra(library: str) -> None:
    """Without the libraries the error names what to install, and importing the module needs none of them."""
    code = f"""
import sys
sys.modules[{library!r}] = None
from embatch.errors import MissingExtraError
from embatch.storage.vectors import pgvector
try:
    pgvector.open_reader("postgresql://host/db")
except MissingExtraError as error:
    print(error.hint)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == 'pip install "embatch[pgvector]"'
