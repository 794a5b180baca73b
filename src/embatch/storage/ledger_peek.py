"""A look at a remote run's ledger that changes nothing: for `embatch runs`, also while the run is under way."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from embatch.remote import JobRef, LedgerJob
from embatch.storage import ledger_money as money
from embatch.storage.ledger_money import NOTHING, Bill, Pending
from embatch.storage.sqlite import sqlite_errors

if TYPE_CHECKING:
    from pathlib import Path

_STATES = ("waiting", "in calls", "in jobs", "done", "failed")
_JOBS = """
    SELECT number, tag, items, tokens, intended, provider_id, input_file, accepted, done, state
    FROM jobs ORDER BY number
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerView:
    """What a ledger held at one moment."""

    run_id: str
    about: dict[str, Any]
    started: float
    """Seconds that all processes share."""
    items: dict[str, int] = field(default_factory=dict)
    """How many texts are in which state, those that were done in earlier processes not counted."""
    jobs: list[LedgerJob] = field(default_factory=list)
    bills: dict[str, Bill] = field(default_factory=dict)
    pending: Pending = NOTHING
    """What was sent and has no bill: calls that were under way when the run before was killed."""


def peek_ledger(path: Path) -> LedgerView | None:
    """What the ledger at `path` holds; None if there is none, or nothing in it.

    Raises:
        OutputBusyError: its run keeps it locked: it is under way.
        OutputMismatchError: it is damaged, or no ledger.
    """
    if not path.exists() or not path.stat().st_size:
        return None
    how = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
    address = f"file:{quote(str(path.resolve()))}?{how}"
    with sqlite_errors(path), closing(sqlite3.connect(address, uri=True, timeout=0.2)) as connection:
        run = connection.execute("SELECT id, about, started FROM run").fetchone()
        if run is None:
            return None
        states = dict(connection.execute("SELECT state, count(*) FROM units GROUP BY state").fetchall())
        return LedgerView(
            run_id=run[0],
            about=json.loads(run[1]),
            started=run[2],
            items={_STATES[state]: count for state, count in sorted(states.items())},
            jobs=[_job(row) for row in connection.execute(_JOBS)],
            bills=money.bills(connection),
            pending=_pending(connection),
        )


def _pending(connection: sqlite3.Connection) -> Pending:
    """Nothing in a ledger of an older version: looking migrates nothing."""
    known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'pending'").fetchone()
    return money.pending(connection) if known else NOTHING


def _job(row: tuple[Any, ...]) -> LedgerJob:
    number, tag, items, tokens, intended, provider_id, input_file, accepted, done, state = row
    ref = None if provider_id is None else JobRef(id=provider_id, input_file=input_file)
    return LedgerJob(number, tag, items, tokens, intended, ref, accepted, bool(done), state)
