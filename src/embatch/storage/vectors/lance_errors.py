"""What the libraries under the Lance store say, in embatch's words, and how they are loaded.

Everything of `lance` that touches Lance or the manifest stands in one of these blocks. Lance tells causes only in the
text of its errors, so that is what is read here.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from embatch.errors import (
    DiskFullError,
    EmbatchError,
    IndexBrokenError,
    IndexBusyError,
    MissingExtraError,
    OutputBusyError,
    OutputMismatchError,
    OutputNotWritableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FULL = re.compile(
    r"no space left|os error 28\b|disk quota|os error 122\b|file too large|os error 27\b", re.IGNORECASE
)
_DENIED = re.compile(
    r"permission denied|os error 13\b|read-only file system|os error 30\b|not permitted|os error 1\b",
    re.IGNORECASE,
)
_LONGEST = 300


def load_lance() -> Any:
    """The library, told not to log: its warnings are about its own interfaces.

    Raises:
        MissingExtraError: it is not installed.
    """
    os.environ.setdefault("LANCE_LOG", "error")  # read when it is imported
    os.environ.setdefault(
        "LANCE_INCLUDE_VECTOR_CENTROIDS", "false"
    )  # statistics of an index need not hold it
    try:
        import lance
    except ImportError as error:
        raise MissingExtraError(
            f"a search index needs libraries that are not installed ({error})",
            hint='Install them: pip install "embatch[search]"',
        ) from error
    return lance


@contextmanager
def store_errors(location: Path) -> Iterator[None]:
    """Turn whatever Lance or SQLite raises in the block into the error of ours that fits best.

    Raises:
        DiskFullError: no space is left.
        OutputNotWritableError: permission, or a read-only disk.
        IndexBusyError: another process holds the manifest.
        IndexBrokenError: anything else: the files are missing, damaged, or not ours.
    """
    try:
        yield
    except OutputBusyError as error:
        raise busy(location) from error
    except OutputMismatchError as error:
        raise IndexBrokenError(f"the index {str(location)!r} cannot be used: {error}") from error
    except EmbatchError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise _mapped(error, location) from error
    except BaseException as error:
        if (
            type(error).__name__ == "PanicException"
        ):  # of Rust: no subclass of Exception, and of no public module
            raise _mapped(error, location) from error
        raise


def busy(location: Path) -> IndexBusyError:
    """What a second writer is told."""
    return IndexBusyError(f"another process is changing the index {str(location)!r}")


def _mapped(error: BaseException, location: Path) -> EmbatchError:
    words = str(error)
    shown = words if len(words) <= _LONGEST else f"{words[:_LONGEST]}…"
    if _FULL.search(words):
        return DiskFullError(f"no space left for the index {str(location)!r}: {shown}")
    if _DENIED.search(words):
        return OutputNotWritableError(
            f"the index {str(location)!r} may not be read or written: {shown}",
            hint="Choose another folder with --index, or change its permissions.",
        )
    return IndexBrokenError(f"the index {str(location)!r} cannot be read: {shown}")
