"""The money of a remote run in its ledger: what was billed, and what is on its way and may be.

`ledger` stands on this; it opens the transactions. A paid request is written down with the most that it may cost before
it leaves, and taken out when its bill is known: what a killed process leaves there counts as spent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import sqlite3

    from embatch.remote import Lane

MIGRATION = """
    CREATE TABLE pending (             -- paid requests whose bill is not known
        number INTEGER PRIMARY KEY,
        lane TEXT NOT NULL,
        items INTEGER NOT NULL,
        tokens INTEGER NOT NULL,       -- as expected
        dollars REAL NOT NULL          -- at most
    );
    """
_PEND = "INSERT INTO pending (lane, items, tokens, dollars) VALUES (?, ?, ?, ?)"
_SETTLE = "DELETE FROM pending WHERE number = ?"
_BILL_JOB = "UPDATE jobs SET billed = 1 WHERE number = ? AND billed = 0"
_BILL = """
    INSERT INTO bill (lane, requests, items, tokens, dollars, estimated) VALUES (?, 1, ?, ?, ?, ?)
    ON CONFLICT (lane) DO UPDATE SET requests = requests + 1, items = items + excluded.items,
        tokens = tokens + excluded.tokens, dollars = dollars + excluded.dollars,
        estimated = estimated + excluded.estimated
"""
_BILLS = "SELECT lane, requests, items, tokens, dollars, estimated FROM bill"
_PENDING = """
    SELECT count(*), coalesce(sum(items), 0), coalesce(sum(tokens), 0), coalesce(sum(dollars), 0.0) FROM pending
"""
_SPENT = """
    SELECT (SELECT coalesce(sum(dollars), 0.0) FROM bill) + (SELECT coalesce(sum(dollars), 0.0) FROM pending)
"""


class Bill(NamedTuple):
    """What one lane has cost."""

    requests: int
    items: int
    tokens: int
    dollars: float
    estimated: int
    """Of `tokens`, those that the provider did not count."""


class Pending(NamedTuple):
    """Paid requests whose bill is not known: under way, or cut off by the end of their process."""

    requests: int
    items: int
    tokens: int
    dollars: float
    """At most."""


NOTHING = Pending(0, 0, 0, 0.0)
"""Every bill is known."""


def pend(connection: sqlite3.Connection, lane: Lane, items: int, tokens: int, dollars: float) -> int:
    """Write down a request that is about to leave; its number."""
    return int(connection.execute(_PEND, (lane, items, tokens, dollars)).lastrowid or 0)


def settle(connection: sqlite3.Connection, number: int) -> None:
    """Its bill is known, or it has none."""
    connection.execute(_SETTLE, (number,))


def add_bill(
    connection: sqlite3.Connection,
    lane: Lane,
    row: tuple[int, int, float, int],
    *,
    job: int | None,
) -> None:
    """Add (items, tokens, dollars, estimated tokens) to what was paid for; a job once."""
    if job is not None and not connection.execute(_BILL_JOB, (job,)).rowcount:
        return
    connection.execute(_BILL, (lane, *row))


def bills(connection: sqlite3.Connection) -> dict[str, Bill]:
    """What each lane has cost so far."""
    return {row[0]: Bill(*row[1:]) for row in connection.execute(_BILLS)}


def pending(connection: sqlite3.Connection) -> Pending:
    """What was sent and has no bill yet."""
    return Pending(*connection.execute(_PENDING).fetchone())


def spent(connection: sqlite3.Connection) -> float:
    """Dollars, with the most that what is on its way may cost."""
    return float(connection.execute(_SPENT).fetchone()[0])
