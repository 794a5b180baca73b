"""What may be spent in a day, over all and by payer, and what was: dollars that outlive their process.

Under a gateway, before anything is sent: the most that it may cost is reserved, and settled once the bill is known.
What a killed process had reserved counts as spent, for nobody knows what became of its calls. Days are those of UTC,
and a bill belongs to the day on which it was reserved.
"""

from __future__ import annotations

import math
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from embatch.errors import GoalError, OutputError, UsageError
from embatch.storage.sqlite import HeldConnection, connect, sqlite_errors, transaction

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping
    from pathlib import Path

MIGRATIONS = (
    """
    CREATE TABLE spending (            -- by day and payer
        day TEXT NOT NULL,             -- of UTC, ISO 8601
        payer TEXT NOT NULL,           -- '' is nobody's own account
        dollars REAL NOT NULL,
        PRIMARY KEY (day, payer)
    ) WITHOUT ROWID;
    CREATE TABLE reserved (            -- what is on its way, and what killed processes have left
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        day TEXT NOT NULL,
        payer TEXT NOT NULL,
        dollars REAL NOT NULL          -- at most
    );
    CREATE INDEX reserved_days ON reserved (day, payer);
    """,
)
_SPENT = """
    SELECT payer, sum(dollars) FROM (
        SELECT payer, dollars FROM spending WHERE day = :day
        UNION ALL SELECT payer, dollars FROM reserved WHERE day = :day)
    GROUP BY payer
"""
_RESERVE = "INSERT INTO reserved (day, payer, dollars) VALUES (?, ?, ?)"
_TAKE_BACK = "DELETE FROM reserved WHERE number = ? RETURNING day, payer"
_BOOK = """
    INSERT INTO spending (day, payer, dollars) VALUES (?, ?, ?)
    ON CONFLICT (day, payer) DO UPDATE SET dollars = dollars + excluded.dollars
"""
_BOOK_OLD = """
    INSERT INTO spending (day, payer, dollars) SELECT day, payer, sum(dollars) FROM reserved WHERE day < ? GROUP BY 1, 2
    ON CONFLICT (day, payer) DO UPDATE SET dollars = dollars + excluded.dollars
"""
_DROP_OLD = "DELETE FROM reserved WHERE day < ?"
_OLD_DAYS = 2  # after which nothing reserved can still be on its way
_SLACK = 1e-12  # of a dollar: sums of floats


def _utc() -> datetime:
    return datetime.now(UTC)


class Purse:
    """Dollars of a day. Thread-safe; several processes may share the file.

    Args:
        path: a SQLite file, made if missing.
        per_day: dollars that all payers together may spend in a day; None is no bound.
        payers: bounds of their own, by name.
        now: the time, in UTC; only tests give another.

    Raises:
        OutputError: one of its kinds, when the file cannot be used.
        UsageError: a bound that is none.
    """

    def __init__(
        self,
        path: Path,
        *,
        per_day: float | None = None,
        payers: Mapping[str, float] | None = None,
        now: Callable[[], datetime] = _utc,
    ) -> None:
        for bound in (per_day, *(payers or {}).values()):
            if bound is not None and not (math.isfinite(bound) and bound >= 0):
                raise UsageError(f"dollars of a day must be a number of at least 0, not {bound!r}")
        self._path = path
        self._per_day = per_day
        self._payers = dict(payers or {})
        self._now = now
        self._lock = threading.Lock()
        self._connection = HeldConnection(
            connect(path, migrations=MIGRATIONS),
            lambda: OutputError("what was spent is not kept any more: it was closed"),
        )

    @property
    def bounded(self) -> bool:
        """Whether there is any bound."""
        return self._per_day is not None or bool(self._payers)

    def reserve(self, payer: str | None, dollars: float) -> int:
        """Set aside the most that something may cost, before it is sent; the number that `settle` wants.

        Raises:
            GoalError: that would go over the bound of all, or the payer's own. Nothing is set aside then.
            OutputError: the file cannot be written.
        """
        name, now = payer or "", self._now()
        day = now.date().isoformat()
        with self._lock, sqlite_errors(self._path), transaction(self._open):
            self._sweep(now)
            spent = self._spent(day)
            self._check("all clients together", self._per_day, sum(spent.values()), dollars, now)
            self._check(f"{name!r}", self._payers.get(name), spent.get(name, 0.0), dollars, now)
            return int(self._open.execute(_RESERVE, (day, name, dollars)).lastrowid or 0)

    def settle(self, number: int, dollars: float) -> None:
        """The bill is known, and takes the place of what was reserved. Settling twice does nothing.

        Raises:
            OutputError: the file cannot be written.
        """
        with self._lock, sqlite_errors(self._path), transaction(self._open):
            row = self._open.execute(_TAKE_BACK, (number,)).fetchone()
            if row is not None and dollars > 0:
                self._open.execute(_BOOK, (*row, dollars))

    def spent_today(self) -> dict[str, float]:
        """Dollars by payer, what is on its way included; '' is nobody's own account."""
        with self._lock, sqlite_errors(self._path):
            return self._spent(self._now().date().isoformat())

    def close(self) -> None:
        """Give back the file. Closing twice is allowed."""
        with self._lock:
            self._connection.close()

    @property
    def _open(self) -> sqlite3.Connection:
        return self._connection.get()

    def _spent(self, day: str) -> dict[str, float]:
        return dict(self._open.execute(_SPENT, {"day": day}).fetchall())

    def _sweep(self, now: datetime) -> None:
        """What killed processes left in earlier days is spent for good."""
        old = (now.date() - timedelta(days=_OLD_DAYS)).isoformat()
        self._open.execute(_BOOK_OLD, (old,))
        self._open.execute(_DROP_OLD, (old,))

    @staticmethod
    def _check(who: str, bound: float | None, spent: float, dollars: float, now: datetime) -> None:
        if bound is None or spent + dollars <= bound + _SLACK:
            return
        midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), UTC)
        left = midnight - now
        hours, minutes = divmod(int(left.total_seconds()) // 60, 60)
        raise GoalError(
            f"the limit of {who} is ${bound:.4f} a day, ${spent:.4f} of it is spent or on its way, and this may cost "
            f"${dollars:.6f}; the day ends at {midnight:%Y-%m-%d %H:%M} UTC, in {hours} h {minutes} min",
            hint="Ask again then, or have the limit raised.",
        )
