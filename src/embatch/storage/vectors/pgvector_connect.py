"""Connections to PostgreSQL, and its errors in embatch's words.

Under the reader and the writer of an index. It reads locations, opens sessions that are ready for the index's tables,
keeps a few of them for readers, and never shows a password. It knows no tables.
"""

from __future__ import annotations

import re
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
from pgvector.psycopg import register_vector

from embatch.errors import (
    DiskFullError,
    IndexBrokenError,
    IndexBusyError,
    IndexUnreachableError,
    SearchIndexError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from psycopg import Connection

    from embatch.errors import EmbatchError
    from embatch.types import FloatArray

DEFAULT_NAME = "embatch"
OLDEST_PGVECTOR = (0, 8)
"""The first that goes on searching where a filter leaves too few."""

_NAME = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,47}", re.ASCII)
_CONNECTIONS = 4
# A machine that vanishes is noticed within two minutes, not within the hours that the system takes.
_DEFAULTS = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "application_name": "embatch",
}
# Memory for a hash of the chunks that have gone: compared one by one, many of them would take minutes.
_SESSION = """
    SELECT set_config('search_path', quote_ident(%(schema)s) || coalesce((
        SELECT ', ' || quote_ident(nspname) FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace
        WHERE extname = 'vector'), ''), false),
        set_config('jit', 'off', false), set_config('work_mem', '64MB', false),
        set_config('statement_timeout',
            CASE WHEN %(writes)s THEN '0' ELSE current_setting('statement_timeout') END, false),
        current_setting('server_encoding'), (SELECT extversion FROM pg_extension WHERE extname = 'vector')
"""
# A server that was waiting for a killed client would hold its lock until the statement ends.
_NOTICE_DEATH = "SET client_connection_check_interval = 500"
_ADD_EXTENSION = "CREATE EXTENSION IF NOT EXISTS vector"


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where an index is."""

    parameters: Mapping[str, Any]
    """What libpq needs, password included."""
    schema: str
    shown: str
    """For messages: without user and password."""

    @classmethod
    def parse(cls, url: str) -> Location:
        """The location that `postgresql://user@host/database#name` means.

        Raises:
            UsageError: it is none. What it says is not repeated: it may hold a password.
        """
        conninfo, _, name = url.partition("#")
        name = name or DEFAULT_NAME
        if not _NAME.fullmatch(name):
            raise UsageError(
                "The name of an index, behind the # of its location, is lower case letters, digits and _, at most 48, "
                "and does not begin with pg_.",
                hint="In a password, write a # as %23.",
            )
        try:
            parameters = psycopg.conninfo.conninfo_to_dict(conninfo)
        except psycopg.Error:
            raise _malformed() from None  # the library's message repeats parts of the location
        server, port = str(parameters.get("host", "localhost")), str(parameters.get("port", ""))
        if "@" in server or not re.fullmatch(r"[\d,]*", port):  # then they are parts of a password
            raise _malformed()
        server = f"{server}:{port}" if port else server
        shown = f"postgresql://{server}/{parameters.get('dbname', '')}#{name}"
        return cls(parameters={**_DEFAULTS, **parameters}, schema=name, shown=shown)

    def connect(self, *, writes: bool) -> Connection:
        """A session whose unqualified names are the index's tables. The caller closes it.

        Args:
            writes: add the extension if it is missing, and let go of everything soon if this process dies.
        """
        with errors(self):
            connection = psycopg.connect(**self.parameters, autocommit=True, prepare_threshold=None)
        try:
            with errors(self):
                self._prepare(connection, writes=writes)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: Connection, *, writes: bool) -> None:
        if writes:
            with suppress(
                psycopg.errors.DatabaseError
            ):  # servers before 14, and some systems, have no such setting
                connection.execute(_NOTICE_DEATH)
            self._add_extension(connection)
        *_, encoding, version = connection.execute(
            _SESSION, {"schema": self.schema, "writes": writes}
        ).fetchone()
        if encoding != "UTF8":
            raise SearchIndexError(
                f"The database of {self.shown} is encoded in {encoding}, and an index needs UTF8.",
                hint="Make another one: createdb -E UTF8 -T template0 NAME",
            )
        if version is None:
            return  # a reader finds no index
        if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < OLDEST_PGVECTOR:
            raise SearchIndexError(
                f"{self.shown} has pgvector {version}, and at least 0.8 is needed.",
                hint="Install a newer one on the server, then run there: ALTER EXTENSION vector UPDATE;",
            )
        register_vector(connection)

    def _add_extension(self, connection: Connection) -> None:
        found = connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'vector'").fetchone()
        if found is not None:
            return
        try:
            connection.execute(_ADD_EXTENSION)
        except psycopg.errors.InsufficientPrivilege as error:
            raise SearchIndexError(
                f"The database of {self.shown} lacks the extension pgvector, and this user may not add it.",
                hint="Let an administrator run in this database: CREATE EXTENSION vector;",
            ) from error
        except (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile) as error:
            raise SearchIndexError(
                f"The server of {self.shown} does not have pgvector.",
                hint="Install it there: the package postgresql-NN-pgvector, or https://github.com/pgvector/pgvector.",
            ) from error
        except psycopg.errors.UniqueViolation:
            return  # somebody else added it at the same moment


class Pool:
    """A few sessions for searches side by side, opened when they are needed. Thread-safe."""

    def __init__(self, location: Location) -> None:
        self._location = location
        self._free: list[Connection] = []
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(_CONNECTIONS)
        self._closed = False

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database throughout, and changes nothing."""
        with self._slots:
            connection = self._take()
            try:
                with errors(self._location), connection.transaction():
                    yield connection
            finally:
                self._put(connection)

    def close(self) -> None:
        """Close the sessions; those in use, when they come back."""
        with self._lock:
            self._closed = True
            free, self._free = self._free, []
        for connection in free:
            connection.close()

    def _take(self) -> Connection:
        with self._lock:
            if self._closed:
                raise UsageError("the index was closed", hint="Keep it open while it is used.")
            if self._free:
                return self._free.pop()
        connection = self._location.connect(writes=False)
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        return connection

    def _put(self, connection: Connection) -> None:
        with self._lock:
            broken = [connection] if self._closed or connection.closed else []
            if not broken:
                self._free.append(connection)
            elif not self._closed:  # the others are as old, and the server may have gone
                broken += self._free
                self._free = []
        for session in broken:
            session.close()


def _malformed() -> UsageError:
    return UsageError(
        "The location of the index is not of the form postgresql://user@host:port/database#name.",
        hint="Write signs such as @ : / ? # in a name or password as %40 %3A %2F %3F %23.",
    )


def vector_of(data: bytes) -> FloatArray:
    """A vector `(dim,)` as `vector_send` gives it: the library's own form differs between its versions."""
    return np.frombuffer(data, dtype=">f4", offset=4).astype(np.float32)


@contextmanager
def errors(location: Location) -> Iterator[None]:
    """Turn an error of the server or the library into ours that fits best."""
    try:
        yield
    except psycopg.Error as error:
        raise _ours(error, location) from error


def _ours(error: psycopg.Error, location: Location) -> EmbatchError:
    """Classes of SQLSTATE: https://www.postgresql.org/docs/current/errcodes-appendix.html."""
    text = error.diag.message_primary or str(error).strip().rpartition("\n")[2]
    password = str(location.parameters.get("password") or "")
    if password:
        text = text.replace(password, "***")
    message = f"{location.shown}: {text or type(error).__name__}"
    kind, hint = _kind(error, text)
    return kind(message, hint=hint)


_LOGIN_HINT = "Check user and password; the password may be kept in PGPASSWORD or in ~/.pgpass."
_GRANT_HINT = "Let an administrator allow it, such as: GRANT CREATE ON DATABASE name TO user;"
_STATES: dict[str, tuple[type[EmbatchError], str | None]] = {
    "08": (IndexUnreachableError, None),
    "57P": (IndexUnreachableError, None),
    "533": (IndexUnreachableError, "The server has no room for another connection; try again later."),
    "28": (SearchIndexError, _LOGIN_HINT),
    "3D": (SearchIndexError, "Make the database first: createdb NAME"),
    "531": (
        DiskFullError,
        "Free space on the server and run the same command again: it goes on where it was.",
    ),
    "53": (SearchIndexError, "The server is short of memory or other means; its own log says more."),
    "55P03": (IndexBusyError, None),
    "42501": (SearchIndexError, _GRANT_HINT),
    "25006": (SearchIndexError, "This server is a copy that cannot be written to: name the primary one."),
    "42P01": (IndexBrokenError, None),
    "42703": (IndexBrokenError, None),
    "3F": (IndexBrokenError, None),
    "XX": (IndexBrokenError, None),
}


def _kind(error: psycopg.Error, text: str) -> tuple[type[EmbatchError], str | None]:
    state = error.sqlstate or ""
    for length in (5, 3, 2):
        if len(state) == 5 and state[:length] in _STATES:
            return _STATES[state[:length]]
    if not state and isinstance(error, psycopg.OperationalError):
        return _refusal(text)
    return SearchIndexError, None


def _refusal(text: str) -> tuple[type[EmbatchError], str | None]:
    """What a failed attempt to connect means: libpq gives no codes then, only words."""
    if "password" in text or "authentication" in text or "role" in text or "pg_hba" in text:
        return SearchIndexError, _LOGIN_HINT
    if "does not exist" in text and "database" in text:
        return _STATES["3D"]
    return IndexUnreachableError, None
