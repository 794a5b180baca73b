"""A look at a remote run's ledger that changes nothing: for `embatch runs`, also while the run is under way."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from embatch.remote import JobRef, LedgerJob
from embatch.storage.ledger import Bill
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
        bills = connection.execute("SELECT lane, requests, items, tokens, dollars, estimated FROM bill")
        return LedgerView(
            run_id=run[0],
            about=json.loads(run[1]),
            started=run[2],
            items={_STATES[state]: count for state, count in sorted(states.items())},
            jobs=[_job(row) for row in connection.execute(_JOBS)],
            bills={row[0]: Bill(*row[1:]) for row in bills},
        )


def _job(row: tuple[Any, ...]) -> LedgerJob:
    number, tag, items, tokens, intended, provider_id, input_file, accepted, done, state = row
    ref = None if provider_id is None else JobRef(id=provider_id, input_file=input_file)
    return LedgerJob(number, tag, items, tokens, intended, ref, accepted, bool(done), state)
