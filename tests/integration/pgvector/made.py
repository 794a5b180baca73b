"""What the fixtures of these tests give, as types."""

from __future__ import annotations

from collections.abc import Callable

from embatch.chunks import Chunk, FileState
from embatch.types import FloatArray

Vectors = Callable[..., FloatArray]
"""`vectors(5, dim=8, seed=1)`: rows of unit length, the same for the same arguments."""

Cut = Callable[..., list[Chunk]]
"""`cut("a.py", ["one text", "another"])`: a file's chunks, two lines each."""

States = Callable[..., FileState]
"""`state("a.py", 3)`: a file with three chunks."""
