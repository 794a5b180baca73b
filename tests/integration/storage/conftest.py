"""Files and folders that refuse, and texts whose vectors tell where they belong."""

from __future__ import annotations

import hashlib
import os
import resource
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pytest

from embatch.types import ModelSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from embatch.types import FloatArray

DIMENSIONS = 6


class Texts(Protocol):
    """Digests and vectors of `count` texts from number `first` on."""

    def __call__(self, count: int, *, first: int = 0) -> tuple[list[bytes], FloatArray]: ...


@pytest.fixture
def spec() -> ModelSpec:
    """What the vectors of these tests are."""
    return ModelSpec(model="test/model", revision="1", dimensions=DIMENSIONS, max_tokens=64)


@pytest.fixture
def texts() -> Texts:
    """`texts(5)` gives five digests and their vectors; a vector out of place shows."""

    def make(count: int, *, first: int = 0) -> tuple[list[bytes], FloatArray]:
        numbers = range(first, first + count)
        digests = [hashlib.blake2b(str(n).encode(), digest_size=16).digest() for n in numbers]
        data = np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(count, 16)
        return digests, data[:, :DIMENSIONS].astype(np.float32)

    return make


@pytest.fixture
def read_only_folder() -> Iterator[Path]:
    """A folder in which this process, root or not, may create nothing; one file, `old`, lies in it."""
    if sys.platform == "win32":
        pytest.skip("permissions are another matter there")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "old").write_bytes(b"old")
        user = os.geteuid()
        folder.chmod(0o555)
        if user == 0:
            os.seteuid(65534)  # root would be let in
        try:
            yield folder
        finally:
            os.seteuid(user)
            folder.chmod(0o755)


@pytest.fixture
def largest_file() -> Callable[[int], AbstractContextManager[None]]:
    """`with largest_file(n)`: writing beyond `n` bytes of any file fails, as on a full disk."""

    @contextmanager
    def limit(most_bytes: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit
