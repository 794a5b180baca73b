"""Token budgets that earlier runs found best on this machine.

Read when a run's tuner is made, written when it ends; the key says for which model, device and kind of documents. A
profile only saves the search: nothing that goes wrong with it may touch a run, so nothing here raises.
"""

from __future__ import annotations

import logging
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from embatch.errors import EmbatchError
from embatch.storage.folders import user_folder
from embatch.storage.sqlite import connect, sqlite_errors, transaction

if TYPE_CHECKING:
    from pathlib import Path

_BUSY_S = 1.0
_log = logging.getLogger(__name__)

MIGRATIONS = (
    """
    CREATE TABLE profiles (
        key TEXT PRIMARY KEY,
        budget INTEGER NOT NULL,   -- tokens
        rate REAL NOT NULL,        -- tokens per second that it reached
        saved TEXT NOT NULL        -- UTC, ISO 8601
    );
    """,
)
_LOAD = "SELECT budget FROM profiles WHERE key = ?"
_SAVE = """
    INSERT INTO profiles (key, budget, rate, saved) VALUES (?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET budget = excluded.budget, rate = excluded.rate, saved = excluded.saved
"""


class TuningProfiles:
    """Learned budgets in the SQLite file at `path`, which is created on the first `save`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self, key: str) -> int | None:
        """The token budget saved under `key`; None if there is none, or it cannot be read."""
        try:
            if not self._path.exists():
                return None
            with (
                sqlite_errors(self._path),
                closing(connect(self._path, migrations=MIGRATIONS, busy_s=_BUSY_S)) as connection,
            ):
                row = connection.execute(_LOAD, (key,)).fetchone()
        except (EmbatchError, OSError) as error:
            _log.debug("no tuning profile: %s", error)
            return None
        return row[0] if row and isinstance(row[0], int) and row[0] > 0 else None

    def save(self, key: str, budget: int, rate: float) -> None:
        """Keep `budget` (tokens) and the rate (tokens per second) that it reached, replacing what was there."""
        row = (key, budget, rate, datetime.now(UTC).isoformat(timespec="seconds"))
        try:
            with (
                sqlite_errors(self._path),
                closing(connect(self._path, migrations=MIGRATIONS, busy_s=_BUSY_S)) as connection,
                transaction(connection),
            ):
                connection.execute(_SAVE, row)
        except (EmbatchError, OSError) as error:
            _log.debug("the tuning profile was not saved: %s", error)


def default_profiles() -> TuningProfiles:
    """The user's own profiles: `embatch.sqlite` in the folder `EMBATCH_CACHE`, or in the platform's cache folder."""
    return TuningProfiles(user_folder() / "embatch.sqlite")
