"""A file that appears whole under its name, or not at all.

Sinks write through this at the end of the flow. It knows no formats: it finds a temporary name in the target's folder,
clears away what dead processes left there, and renames when everything is on the disk.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING

from embatch.errors import OutputBusyError, OutputNotWritableError
from embatch.storage.files import make_folder, os_errors, sync_folder

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

_BUFFER_BYTES = 1 << 20
_claimed: set[Path] = set()  # temporary files of this process: one target, one writer


def check_place(target: Path) -> None:
    """Refuse a target that no file can replace. Creates the folders above it.

    Raises:
        OutputNotWritableError: it is a folder or a device, or its folder may not be written.
        DiskFullError: no space is left for its folder.
    """
    target = target.resolve()
    if target.is_dir():
        raise OutputNotWritableError(
            f"cannot write {str(target)!r}: it is a folder",
            hint="Name a file in it, such as vectors.parquet.",
        )
    if target.exists() and not target.is_file():
        raise OutputNotWritableError(f"cannot write {str(target)!r}: it is not an ordinary file")
    make_folder(target.parent, target)
    effective = os.access in os.supports_effective_ids
    if not os.access(target.parent, os.W_OK | os.X_OK, effective_ids=effective):
        raise OutputNotWritableError(
            f"cannot write {str(target)!r}: no permission to write in {str(target.parent)!r}"
        )


class AtomicFile:
    """A new file for `target`, written under `.<name>.<pid>.tmp` beside it. One of `publish` and `discard` ends it.

    Attributes:
        target: the name that it gets; symbolic links are followed, so that the file they point to is replaced.
        file: the temporary file, open for writing and seeking.
    """

    def __init__(self, target: Path) -> None:
        check_place(target)
        self.target = target.resolve()
        self._path = self.target.with_name(f".{self.target.name}.{os.getpid()}.tmp")
        if self._path in _claimed:
            raise OutputBusyError(f"this process is writing {str(target)!r} already")
        with os_errors(target):
            clear_leftovers(self.target)
            self.file: BinaryIO = self._path.open("w+b", buffering=_BUFFER_BYTES)
        _claimed.add(self._path)

    def sync(self) -> None:
        """Bring everything written to the disk and close the file."""
        with os_errors(self.target):
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()

    def publish(self) -> None:
        """Give it the target's name, in one step. After `sync`."""
        with os_errors(self.target):
            self._path.replace(self.target)
        _claimed.discard(self._path)
        sync_folder(self.target.parent)

    def discard(self) -> None:
        """Delete it. Never raises; after `publish` it does nothing."""
        if self._path not in _claimed:
            return
        with suppress(OSError):  # what could not be written still waits in the buffer, and fails again
            self.file.close()
        with suppress(OSError):
            self._path.unlink()
        _claimed.discard(self._path)


def clear_leftovers(target: Path) -> None:
    """Delete temporary files for this target whose process is dead."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.(\d+)\.tmp")
    for path in target.parent.iterdir():
        match = pattern.fullmatch(path.name)
        if match and not _alive(int(match[1])):
            with suppress(OSError):
                path.unlink()


def _alive(pid: int) -> bool:
    import psutil  # takes a while to load, and there rarely is a leftover

    return psutil.pid_exists(pid)
