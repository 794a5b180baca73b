"""What one run has computed, until its output is whole: the reason why a killed run loses nothing.

While items become vectors, every finished batch is put here under its texts' digests, beside the output and before the
sink has it. The same command, started again, finds them and computes only the rest; the output itself is written from
the start. It keeps no order and no rows: what an input is decides which vector it gets, not where it stood.
"""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from embatch.errors import EmbatchError, OutputBusyError, OutputMismatchError
from embatch.storage import cache
from embatch.storage.cache import VectorCache
from embatch.storage.files import make_folder, os_errors
from embatch.storage.sqlite import connect, remove, sqlite_errors, transaction
from embatch.types import ModelSpec

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from types import TracebackType

    from embatch.types import FloatArray

FOLDER = ".embatch"
_BUSY_S = 0.5  # a run holds its journal to the end: waiting longer would not help
_ATTEMPTS = 5
_SIDE_FILES = ("-wal", "-shm", "-journal")
_log = logging.getLogger(__name__)

MIGRATIONS = (
    """
    CREATE TABLE runs (
        id INTEGER PRIMARY KEY,
        fingerprint TEXT NOT NULL,
        spec TEXT NOT NULL,        -- ModelSpec as JSON
        settings TEXT NOT NULL,    -- JSON object
        signature TEXT,            -- of the sources, NULL if they have none
        started TEXT NOT NULL,     -- UTC, ISO 8601
        state TEXT NOT NULL        -- running, or stopped if it ended in an orderly way
    );
    """,
    *cache.MIGRATIONS,
)
_LAST_RUN = "SELECT spec, settings, signature FROM runs ORDER BY id DESC LIMIT 1"
_ADD_RUN = """
    INSERT INTO runs (fingerprint, spec, settings, signature, started, state)
    VALUES (?, ?, ?, ?, ?, 'running')
"""
_STOP_RUN = "UPDATE runs SET state = 'stopped' WHERE id = (SELECT max(id) FROM runs)"


class _Run(NamedTuple):
    """What an interrupted run and this one are compared by."""

    spec: ModelSpec
    settings: dict[str, object]
    signature: str | None


def journal_path(output: Path) -> Path:
    """Where the journal of a run that makes `output` lies: `.embatch/<name>.run` beside it."""
    target = output.resolve()
    return target.parent / FOLDER / f"{target.name}.run"


class RunJournal:
    """The `VectorStore` of one run of one output. Made by `open`; ended by `finish`, or kept by `close`.

    Attributes:
        path: the journal's file.
        resumed: whether an interrupted run's vectors are used.
        stored: how many vectors it left.
        changes: what differs from the interrupted run, and what went wrong with its journal, in words. Grows if
            damage shows later.
    """

    def __init__(self, output: Path, run: _Run) -> None:
        """Only `open` calls this."""
        self.path = journal_path(output)
        self.resumed = False
        self.stored = 0
        self.changes: list[str] = []
        self._output = output
        self._run = run
        self._connection: sqlite3.Connection | None = None
        self._vectors: VectorCache | None = None

    @classmethod
    def open(
        cls,
        output: Path,
        *,
        spec: ModelSpec,
        settings: dict[str, object],
        signature: str | None,
        fresh: bool = False,
    ) -> Self:
        """Lock the output for this process and take up what an interrupted run left.

        Args:
            output: the file that the run makes; the journal is `.embatch/<name>.run` beside it.
            spec: vectors of another spec are dropped, and `changes` says so.
            settings: JSON values that are told if they differ; they do not decide what is reused.
            signature: of the sources, None if they have none; a difference is told, content decides.
            fresh: forget what an interrupted run left.

        Raises:
            OutputBusyError: another process, or this one, is writing this output.
            OutputNotWritableError: the folder may not be written.
            DiskFullError: no space is left.
        """
        settings = json.loads(json.dumps(settings, default=str))  # as they will be read back
        journal = cls(output, _Run(spec, settings, signature))
        journal._begin(fresh=fresh)
        return journal

    def get(self, digests: Sequence[bytes]) -> dict[bytes, FloatArray]:
        """The stored vectors among those asked for. A damaged journal is set aside, and then has none."""
        try:
            return self._open.get(digests)
        except OutputMismatchError as error:
            self._start_over(error)
            return {}

    def put(self, digests: Sequence[bytes], vectors: FloatArray) -> None:
        """Store vectors `(n, dim)` under their digests. When it returns, a kill loses nothing."""
        try:
            self._open.put(digests, vectors)
        except OutputMismatchError as error:
            self._start_over(error)
            self._open.put(digests, vectors)

    def finish(self) -> None:
        """Remove the journal: the output is whole. Called after the sink's `commit`."""
        if self._connection is None:
            return
        remove(self._connection, self.path)
        self._drop()
        with suppress(OSError):  # other outputs' journals may lie there
            self.path.parent.rmdir()

    def close(self) -> None:
        """Keep the journal for the next time. Never raises; closing twice, or after `finish`, is allowed."""
        if self._connection is not None:
            try:
                with sqlite_errors(self.path):
                    self._connection.execute(_STOP_RUN)
                    self._open.close()
            except EmbatchError as error:  # what was acknowledged is there; only the order is lost
                _log.debug("the journal %s was not closed in good order: %s", self.path, error)
        self._drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Keep the journal, unless `finish` removed it."""
        self.close()

    @property
    def _open(self) -> VectorCache:
        if self._vectors is None:
            raise EmbatchError(f"the journal {str(self.path)!r} is closed", hint="Open it again to use it.")
        return self._vectors

    # --- beginning --------------------------------------------------------------------------------------------

    def _begin(self, *, fresh: bool) -> None:
        for _ in range(_ATTEMPTS):
            try:
                if self._attach(fresh=fresh):
                    return
            except OutputBusyError as error:
                raise OutputBusyError(f"another process is writing {str(self._output)!r} now") from error
            except OutputMismatchError as error:
                self._set_aside(error)
            fresh = False  # a second round finds what the first has made
        raise OutputBusyError(f"other processes start and end runs of {str(self._output)!r} all the time")

    def _attach(self, *, fresh: bool) -> bool:
        """Take the lock and compare with the run before; False if the file had to be removed or was replaced."""
        connection = _lock(self.path)
        if connection is None:
            return False
        self._connection = connection
        try:
            with sqlite_errors(self.path):
                before = _last_run(connection)
                if before is None or (not fresh and before.spec.fingerprint == self._run.spec.fingerprint):
                    self._start(before)
                    return True
                if not fresh:
                    self.changes.append(_model_change(before.spec, self._run.spec))
                self._connection = None
                remove(connection, self.path)
        except BaseException:
            self._drop()
            raise
        return False

    def _start(self, before: _Run | None) -> None:
        assert self._connection is not None
        spec, settings, signature = self._run
        self._vectors = VectorCache(
            self.path,
            fingerprint=spec.fingerprint,
            dimensions=spec.dimensions,
            connection=self._connection,
        )
        if before is not None:
            self.stored = self._vectors.count()
            self.resumed = True
            self.changes += _other_changes(before, self._run)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        row = (spec.fingerprint, spec.to_json(), json.dumps(settings), signature, started)
        with transaction(self._connection):
            self._connection.execute(_ADD_RUN, row)

    # --- damage -----------------------------------------------------------------------------------------------

    def _start_over(self, error: OutputMismatchError) -> None:
        """Go on with an empty journal: this run has its vectors in hand, only an interruption would cost more."""
        self._drop()
        self._set_aside(error)
        self._begin(fresh=False)

    def _set_aside(self, error: OutputMismatchError) -> None:
        aside = self.path.with_name(f"{self.path.name}.damaged")
        with os_errors(self.path):
            self.path.replace(aside)
            for side in _SIDE_FILES:
                Path(f"{self.path}{side}").unlink(missing_ok=True)
        self.changes.append(f"the journal could not be used and was set aside as {str(aside)!r}: {error}")
        _log.debug("set aside %s: %s", aside, error)

    def _drop(self) -> None:
        if self._vectors is not None:
            self._vectors.release()
        elif self._connection is not None:
            self._connection.close()
        self._vectors = self._connection = None


def _lock(path: Path) -> sqlite3.Connection | None:
    """The journal's file, locked; None if it was removed or replaced just then by the process that had it."""
    make_folder(path.parent, path)
    with os_errors(path):
        path.touch()
        inode = path.stat().st_ino
    connection = connect(path, migrations=MIGRATIONS, exclusive=True, busy_s=_BUSY_S)
    try:
        if path.stat().st_ino == inode:
            return connection
    except FileNotFoundError:
        pass
    connection.close()
    return None


def _last_run(connection: sqlite3.Connection) -> _Run | None:
    row = connection.execute(_LAST_RUN).fetchone()
    if row is None:
        return None
    try:
        return _Run(ModelSpec.from_json(row[0]), json.loads(row[1]), row[2])
    except (ValueError, TypeError) as error:
        raise OutputMismatchError(f"its entry about the interrupted run is unreadable ({error})") from error


def _model_change(before: ModelSpec, now: ModelSpec) -> str:
    if before.model != now.model:
        return f"the model changed from {before.model} to {now.model} (its vectors are not reused)"
    names = [name for name in ModelSpec.__slots__ if getattr(before, name) != getattr(now, name)]
    parts = [f"{name} changed from {getattr(before, name)!r} to {getattr(now, name)!r}" for name in names]
    return f"the model's {' and '.join(parts)} (its vectors are not reused)"


def _other_changes(before: _Run, now: _Run) -> list[str]:
    names = sorted({*before.settings, *now.settings})
    changes = [
        f"{name.replace('_', ' ')} changed from {before.settings.get(name)!r} to {now.settings.get(name)!r}"
        for name in names
        if before.settings.get(name) != now.settings.get(name)
    ]
    if before.signature is not None and now.signature is not None and before.signature != now.signature:
        changes.append("the inputs changed")
    return changes
