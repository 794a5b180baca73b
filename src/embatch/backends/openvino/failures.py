"""OpenVINO's exceptions as embatch's: the one place where they are told apart.

The library raises plain `RuntimeError` for everything, so the message decides. A context manager around each use
of it keeps the other files of the backend free of exception handling.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from openvino.exceptions import OVError

from embatch.errors import BackendError, CorruptModelError, EmbatchError, OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOREIGN = (OVError, RuntimeError, MemoryError, ValueError, TypeError)
"""All that OpenVINO raises: RuntimeError for nearly everything, the others where Python's side checks arguments."""
_NO_MEMORY = (
    "failed to allocate",
    "can't allocate",
    "can not allocate",
    "cannot allocate",
    "bad_alloc",
    "bad allocation",
    "out of memory",
    "not enough memory",
)


@contextmanager
def running(doing: str) -> Iterator[None]:
    """Around compiling and computing; `doing` completes "OpenVINO failed while …".

    Raises:
        OutOfMemoryError: an allocation failed.
        BackendError: anything else that OpenVINO reported.
    """
    try:
        yield
    except EmbatchError:
        raise
    except FOREIGN as error:
        if isinstance(error, MemoryError) or is_out_of_memory(str(error)):
            raise OutOfMemoryError(f"OpenVINO ran out of memory while {doing}: {_cause(error)}") from error
        raise BackendError(f"OpenVINO failed while {doing}: {_cause(error)}") from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Around reading a model's file.

    Raises:
        OutOfMemoryError: an allocation failed.
        CorruptModelError: OpenVINO cannot make a model of `path`.
    """
    try:
        yield
    except EmbatchError:
        raise
    except (*FOREIGN, OSError) as error:
        if isinstance(error, MemoryError) or is_out_of_memory(str(error)):
            raise OutOfMemoryError(f"No memory to read {path}: {_cause(error)}") from error
        raise CorruptModelError(f"OpenVINO cannot read {path}: {_cause(error)}") from error


def is_out_of_memory(message: str) -> bool:
    """Whether a message of OpenVINO's speaks of a failed allocation."""
    lowered = message.lower()
    return any(phrase in lowered for phrase in _NO_MEMORY)


def _cause(error: BaseException) -> str:
    """The last line that says something: the lines before it are places in OpenVINO's source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
