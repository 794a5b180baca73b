"""Which remote runs there were, and which can go on: what `embatch runs` shows.

One line per run in the user's own file. The run's own ledger is the truth; this only says where it lies and what
command goes on with it. Nothing that goes wrong here may touch a run, so writing never raises.
"""

from __future__ import annotations

import json
import logging
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from embatch.errors import EmbatchError
from embatch.storage.folders import user_folder
from embatch.storage.sqlite import connect, sqlite_errors, transaction

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path

_BUSY_S = 1.0
_log = logging.getLogger(__name__)

MIGRATIONS = (
    """
    CREATE TABLE runs (
        id TEXT PRIMARY KEY,       -- 8 hex digits
        state TEXT NOT NULL,       -- running, stopped, failed, done, cancelled
        model TEXT NOT NULL,
        ledger TEXT NOT NULL,      -- path of its ledger
        output TEXT NOT NULL,      -- path, or what it was for
        command TEXT NOT NULL,     -- JSON list: arguments that go on with it, empty if there is no command
        folder TEXT NOT NULL,      -- where the command was given
        started TEXT NOT NULL,     -- UTC, ISO 8601
        updated TEXT NOT NULL,
        summary TEXT NOT NULL      -- JSON object: the lane report
    );
    """,
)
_COLUMNS = "id, state, model, ledger, output, command, folder, started, updated, summary"
_START = f"""
    INSERT INTO runs ({_COLUMNS}) VALUES (?, 'running', ?, ?, ?, ?, ?, ?, ?, '{{}}')
    ON CONFLICT (id) DO UPDATE SET state = 'running', command = excluded.command,
        folder = excluded.folder, updated = excluded.updated
"""  # noqa: S608  # constants
_END = "UPDATE runs SET state = ?, summary = ?, updated = ? WHERE id = ?"
_LIST = f"SELECT {_COLUMNS} FROM runs ORDER BY started DESC, id LIMIT ?"  # noqa: S608  # constants
_FIND = f"SELECT {_COLUMNS} FROM runs WHERE id LIKE ? ORDER BY started DESC LIMIT 2"  # noqa: S608  # constants


class KnownRun(NamedTuple):
    """One remote run."""

    id: str
    state: str
    """`running` may also mean that its process was killed: the ledger's lock tells."""
    model: str
    ledger: str
    output: str
    command: list[str]
    folder: str
    started: str
    updated: str
    summary: dict[str, Any]


class RunRegistry:
    """Remote runs in the SQLite file at `path`, which is created by the first."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def start(
        self, run_id: str, *, model: str, ledger: str, output: str, command: list[str], folder: str
    ) -> None:
        """A run begins, or goes on."""
        now = _now()
        row = (run_id, model, ledger, output, json.dumps(command), folder, now, now)
        self._write(_START, row)

    def end(self, run_id: str, state: str, summary: dict[str, Any]) -> None:
        """A run has ended: `done`, `stopped`, `failed` or `cancelled`."""
        self._write(_END, (state, json.dumps(summary, default=str), _now(), run_id))

    def runs(self, limit: int = 50) -> list[KnownRun]:
        """The newest runs first.

        Raises:
            OutputError: the file cannot be read.
        """
        if not self._path.exists():
            return []
        with self._opened() as connection:
            return [_known(row) for row in connection.execute(_LIST, (limit,))]

    def find(self, prefix: str) -> list[KnownRun]:
        """The runs whose id begins so, two at most.

        Raises:
            OutputError: the file cannot be read.
        """
        if not self._path.exists() or not prefix.isalnum():
            return []
        with self._opened() as connection:
            return [_known(row) for row in connection.execute(_FIND, (f"{prefix}%",))]

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        with (
            sqlite_errors(self._path),
            closing(connect(self._path, migrations=MIGRATIONS, busy_s=_BUSY_S)) as connection,
        ):
            yield connection

    def _write(self, statement: str, row: tuple[object, ...]) -> None:
        try:
            with self._opened() as connection, transaction(connection):
                connection.execute(statement, row)
        except (EmbatchError, OSError) as error:
            _log.debug("the run could not be noted: %s", error)


def default_registry() -> RunRegistry:
    """The user's own: `runs.sqlite` in their cache folder."""
    return RunRegistry(user_folder() / "runs.sqlite")


def _known(row: tuple[Any, ...]) -> KnownRun:
    id_, state, model, ledger, output, command, folder, started, updated, summary = row
    return KnownRun(
        id_,
        state,
        model,
        ledger,
        output,
        json.loads(command),
        folder,
        started,
        updated,
        json.loads(summary),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
