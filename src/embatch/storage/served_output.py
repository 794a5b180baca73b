"""The outputs of a batch job while they grow: two files of lines, and how much of them counts.

Lines are appended at once and count from the next `sync` on. After a kill the files are cut to what was noted, so that
no row is there twice and none is missing: rows come in the order of the input, and how far that is belongs to the note.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from embatch.errors import OutputMismatchError
from embatch.storage.files import os_errors, sync_folder
from embatch.storage.served_files import ServedFile
from embatch.storage.served_jobs import Done

if TYPE_CHECKING:
    from typing import BinaryIO

    from embatch.storage.served import ServedFolder
    from embatch.storage.served_jobs import ServedJob, ServedJobs

_BUFFER_BYTES = 1 << 20


class JobOutput:
    """Where a job's lines go. Thread-safe.

    Attributes:
        done: how far it has come, what is not noted yet included.
    """

    def __init__(self, folder: ServedFolder, jobs: ServedJobs, job: ServedJob) -> None:
        """Open the files where the note left them.

        Raises:
            OutputMismatchError: there is less of them than was noted.
            OutputError: they cannot be written.
        """
        self.done = job.done
        self._noted = job.done
        self._jobs = jobs
        self._name = job.id
        self._lock = threading.Lock()
        self._streams: list[BinaryIO] = []
        try:
            sizes = (job.done.output_bytes, job.done.error_bytes)
            for part, size in zip(job.part_names, sizes, strict=True):
                self._streams.append(_opened(folder.part(part), size))
        except BaseException:
            self.close()
            raise

    def append(
        self,
        good: bytes,
        bad: bytes,
        *,
        upto: int,
        lines: int,
        completed: int = 0,
        failed: int = 0,
        tokens: int = 0,
    ) -> None:
        """Add the lines of consecutive rows, which end at byte `upto` of the input, `lines` lines later.

        Raises:
            OutputError: they cannot be written.
        """
        with self._lock, os_errors(self._path):
            for stream, data in zip(self._streams, (good, bad), strict=True):
                if data:
                    stream.write(data)
            was = self.done
            self.done = Done(
                upto,
                was.lines + lines,
                was.completed + completed,
                was.failed + failed,
                was.tokens + tokens,
                was.output_bytes + len(good),
                was.error_bytes + len(bad),
            )

    def sync(self) -> Done:
        """Make what was appended count. When it returns, a kill loses none of it.

        Raises:
            OutputError: it cannot be written; what counted before still does.
        """
        with self._lock:
            done = self.done
            if done == self._noted:
                return done
            with os_errors(self._path):
                for stream in self._streams:
                    stream.flush()
        with os_errors(self._path):
            for stream, grew in zip(self._streams, self._grew(done), strict=True):
                if grew:
                    os.fsync(stream.fileno())
        self._jobs.note(self._name, done)
        self._noted = done
        return done

    def close(self) -> None:
        """Close the files; what was not synced is lost. Never raises."""
        with self._lock:
            for stream in self._streams:
                with suppress(OSError):
                    stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _path(self) -> Path:
        return Path(self._streams[0].name)

    def _grew(self, done: Done) -> tuple[bool, bool]:
        return done.output_bytes > self._noted.output_bytes, done.error_bytes > self._noted.error_bytes


def _opened(path: Path, size: int) -> BinaryIO:
    with os_errors(path):
        stream = path.open("r+b" if path.exists() else "w+b", buffering=_BUFFER_BYTES)
        there = stream.seek(0, os.SEEK_END)
        if there >= size:
            stream.truncate(size)
            stream.seek(size)
            return stream
        stream.close()
    raise OutputMismatchError(
        f"{str(path)!r} has {there:,} bytes, but {size:,} were noted", hint="The job starts over."
    )


def publish(
    folder: ServedFolder, job: ServedJob, done: Done, *, now: float, expires: float | None
) -> list[ServedFile]:
    """Rename a job's whole outputs; their rows, for `ServedJobs.end`. Doing it again after a kill does no harm.

    Raises:
        OutputMismatchError: an output is gone.
        OutputError: they cannot be renamed.
    """
    files: list[ServedFile] = []
    names = (job.output_file, job.error_file)
    sizes = (done.output_bytes, done.error_bytes)
    for name, part, size, kind in zip(names, job.part_names, sizes, ("output", "error"), strict=True):
        source, target = folder.part(part), folder.file(name)
        with os_errors(target):
            if not size:
                source.unlink(missing_ok=True)
                continue
            if source.exists():
                source.replace(target)
            if not target.exists() or target.stat().st_size != size:
                raise OutputMismatchError(
                    f"{str(target)!r} does not have {size:,} bytes", hint="The job starts over."
                )
        files.append(
            ServedFile(name, job.owner, "batch_output", f"{job.id}_{kind}.jsonl", size, now, expires)
        )
    sync_folder(folder.folder / "files")
    return files
