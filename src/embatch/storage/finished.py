"""What a run through a provider has made, written down beside its output: the same command again pays for nothing.

A run ends in several steps: the output appears, journal and ledger go, the process ends. The record is written after
the first, so that a kill at any later moment finds it, as does whoever gives the same command once more. It holds for
the very file that was made, under the very request: anything else, and `--fresh`, begins anew. It keeps no vectors.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from embatch.storage.files import make_folder, os_errors
from embatch.storage.journal import FOLDER

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_log = logging.getLogger(__name__)


def finished_path(output: Path) -> Path:
    """Where the record of a run that made `output` lies: `.embatch/<name>.done` beside it."""
    target = output.resolve()
    return target.parent / FOLDER / f"{target.name}.done"


def keep_finished(output: Path, request: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    """Write down that `output` is there. It never fails: without the record, a run is only made again.

    Args:
        output: the file, under its name.
        request: JSON values that the file depends on.
        told: JSON values for whoever asks for the same again.
    """
    path = finished_path(output)
    record = {"request": dict(request), "output": _state(output), "told": dict(told)}
    part = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        make_folder(path.parent, path)
        with os_errors(path):
            part.write_text(json.dumps(record), encoding="utf-8")
            part.replace(path)
    except Exception as error:  # noqa: BLE001  # see above
        _log.warning("that %s is finished could not be written down: %s", output, error)


def look_finished(output: Path, request: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was told of the run that made `output` for this request; None if none did, or the file is another."""
    try:
        record = json.loads(finished_path(output).read_text(encoding="utf-8"))
        same = record["request"] == json.loads(json.dumps(dict(request)))
        if not same or record["output"] != _state(output):
            return None
        told: dict[str, Any] = record["told"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return told


def forget_finished(output: Path) -> None:
    """The output is about to be made anew."""
    path = finished_path(output)
    with suppress(OSError):
        path.unlink()
        path.parent.rmdir()


def _state(output: Path) -> list[int]:
    """What a file that was replaced or changed has otherwise."""
    found = output.stat()
    return [found.st_size, found.st_mtime_ns]
