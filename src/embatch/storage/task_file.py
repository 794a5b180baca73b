"""The file of task vectors: one JSON object a line, appended to by any number of processes, never left half changed.

Stands between the tasks' front end and the disk. Appending and replacing hold a lock beside the file; readers hold
none, and see whole lines. What a crash has torn is kept aside before the next append. What a record means is said in
`frontends.tasks`.
"""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from filelock import FileLock, Timeout

from embatch.errors import (
    OutputBusyError,
    OutputMismatchError,
    RowError,
    SourceFormatError,
    SourceUnreadableError,
)
from embatch.storage.files import make_folder, os_errors, sync_folder
from embatch.storage.task_lines import ReadLines, read_lines, read_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from io import FileIO
    from pathlib import Path

_LOCK_S = 60.0
_HEAD = 65_536
_BLOCK = 1 << 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A task file as it was read: lines that are whole, whatever is appended later."""

    content: ReadLines
    size: int
    """Bytes that were read, all whole lines."""
    inode: int
    """Which file it was; 0 if there was none."""
    torn: bool = False
    """Whether something unfinished stands behind the last whole line."""


class TaskFile:
    """A task file by its path; the file and its folder are made by the first append.

    Args:
        path: of the file, which may not exist yet.
        lock_s: how long to wait for other processes that change it.
    """

    def __init__(self, path: Path, *, lock_s: float = _LOCK_S) -> None:
        self.path = path
        self._lock_s = lock_s

    @property
    def aside(self) -> Path:
        """Where torn lines are kept."""
        return self.path.with_name(f"{self.path.name}.torn")

    # --- reading ----------------------------------------------------------------------------------------------

    def read(self, *, dimensions: int) -> Snapshot:
        """Everything in the file; nothing if there is no file.

        Raises:
            SourceUnreadableError: it cannot be read.
            SourceFormatError: no line of it looks like a record.
        """
        try:
            with self.path.open("rb") as file:
                walk = _Walk(file)
                content = read_lines(walk.lines(), dimensions=dimensions)
                inode = os.fstat(file.fileno()).st_ino
        except FileNotFoundError:
            return Snapshot(content=read_lines([], dimensions=dimensions), size=0, inode=0)
        except OSError as error:
            raise SourceUnreadableError(
                f"cannot read {str(self.path)!r}: {error.strerror or error}"
            ) from error
        if walk.filled and not walk.alike:
            raise self._foreign()
        return Snapshot(content=content, size=walk.size, inode=inode, torn=bool(walk.rest.strip()))

    # --- appending --------------------------------------------------------------------------------------------

    def append(self, lines: Sequence[bytes]) -> None:
        """Append whole lines, durably: when this returns they outlast a power cut.

        Raises:
            DiskFullError: nothing was appended.
            OutputNotWritableError: the folder or file may not be written.
            OutputBusyError: another process holds the file too long.
            SourceFormatError: what lies there is no task file.
        """
        if not lines:
            return
        with self._locked(), os_errors(self.path):
            is_new = not self.path.exists()
            with self.path.open("r+b" if not is_new else "x+b", buffering=0) as file:
                end = self._mended(file)
                self._write(file, end, b"".join(lines))
            if is_new:
                sync_folder(self.path.parent)

    # --- replacing --------------------------------------------------------------------------------------------

    def replace(
        self,
        seen: Snapshot,
        changed: Callable[[int, bytes], bytes],
        *,
        output: Path | None = None,
        backup: Path | None = None,
    ) -> None:
        """Write the file anew, line by line, and put it in place of the old one in one step.

        Records that were appended since it was read come after the others, as they are.

        Args:
            seen: what `read` gave.
            changed: from (line number, from 1; the line without its line feed) to the line to write.
            output: write there, and leave the file alone.
            backup: a copy of the old file is left here.

        Raises:
            OutputMismatchError: another process has replaced the file meanwhile.
            DiskFullError, OutputNotWritableError, OutputBusyError: and the file is as it was.
        """
        target = output or self.path
        if output is not None:
            make_folder(output.parent, output)
        with self._locked():
            self._check_unchanged(seen)
            if backup is not None:
                with os_errors(backup):
                    shutil.copy2(self.path, backup)
            part = target.with_name(f".{target.name}.part")
            try:
                with os_errors(target):
                    self._write_anew(part, seen, changed)
                    part.replace(target)
                    sync_folder(target.parent)
            finally:
                with suppress(OSError):
                    part.unlink(missing_ok=True)

    # --- inside -----------------------------------------------------------------------------------------------

    @contextmanager
    def _locked(self) -> Iterator[None]:
        make_folder(self.path.parent, self.path)
        lock = FileLock(f"{self.path}.lock", timeout=self._lock_s)
        with os_errors(self.path):
            try:
                lock.acquire()
            except Timeout as error:  # an OSError too
                raise self._busy() from error
        try:
            yield
        finally:
            lock.release()

    def _busy(self) -> OutputBusyError:
        return OutputBusyError(
            f"other processes have been changing {str(self.path)!r} for {self._lock_s:g} s",
            hint="Wait for them to end, then run the same command again.",
        )

    def _mended(self, file: FileIO) -> int:
        """Where to append, after what a crash has torn was kept aside."""
        size = file.seek(0, os.SEEK_END)
        self._check_format(_read_at(file, 0, min(size, _HEAD)).split(b"\n")[:-1])
        begin = _last_line(file, size)
        if begin == size:
            return size
        rest = _read_at(file, begin, size - begin)
        if _is_object(rest):
            self._write(file, size, b"\n")
            return size + 1
        with self.aside.open("ab") as aside:
            aside.write(rest + b"\n")
            aside.flush()
            os.fsync(aside.fileno())
        file.truncate(begin)
        _log.warning(
            "%s ended in a torn line of %d bytes, left by a crash; it is kept in %s",
            self.path,
            len(rest),
            self.aside,
        )
        return begin

    def _write(self, file: FileIO, at: int, data: bytes) -> None:
        """Write all of it, or nothing."""
        rest = memoryview(data)
        file.seek(at)
        try:
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(at)
            raise

    def _check_format(self, lines: Sequence[bytes]) -> None:
        some = [line for line in lines if line.strip()]
        if some and not any(map(_looks_like_ours, some)):
            raise self._foreign()

    def _foreign(self) -> SourceFormatError:
        return SourceFormatError(
            f"{str(self.path)!r} is no file of task vectors: no line of it is a JSON object",
            hint="Move it away, and record into a new one.",
        )

    def _check_unchanged(self, seen: Snapshot) -> None:
        try:
            now = self.path.stat()
        except FileNotFoundError:
            now = None
        if now is None or now.st_ino != seen.inode or now.st_size < seen.size:
            raise OutputMismatchError(
                f"another process has replaced {str(self.path)!r} meanwhile", hint="Run the command again."
            )

    def _write_anew(self, part: Path, seen: Snapshot, changed: Callable[[int, bytes], bytes]) -> None:
        with self.path.open("rb") as old, part.open("wb") as new:
            number = 0
            while old.tell() < seen.size:
                number += 1
                line = old.readline()
                new.write(changed(number, line.rstrip(b"\n")) + b"\n")
            shutil.copyfileobj(old, new, _BLOCK)
            new.flush()
            os.fsync(new.fileno())
            shutil.copymode(self.path, part)


class _Walk:
    """Goes through the whole lines of a file, and remembers what it saw."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = 0
        self.filled = self.alike = False
        self.rest = b""

    def lines(self) -> Iterator[bytes]:
        for line in self._file:
            # The last line may be whole but for its line feed: another program's way of ending files.
            if not line.endswith(b"\n") and not _is_object(line):
                self.rest = line
                return
            self.size += len(line)
            self.filled = self.filled or not line.isspace()
            self.alike = self.alike or _looks_like_ours(line)
            yield line.rstrip(b"\n")


def free_backup(path: Path) -> Path:
    """A name beside `path` that is not taken: `NAME.bak`, `NAME.bak.2` and so on."""
    candidate, number = path.with_name(f"{path.name}.bak"), 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}.bak.{number}")
    return candidate


def _read_at(file: FileIO, at: int, size: int) -> bytes:
    file.seek(at)
    parts = []
    while size > 0 and (part := file.read(min(size, _BLOCK))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _last_line(file: FileIO, size: int) -> int:
    """Where the line begins that the file ends within; its size if it ends with a line feed."""
    end = size
    while end > 0:
        begin = max(0, end - _BLOCK)
        found = _read_at(file, begin, end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0


def _looks_like_ours(line: bytes) -> bool:
    return line.lstrip(b"\xef\xbb\xbf \t").startswith(b"{")


def _is_object(line: bytes) -> bool:
    try:
        read_object(line)
    except RowError:
        return False
    return True
