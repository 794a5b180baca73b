"""The ledger of a remote run, in a SQLite file beside the output: what was sent where, and what came back.

It is what makes a run that was killed go on without paying twice: jobs are written down before they are submitted, and
found again. It keeps no vectors (the run's journal does) and no order of rows. The file is locked for the life of its
process. See `embatch.engine.lanes.ledger` for what each method promises.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embatch import errors
from embatch.errors import ItemError, OutputBusyError
from embatch.remote import JobRef, LedgerJob, Unit, Waiting
from embatch.storage import ledger_money as money
from embatch.storage.journal import FOLDER
from embatch.storage.ledger_file import in_memory, lock, remove
from embatch.storage.ledger_rows import JOB_COLUMNS, PAGE, item_error, job_of, pages
from embatch.storage.sqlite import HeldConnection, sqlite_errors, transaction

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence

    from embatch.remote import Lane
    from embatch.storage.ledger_money import Bill, Pending

WAITING, IN_CALL, IN_JOB, DONE, FAILED = range(5)

_WAITING = "SELECT count(*), coalesce(sum(tokens), 0) FROM units WHERE state = 0"
_PEEK = "SELECT id, tokens, size FROM units WHERE state = 0 ORDER BY id LIMIT ?"
_UNIT = "SELECT id, digest, text, tokens, size, attempts FROM units"
_RESET_CALLS = "UPDATE units SET state = 0 WHERE state = 1"
_NOT_SEEN = "UPDATE units SET seen = 0"
_MEET = "UPDATE units SET seen = 1 WHERE seen = 0 AND digest = ?"
_FORGET = "DELETE FROM units WHERE state IN (0, 3, 4)"
_ADD = "INSERT OR IGNORE INTO units (digest, text, tokens, size, state) VALUES (?, ?, ?, ?, 0)"
_TO_JOB = "UPDATE units SET state = 2, job = ? WHERE state = 0 AND id <= ?"


def ledger_path(output: Path) -> Path:
    """Where the ledger of a run that makes `output` lies: `.embatch/<name>.lanes` beside it."""
    target = output.resolve()
    return target.parent / FOLDER / f"{target.name}.lanes"


class Ledger:
    """The ledger of one run. Made by `open`; removed by `finish`, or kept by `close`.

    Attributes:
        run_id: 8 hex digits; the same when an interrupted run goes on.
        resumed: whether an interrupted run goes on.
        reset: units that were in a call when the run before was killed, and are sent again.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path | None) -> None:
        """Only `open` calls this."""
        self.path = path
        self.run_id = ""
        self.resumed = False
        self.reset = 0
        self._connection = HeldConnection(
            connection, lambda: errors.EmbatchError("the ledger is closed", hint="Open it again to use it.")
        )
        self._unmet = 0  # units of an interrupted run's jobs that were not added in this one
        self._lock = threading.RLock()  # `job_items` is read by the thread that uploads

    @classmethod
    def open(
        cls, path: Path | None, *, fingerprint: str, about: dict[str, Any], started: float | None = None
    ) -> Ledger:
        """Open the ledger at `path` for this process alone, or one in memory.

        Units of an interrupted run that are in no job are forgotten: the run reads its inputs again, and what has a
        result is in the journal. Jobs are kept, with their units.

        Args:
            path: the file; None keeps everything in memory, for runs that are not worth a file.
            fingerprint: of the ModelSpec, or of the work.
            about: JSON values that say what run this is.
            started: when the run began, in seconds that all processes share.

        Raises:
            OutputBusyError: another process goes on with this run now.
            OutputMismatchError: the jobs of another model's run are still under way, or the file is damaged.
        """
        if path is None:
            connection = in_memory()
        else:
            try:
                connection = lock(path)
            except OutputBusyError as error:
                raise OutputBusyError(f"another process goes on with the run of {path.stem!r} now") from error
        ledger = cls(connection, path)
        try:
            with ledger._errors():
                ledger._begin(fingerprint, about, time.time() if started is None else started)
        except BaseException:
            connection.close()
            raise
        return ledger

    # --- units ------------------------------------------------------------------------------------------------

    def add(self, units: Iterable[tuple[bytes, str, int]]) -> int:
        """Add waiting units; those of an interrupted run's jobs are new to this one."""
        rows = iter(units)
        new = 0
        with self._transaction() as connection:
            while page := list(islice(rows, PAGE)):
                before = connection.total_changes
                connection.executemany(_ADD, [(d, text, n, len(text.encode())) for d, text, n in page])
                new += connection.total_changes - before
                if self._unmet:
                    met = connection.executemany(_MEET, [(digest,) for digest, _, _ in page]).rowcount
                    self._unmet -= met
                    new += met
        return new

    def waiting(self) -> Waiting:
        """What waits."""
        with self._errors():
            return Waiting(*self._open.execute(_WAITING).fetchone())

    def peek(self, items: int) -> list[tuple[int, int, int]]:
        """(id, tokens, size) of the first that wait."""
        with self._errors():
            return self._open.execute(_PEEK, (items,)).fetchall()

    def take_call(self, ids: Sequence[int]) -> list[Unit]:
        """Mark waiting units as being in a call."""
        units: list[Unit] = []
        with self._transaction() as connection:
            for page in pages(ids):
                marks = ",".join("?" * len(page))
                connection.execute(f"UPDATE units SET state = 1 WHERE id IN ({marks})", page)  # noqa: S608  # marks only
                rows = connection.execute(f"{_UNIT} WHERE id IN ({marks}) ORDER BY id", page)
                units.extend(Unit(*row) for row in rows)
        return units

    def back(self, ids: Sequence[int], *, blame: bool) -> None:
        """Units wait again."""
        self._set(ids, "state = 0, attempts = attempts + 1" if blame else "state = 0")

    def shorten(self, unit: int, text: str, tokens: int) -> None:
        """A unit waits again, with less text: all of it was refused as too long."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE units SET state = 0, text = ?, tokens = ?, size = ? WHERE id = ?",
                (text, tokens, len(text.encode()), unit),
            )

    def done(self, ids: Sequence[int]) -> None:
        """Units have their results."""
        self._set(ids, "state = 3, text = NULL")

    def fail(self, failures: Sequence[tuple[int, ItemError]]) -> None:
        """Units have failed for good."""
        rows = [(json.dumps([type(e).__name__, str(e), e.hint]), unit) for unit, e in failures]
        with self._transaction() as connection:
            connection.executemany("UPDATE units SET state = 4, error = ? WHERE id = ?", rows)

    def errors(self, digests: Sequence[bytes]) -> dict[bytes, ItemError]:
        """Why some texts failed."""
        found: dict[bytes, ItemError] = {}
        with self._errors():
            for page in pages(digests):
                marks = ",".join("?" * len(page))
                rows = self._open.execute(
                    f"SELECT digest, error FROM units WHERE state = 4 AND digest IN ({marks})",  # noqa: S608  # marks only
                    page,
                )
                found.update((digest, item_error(error)) for digest, error in rows)
        return found

    # --- jobs -------------------------------------------------------------------------------------------------

    def intend_job(self, last_id: int, items: int, tokens: int, now: float) -> LedgerJob:
        """Write down that what waits, up to `last_id`, is about to be submitted as one job."""
        with self._durable() as connection:
            (number,) = connection.execute("SELECT coalesce(max(number), 0) + 1 FROM jobs").fetchone()
            tag = f"embatch-{self.run_id}-{number}"
            connection.execute(
                "INSERT INTO jobs (number, tag, state, items, tokens, intended) VALUES (?, ?, 'intended', ?, ?, ?)",
                (number, tag, items, tokens, now),
            )
            connection.execute(_TO_JOB, (number, last_id))
        return LedgerJob(number, tag, items, tokens, now)

    def accept_job(self, number: int, ref: JobRef, now: float) -> None:
        """The provider has it."""
        with self._durable() as connection:
            connection.execute(
                "UPDATE jobs SET state = 'accepted', accepted = ?, provider_id = ?, input_file = ? WHERE number = ?",
                (now, ref.id, ref.input_file, number),
            )

    def drop_job(self, number: int, state: str) -> int:
        """The job gives nothing more; its units without a result wait again."""
        with self._transaction() as connection:
            connection.execute("UPDATE jobs SET state = ?, done = 1 WHERE number = ?", (state, number))
            cursor = connection.execute("UPDATE units SET state = 0 WHERE state = 2 AND job = ?", (number,))
            return cursor.rowcount

    def jobs(self, *, done: bool | None = None) -> list[LedgerJob]:
        """The run's jobs, oldest first."""
        where = "" if done is None else f" WHERE done = {int(done)}"
        with self._errors():
            rows = self._open.execute(f"SELECT {JOB_COLUMNS} FROM jobs{where} ORDER BY number").fetchall()  # noqa: S608  # constants
        return [job_of(row) for row in rows]

    def job_items(self, number: int) -> Iterator[Unit]:
        """The units of a job that have no result yet, a page at a time; may be read by another thread."""
        last = -1
        statement = f"{_UNIT} WHERE job = ? AND state = 2 AND id > ? ORDER BY id LIMIT {PAGE}"
        while True:
            with self._errors():
                page = self._open.execute(statement, (number, last)).fetchall()
            if not page:
                return
            yield from (Unit(*row) for row in page)
            last = page[-1][0]

    def job_units(self, number: int, digests: Sequence[bytes]) -> dict[bytes, Unit]:
        """Those among the digests that are in this job and have no result, or wait again after it."""
        found: dict[bytes, Unit] = {}
        with self._errors():
            for page in pages(digests):
                marks = ",".join("?" * len(page))
                rows = self._open.execute(
                    f"{_UNIT} WHERE digest IN ({marks}) AND job = ? AND state IN (0, 2)", [*page, number]
                )
                found.update((row[1], Unit(*row)) for row in rows)
        return found

    # --- money ------------------------------------------------------------------------------------------------

    def pend(self, lane: Lane, *, items: int, tokens: int, dollars: float) -> int:
        """Write down that a request leaves that may cost so much; its number, for `settle` and `bill`."""
        if self.path is None:  # nobody will ever ask
            return 0
        with self._transaction() as connection:
            return money.pend(connection, lane, items, tokens, dollars)

    def settle(self, pending: int) -> None:
        """A request that left has cost nothing."""
        if pending:
            with self._transaction() as connection:
                money.settle(connection, pending)

    def bill(
        self,
        lane: Lane,
        *,
        items: int,
        tokens: int,
        dollars: float,
        estimated: bool,
        job: int | None = None,
        pending: int = 0,
    ) -> None:
        """Add to what was paid for; a job once. What was pending for it is not any more."""
        with self._transaction() as connection:
            if pending:
                money.settle(connection, pending)
            row = (items, tokens, dollars, tokens if estimated else 0)
            money.add_bill(connection, lane, row, job=job)

    def bills(self) -> dict[str, Bill]:
        """What each lane has cost so far."""
        with self._errors():
            return money.bills(self._open)

    def pending(self) -> Pending:
        """What was sent and has no bill yet."""
        with self._errors():
            return money.pending(self._open)

    def spent(self) -> float:
        """Dollars so far, with the most that what is pending may cost."""
        with self._errors():
            return money.spent(self._open)

    # --- generated answers ------------------------------------------------------------------------------------

    def put_answers(self, answers: Sequence[tuple[bytes, str]]) -> None:
        """Keep generated answers (JSON) under their prompts' digests; known ones stay."""
        with self._transaction() as connection:
            connection.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", answers)

    def answers(self, digests: Sequence[bytes]) -> dict[bytes, str]:
        """The kept answers among those asked for."""
        found: dict[bytes, str] = {}
        with self._errors():
            for page in pages(digests):
                marks = ",".join("?" * len(page))
                found.update(
                    self._open.execute(f"SELECT digest, answer FROM answers WHERE digest IN ({marks})", page)  # noqa: S608  # marks only
                )
        return found

    def has_answers(self) -> bool:
        """Whether any generated answer is kept."""
        with self._errors():
            return self._open.execute("SELECT 1 FROM answers LIMIT 1").fetchone() is not None

    # --- ending -----------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Remove the ledger: the output is whole and no job is under way."""
        if not self._connection.is_open:
            return
        try:
            if self.path is not None:
                remove(self._open, self.path)
        finally:
            self._connection.close()

    def close(self) -> None:
        """Keep the ledger for the next time. Closing twice, or after `finish`, is allowed."""
        self._connection.close()

    # --- inside -----------------------------------------------------------------------------------------------

    @property
    def _open(self) -> sqlite3.Connection:
        return self._connection.get()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with self._lock, sqlite_errors(self.path or Path(":memory:")):
            yield

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._errors():
            if self._open.in_transaction:  # Ctrl-C came just after it had begun
                self._open.execute("ROLLBACK")
            with transaction(self._open):
                yield self._open

    @contextmanager
    def _durable(self) -> Iterator[sqlite3.Connection]:
        """A transaction that outlives a power cut, not only a killed process: what it tells of is paid for."""
        with self._errors():
            self._open.execute("PRAGMA synchronous = FULL")
        try:
            with self._transaction() as connection:
                yield connection
        finally:
            with self._errors():
                self._open.execute("PRAGMA synchronous = NORMAL")

    def _set(self, ids: Sequence[int], change: str) -> None:
        with self._transaction() as connection:
            connection.executemany(f"UPDATE units SET {change} WHERE id = ?", [(unit,) for unit in ids])  # noqa: S608  # constants

    def _begin(self, fingerprint: str, about: dict[str, Any], started: float) -> None:
        row = self._open.execute("SELECT id, fingerprint, about FROM run").fetchone()
        if row is not None and row[1] != fingerprint:
            self._refuse_other_model(row)
            row = None
        with transaction(self._open):
            if row is None:
                for table in ("run", "units", "jobs", "bill", "pending", "answers"):
                    self._open.execute(f"DELETE FROM {table}")  # noqa: S608  # names above
                self.run_id = uuid.uuid4().hex[:8]
                self._open.execute(
                    "INSERT INTO run VALUES (?, ?, ?, ?)",
                    (self.run_id, fingerprint, json.dumps(about, default=str), started),
                )
                return
            self.run_id, self.resumed = row[0], True
            self.reset = self._open.execute(_RESET_CALLS).rowcount
            self._open.execute(_FORGET)
            self._unmet = self._open.execute(_NOT_SEEN).rowcount

    def _refuse_other_model(self, row: tuple[str, str, str]) -> None:
        running = self.jobs(done=False)
        if running:
            model = json.loads(row[2]).get("model", "another model")
            raise errors.OutputMismatchError(
                f"an interrupted run of {model} still has {len(running)} paid job(s) under way for this output",
                hint=f"Finish it with `embatch runs resume {row[0]}`, give it up with `embatch runs cancel {row[0]}`, "
                "or write to another file.",
            )
