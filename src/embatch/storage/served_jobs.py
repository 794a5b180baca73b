"""Batch jobs of a server: their states, and how far each has come. Every change of state is one statement.

What a job has computed lies in its outputs (`served_output`); `note` says how much of them counts. Statements name the
states that they may start from, so that of two that come at once, such as an end and a cancel, one wins and both know.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from embatch.storage.served_files import ServedFile, add_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.storage.served import ServedFolder

Status = Literal[
    "validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"
]
Ending = Literal["completed", "failed", "expired", "cancelled"]
STATUSES: tuple[Status, ...] = (
    "validating",
    "in_progress",
    "finalizing",
    "completed",
    "failed",
    "expired",
    "cancelling",
    "cancelled",
)

_FIELDS = (
    "id, owner, status, ending, endpoint, model, input_file, output_file, error_file, output_expires, metadata, "
    "errors, created, expires, begun, finalizing, cancelling, ended, total, completed, failed, tokens, done_bytes, "
    "done_lines, output_bytes, error_bytes"
)
_ADD = """
    INSERT INTO jobs (id, owner, status, endpoint, input_file, output_file, error_file, output_expires, metadata,
        created, expires, total, completed, failed, tokens, done_bytes, done_lines, output_bytes, error_bytes)
    VALUES (?, ?, 'validating', ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, 0, 0, 0, 0, 0, 0)
"""
_ANY = f"SELECT {_FIELDS} FROM jobs WHERE id = ?"  # noqa: S608  # constants
_OWN = f"{_ANY} AND owner = ?"
_NUMBER = "SELECT number FROM jobs WHERE id = ? AND owner = ?"
_PAGE = f"SELECT {_FIELDS} FROM jobs WHERE owner = ? AND number < ? ORDER BY number DESC LIMIT ?"  # noqa: S608  # constants
_OPEN = f"SELECT {_FIELDS} FROM jobs WHERE ended IS NULL ORDER BY number"  # noqa: S608  # constants
_USERS = "SELECT id FROM jobs WHERE input_file = ? AND ended IS NULL LIMIT 1"
_COUNTS = "SELECT status, count(*) FROM jobs GROUP BY status"
_BEGIN = """
    UPDATE jobs SET status = 'in_progress', begun = ?, total = ?, model = ? WHERE id = ? AND status = 'validating'
"""
_NOTE = """
    UPDATE jobs SET done_bytes = ?, done_lines = ?, completed = ?, failed = ?, tokens = ?, output_bytes = ?,
        error_bytes = ? WHERE id = ?
"""
_CANCEL = """
    UPDATE jobs SET status = 'cancelling', ending = 'cancelled', cancelling = ?
    WHERE id = ? AND status IN ('validating', 'in_progress', 'finalizing')
"""
_FINALIZE = """
    UPDATE jobs SET status = 'finalizing', ending = ?, finalizing = ?, errors = ?
    WHERE id = ? AND status IN ('validating', 'in_progress')
"""
_START_OVER = """
    UPDATE jobs SET status = CASE status WHEN 'finalizing' THEN 'in_progress' ELSE status END,
        ending = CASE status WHEN 'finalizing' THEN NULL ELSE ending END, finalizing = NULL,
        completed = 0, failed = 0, tokens = 0, done_bytes = 0, done_lines = 0, output_bytes = 0, error_bytes = 0
    WHERE id = ? AND ended IS NULL
"""
_END = "UPDATE jobs SET status = ending, ended = ? WHERE id = ? AND status IN ('finalizing', 'cancelling')"
_REJECT = """
    UPDATE jobs SET status = 'failed', ending = 'failed', ended = ?, errors = ? WHERE id = ? AND status = 'validating'
"""
_LAST = 1 << 62


class Done(NamedTuple):
    """How far a job has come. Rows of the input up to `bytes` are in the outputs, up to their sizes here."""

    bytes: int = 0
    lines: int = 0
    completed: int = 0
    failed: int = 0
    tokens: int = 0
    output_bytes: int = 0
    error_bytes: int = 0


class ServedJob(NamedTuple):
    """One batch job. Times are seconds since the Unix epoch; None: not yet, or never."""

    id: str
    owner: str
    status: Status
    ending: Ending | None
    """What it ends as, once it is `finalizing` or `cancelling`."""
    endpoint: str
    model: str | None
    input_file: str
    output_file: str
    """The name that the output has, or will have."""
    error_file: str
    output_expires: float | None
    """Seconds that outputs are kept for."""
    metadata: dict[str, str] | None
    errors: list[dict[str, Any]] | None
    created: float
    expires: float
    begun: float | None
    finalizing: float | None
    cancelling: float | None
    ended: float | None
    total: int
    done: Done

    @property
    def part_names(self) -> tuple[str, str]:
        """Of its outputs while they are being written."""
        return f"{self.output_file}.part", f"{self.error_file}.part"


class ServedJobs:
    """The jobs of a folder. Thread-safe; every method may block for the disk."""

    def __init__(self, folder: ServedFolder) -> None:
        self._folder = folder
        self._counts: dict[str, int] = dict.fromkeys(STATUSES, 0)

    def create(
        self,
        *,
        owner: str,
        endpoint: str,
        input_file: str,
        metadata: dict[str, str] | None,
        output_expires_s: float | None,
        created: float,
        expires: float,
    ) -> ServedJob:
        """A new job that waits to be validated."""
        name = f"batch_{uuid.uuid4().hex}"
        output, bad = (f"file-{uuid.uuid4().hex[:24]}" for _ in range(2))
        told = None if metadata is None else json.dumps(metadata)
        row = (name, owner, endpoint, input_file, output, bad, output_expires_s, told, created, expires)
        with self._folder.changing() as connection:
            connection.execute(_ADD, row)
        job = self.find(name)
        assert job is not None
        return job

    def find(self, name: str, owner: str | None = None) -> ServedJob | None:
        """The job of this name; None if there is none, or if it is somebody else's."""
        with self._folder.reading() as connection:
            found = (
                connection.execute(_ANY, (name,))
                if owner is None
                else connection.execute(_OWN, (name, owner))
            )
            row = found.fetchone()
        return None if row is None else _job(row)

    def page(self, owner: str, *, limit: int, after: str | None = None) -> list[ServedJob] | None:
        """Up to `limit` jobs that come after the one named, newest first; None if the owner has none of that name."""
        with self._folder.reading() as connection:
            number = _LAST
            if after is not None:
                found = connection.execute(_NUMBER, (after, owner)).fetchone()
                if found is None:
                    return None
                (number,) = found
            return [_job(row) for row in connection.execute(_PAGE, (owner, number, limit))]

    def under_way(self) -> list[ServedJob]:
        """All that have not ended, oldest first."""
        with self._folder.reading() as connection:
            return [_job(row) for row in connection.execute(_OPEN)]

    def user_of(self, file: str) -> str | None:
        """A job under way that reads this file."""
        with self._folder.reading() as connection:
            row = connection.execute(_USERS, (file,)).fetchone()
        return None if row is None else str(row[0])

    def counts(self) -> dict[str, int]:
        """Jobs by status, those without any included. Never waits: as they were a moment ago if that is busy."""
        with self._folder.glancing() as connection:
            if connection is not None:
                found = dict(connection.execute(_COUNTS).fetchall())
                self._counts = {status: int(found.get(status, 0)) for status in STATUSES}
        return dict(self._counts)

    # --- changes of state -------------------------------------------------------------------------------------

    def begin(self, name: str, *, total: int, model: str, now: float) -> bool:
        """It is valid and begins; False if it was cancelled meanwhile."""
        return self._change(_BEGIN, now, total, model, name)

    def reject(self, name: str, errors: Sequence[dict[str, Any]], now: float) -> bool:
        """It is not valid; False if it was cancelled meanwhile."""
        return self._change(_REJECT, now, json.dumps(list(errors)), name)

    def note(self, name: str, done: Done) -> None:
        """It has come so far."""
        self._change(_NOTE, *done, name)

    def cancel(self, name: str, now: float) -> bool:
        """It is to end; False if it has ended, or is ending so already."""
        return self._change(_CANCEL, now, name)

    def finalize(
        self, name: str, ending: Ending, now: float, errors: Sequence[dict[str, Any]] | None = None
    ) -> bool:
        """Its outputs are to be made whole; False if it is being cancelled, which does the same."""
        return self._change(
            _FINALIZE, ending, now, None if errors is None else json.dumps(list(errors)), name
        )

    def start_over(self, name: str) -> None:
        """What it had computed is gone."""
        self._change(_START_OVER, name)

    def end(self, name: str, files: Sequence[ServedFile], now: float) -> bool:
        """It has ended, as it was to, and its outputs are files; False if it had ended before."""
        with self._folder.changing() as connection:
            ended = connection.execute(_END, (now, name)).rowcount == 1
            if ended:
                add_rows(connection, files)
        return ended

    def _change(self, statement: str, *values: object) -> bool:
        with self._folder.changing() as connection:
            return connection.execute(statement, values).rowcount == 1


def _job(row: Sequence[Any]) -> ServedJob:
    metadata, errors = (None if told is None else json.loads(told) for told in row[10:12])
    completed, failed, tokens, done_bytes, done_lines, output_bytes, error_bytes = row[19:]
    done = Done(done_bytes, done_lines, completed, failed, tokens, output_bytes, error_bytes)
    return ServedJob._make((*row[:10], metadata, errors, *row[12:19], done))
