"""What the operating system says about a file that we write, in embatch's words.

Sinks and databases stand on this: one place maps `OSError`, one place makes folders and makes renames last. It opens
no files and knows no formats.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from embatch.errors import DiskFullError, OutputError, OutputNotWritableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def os_errors(target: Path) -> Iterator[None]:
    """Turn an `OSError` in the block into the error of ours that fits best; `target` is what the user asked for.

    Raises:
        DiskFullError: no space, quota or file size is left.
        OutputNotWritableError: anything else.
    """
    try:
        yield
    except OSError as error:
        raise _mapped(error, target) from error


def make_folder(folder: Path, target: Path) -> None:
    """Create `folder` and the folders above it, on behalf of `target`, where they are missing."""
    with os_errors(target):
        folder.mkdir(parents=True, exist_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames within `folder` outlast a power cut, where the system can."""
    with suppress(OSError):  # some systems cannot open a folder, some file systems cannot sync one
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _mapped(error: OSError, target: Path) -> OutputError:
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return DiskFullError(f"no space left for {str(target)!r}: {reason}")
    return OutputNotWritableError(f"cannot write {str(target)!r}: {reason}")
