"""Which texts a cache or a run's journal has vectors of, asked without changing the file.

For `plan`, which says what a run would compute and must leave no trace. It reads no vectors and checks none: what is
damaged is found, and computed again, by the run itself.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import quote

from embatch.storage.cache import DIGEST_BYTES
from embatch.storage.sqlite import sqlite_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_FINGERPRINT = "SELECT id FROM fingerprints WHERE fingerprint = ?"
_INDEXED = "SELECT 1 FROM vectors WHERE fingerprint_id = ? AND digest = ?"
_NOT_INDEXED = "SELECT digests FROM blocks WHERE fingerprint_id = ? AND id > (SELECT indexed FROM mark)"


def stored_digests(paths: Iterable[Path], fingerprint: str, digests: Sequence[bytes]) -> set[bytes]:
    """Those of `digests` that any of the files has a vector of, under this fingerprint. Missing files have none.

    Raises:
        OutputBusyError: another process is writing one of them.
        OutputMismatchError: one is damaged, or no file of this kind.
    """
    found: set[bytes] = set()
    for path in paths:
        if path.exists() and path.stat().st_size:
            found |= _stored(path, fingerprint, digests)
    return found


def _stored(path: Path, fingerprint: str, digests: Sequence[bytes]) -> set[bytes]:
    # Without a log of changes nobody writes it now, and SQLite need not put its own files beside it to read.
    how = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
    address = f"file:{quote(str(path.resolve()))}?{how}"
    with sqlite_errors(path), closing(sqlite3.connect(address, uri=True, timeout=1.0)) as connection:
        row = connection.execute(_FINGERPRINT, (fingerprint,)).fetchone()
        if row is None:
            return set()
        fresh: set[bytes] = set()
        for (joined,) in connection.execute(_NOT_INDEXED, row):
            fresh.update(joined[at : at + DIGEST_BYTES] for at in range(0, len(joined), DIGEST_BYTES))
        return {
            digest
            for digest in digests
            if digest in fresh or connection.execute(_INDEXED, (*row, digest)).fetchone()
        }
