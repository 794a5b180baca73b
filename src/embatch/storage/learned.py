"""What earlier runs learned about providers: latencies, quotas, limits, how many tokens a text has.

One JSON object per provider, model and account, in the user's own file. It only makes the next run's first decisions
better: nothing that goes wrong with it may touch a run, so nothing here raises.
"""

from __future__ import annotations

import json
import logging
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from embatch.errors import EmbatchError
from embatch.storage.folders import user_folder
from embatch.storage.sqlite import connect, sqlite_errors, transaction

if TYPE_CHECKING:
    from pathlib import Path

_BUSY_S = 1.0
_log = logging.getLogger(__name__)

MIGRATIONS = (
    """
    CREATE TABLE learned (
        key TEXT PRIMARY KEY,      -- provider, model, account
        facts TEXT NOT NULL,       -- JSON object
        saved TEXT NOT NULL        -- UTC, ISO 8601
    );
    """,
)
_LOAD = "SELECT facts FROM learned WHERE key = ?"
_LIKE = "SELECT facts FROM learned WHERE substr(key, 1, ?) = ? ORDER BY saved DESC LIMIT 1"
_SAVE = """
    INSERT INTO learned (key, facts, saved) VALUES (?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET facts = excluded.facts, saved = excluded.saved
"""


class LearnedFacts:
    """JSON objects by key in the SQLite file at `path`, which is created on the first `save`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self, key: str) -> dict[str, Any]:
        """What was saved under `key`; empty if nothing was, or it cannot be read."""
        return self._read(_LOAD, (key,))

    def load_like(self, key: str) -> dict[str, Any]:
        """What was saved last for the same model under any account: `key` up to its first space."""
        model = key.partition(" ")[0]
        return self._read(_LIKE, (len(model) + 1, f"{model} "))

    def save(self, key: str, facts: dict[str, Any]) -> None:
        """Keep `facts`, replacing what was there."""
        row = (key, json.dumps(facts), datetime.now(UTC).isoformat(timespec="seconds"))
        try:
            with (
                sqlite_errors(self._path),
                closing(connect(self._path, migrations=MIGRATIONS, busy_s=_BUSY_S)) as connection,
                transaction(connection),
            ):
                connection.execute(_SAVE, row)
        except (EmbatchError, OSError) as error:
            _log.debug("what was learned was not saved: %s", error)

    def _read(self, statement: str, values: tuple[object, ...]) -> dict[str, Any]:
        try:
            if not self._path.exists():
                return {}
            with (
                sqlite_errors(self._path),
                closing(connect(self._path, migrations=MIGRATIONS, busy_s=_BUSY_S)) as connection,
            ):
                row = connection.execute(statement, values).fetchone()
            facts = json.loads(row[0]) if row else {}
        except (EmbatchError, OSError, ValueError) as error:
            _log.debug("nothing learned could be read: %s", error)
            return {}
        return facts if isinstance(facts, dict) else {}


def default_learned() -> LearnedFacts:
    """The user's own: `providers.sqlite` in their cache folder."""
    return LearnedFacts(user_folder() / "providers.sqlite")
