"""Where model files and what is derived from them lie in the user's cache folder, and how they are put there.

Fetching writes through this so that a model is either there whole or not at all; resolving reads it. It knows paths,
locks and disk errors, and nothing of hubs, wheels or weights.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from embatch.errors import DiskFullError, EmbatchError, OutputNotWritableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    FileProgress = Callable[[str, int, int | None], None]
    """Told while a file comes in: its name, bytes so far, bytes in all if that is known."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_CACHE_HINT = "Set EMBATCH_CACHE to a folder that you may write to and that has room."
_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """The folder for everything that can be fetched or computed again: `EMBATCH_CACHE`, or the platform's own."""
    chosen = os.environ.get("EMBATCH_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    from platformdirs import user_cache_path

    return user_cache_path("embatch", appauthor=False)


def models_folder() -> Path:
    """The folder with one folder for each fetched model."""
    return cache_folder() / "models"


def model_folder(name: str, revision: str | None = None) -> Path:
    """Where the model lies once it is fetched: `models/owner--name`, `@revision` added where one was asked for."""
    label = quote(name.replace("/", "--"), safe="")
    return models_folder() / (f"{label}@{quote(revision, safe='')}" if revision else label)


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Maps the operating system's errors about `place` to ours.

    Raises:
        DiskFullError: no space left, or the quota is used up.
        OutputNotWritableError: anything else that forbids writing: permission, a read-only disk, not a folder.
    """
    try:
        yield
    except EmbatchError:
        raise
    except OSError as error:
        raise disk_error(error, place) from error


def disk_error(error: OSError, place: Path) -> DiskFullError | OutputNotWritableError:
    """The error of ours for one of the operating system's about writing below `place`."""
    if error.errno in _FULL:
        return DiskFullError(f"No space is left for the model in {place}", hint=_CACHE_HINT)
    reason = error.strerror or str(error)
    return OutputNotWritableError(f"Cannot write the model to {place}: {reason}", hint=_CACHE_HINT)


def is_disk_error(error: BaseException) -> bool:
    """Whether it is the operating system's complaint about a disk, not a library's about a network."""
    kinds = _FULL | {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EFBIG, errno.EIO}
    return isinstance(error, OSError) and error.errno in kinds


def need_room(place: Path, size_bytes: int) -> None:
    """Fail before the first byte, not after the last that fits.

    Raises:
        DiskFullError: fewer than `size_bytes` are free where `place` is.
    """
    with writing(place):
        free = shutil.disk_usage(place).free
    if free < size_bytes:
        raise DiskFullError(
            f"The model needs {size_bytes / 1e6:,.0f} MB in {place}, and {free / 1e6:,.0f} MB are free",
            hint=_CACHE_HINT,
        )


@contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Only one process at a time fetches `target`; others wait. The lock ends with the process, however it ends.

    What interrupted fetches of the same model left behind is removed: nobody else can be writing there now.
    """
    from filelock import FileLock, Timeout

    with writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.parent / f".{target.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _log.warning("Another process is fetching %s: waiting for it.", target.name)
            lock.acquire()
    try:
        for leftover in target.parent.glob(f"{_staging_prefix(target)}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield
    finally:
        lock.release()


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """A fresh folder beside `target`, on the same disk, removed at the end of the block whatever happens."""
    with writing(target.parent):
        folder = _new_folder(target)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, target: Path) -> None:
    """Make the finished `folder` appear as `target`, in place of what was there: sync, then rename.

    Call it inside `exclusive(target)`.
    """
    with writing(target.parent):
        for path in sorted(folder.rglob("*")):
            _sync(path)
        _sync(folder)
        if target.exists():
            # A folder cannot be renamed over another one that has files in it.
            old = _new_folder(target)
            target.rename(old / "old")
            folder.rename(target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            folder.rename(target)
        _sync(target.parent)


def replace_file(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _staging_prefix(target: Path) -> str:
    return f".{target.name}.part-"


def _new_folder(target: Path) -> Path:
    """A folder of its own beside `target`, with the permissions that folders usually get (mkdtemp's are narrower)."""
    folder = target.parent / f"{_staging_prefix(target)}{secrets.token_hex(6)}"
    folder.mkdir()
    return folder


def _sync(path: Path) -> None:
    """Force a file or folder to the disk. Windows cannot open folders, and needs no more than the rename."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
