"""A folder that finished tasks are dropped into, one JSON file each, and taken from once they are recorded.

A file is claimed by moving it into `.taken`, and removed only when its task is durable in the task file: whatever lies
there after a crash is recorded again, and the last record of a task counts. It records nothing itself.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from embatch.errors import OutputBusyError, OutputError, RowError
from embatch.frontends.tasks.records import Entry, task_id, with_known_names
from embatch.storage.files import make_folder, os_errors, sync_folder
from embatch.storage.task_lines import check_record, read_object

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from embatch.errors import EmbatchError
    from embatch.frontends.tasks.texts import Task

SETTLED_S = 2.0
"""A file that is no JSON is taken for one that is still being written until it is so old."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A file that was claimed. Either its task or what is wrong with it."""

    path: Path
    entry: Entry | None = None
    error: EmbatchError | None = None


class Spool:
    """A spool folder.

    Args:
        folder: made if it is missing.
        keep: move recorded files to `done/` instead of removing them.
        settled_s: how old a file must be to be judged as broken.
    """

    def __init__(self, folder: Path, *, keep: bool = False, settled_s: float = SETTLED_S) -> None:
        self.folder = folder
        self._taken = folder / ".taken"
        self._keep = keep
        self._settled_s = settled_s

    def drop(self, task: Task) -> Path:
        """Put a task into the folder, durably: when this returns, it will be recorded, whatever crashes.

        Raises:
            RowError: it has no id, or holds something that JSON cannot say.
            OutputError: the folder cannot be written.
        """
        checked = {**task, "task_id": task_id(task.get("task_id"))}
        check_record(checked)
        make_folder(self.folder, self.folder)
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.json"
        part, path = self.folder / f".{name}.part", self.folder / name
        with os_errors(path):
            with part.open("w", encoding="ascii") as file:
                json.dump(checked, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        sync_folder(self.folder)
        return path

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Be the only one that takes from this folder.

        Raises:
            OutputBusyError: another process does.
        """
        make_folder(self._taken, self.folder)
        lock = FileLock(self._taken / ".lock", timeout=0)
        with os_errors(self.folder):
            try:
                lock.acquire()
            except Timeout as error:
                raise OutputBusyError(
                    f"another process takes tasks from {str(self.folder)!r}",
                    hint="One monitor is enough for a folder; stop the other one first.",
                ) from error
        try:
            yield
        finally:
            lock.release()

    def waiting(self) -> list[str]:
        """Names of files that wait, the oldest first; those that were claimed before a crash come before all others."""
        return [*_oldest_first(self._taken), *_oldest_first(self.folder)]

    def take(self, names: Sequence[str]) -> list[Dropped]:
        """Claim files and read them; those that have vanished or are still being written are left out."""
        found = []
        for name in names:
            path = self._taken / name
            if not path.exists():
                try:
                    with os_errors(path):
                        (self.folder / name).rename(path)
                except OutputError as error:
                    if isinstance(error.__cause__, FileNotFoundError):
                        continue
                    raise
            if (one := self._read(path)) is not None:
                found.append(one)
        return found

    def finish(self, one: Dropped) -> None:
        """Drop a file whose task is durable. Files are finished in the order that they were taken in."""
        with os_errors(one.path):
            if self._keep:
                self._move(one.path, "done")
            else:
                one.path.unlink(missing_ok=True)

    def refuse(self, one: Dropped, error: EmbatchError) -> Path:
        """Put a file aside into `failed/`, with the reason beside it, and say where."""
        with os_errors(one.path):
            place = self._move(one.path, "failed")
            place.with_suffix(".error.txt").write_text(f"{error}\n{error.hint}\n", "utf-8")
        return place

    def _read(self, path: Path) -> Dropped | None:
        try:
            data, changed = path.read_bytes(), path.stat().st_mtime
        except FileNotFoundError:
            return None
        except OSError as error:
            return Dropped(path=path, error=RowError(f"it cannot be read: {error.strerror or error}"))
        try:
            task = with_known_names(read_object(data))
        except RowError as error:
            if time.time() - changed < self._settled_s:
                return None
            return Dropped(path=path, error=error)
        return Dropped(path=path, entry=Entry(name=str(task.get("task_id") or path.name), task=task))

    def _move(self, path: Path, to: str) -> Path:
        target = self.folder / to
        target.mkdir(exist_ok=True)
        place, number = target / path.name, 1
        while place.exists():
            number += 1
            place = target / f"{path.stem}.{number}{path.suffix}"
        path.rename(place)
        return place


def _oldest_first(folder: Path) -> list[str]:
    found = []
    with suppress(FileNotFoundError), os_errors(folder), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".json") and not entry.name.startswith("."):
                with suppress(FileNotFoundError):
                    found.append((entry.stat().st_mtime_ns, entry.name))
    return [name for _, name in sorted(found)]
