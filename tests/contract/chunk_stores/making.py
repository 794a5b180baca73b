"""Chunks, vectors and file states to fill a store with. A vector tells which text it belongs to."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from embatch.chunks import Chunk, FileState, Where

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.chunks import ChunkKind, ChunkReader, ChunkWriter
    from embatch.types import FloatArray

EVERYTHING = Where()


def chunk(
    path: str,
    text: str,
    *,
    at: int = 0,
    kind: ChunkKind = "function",
    language: str = "python",
    symbol: str = "",
    imports: str = "",
) -> Chunk:
    """The chunk number `at` of a file in which each has ten lines and 100 characters."""
    return Chunk(
        path=path,
        text=text,
        start=at * 100,
        end=at * 100 + 100,
        start_line=at * 10 + 1,
        end_line=at * 10 + 10,
        kind=kind,
        language=language,
        symbol=symbol,
        imports=imports,
    )


def vector(text: str, dimensions: int = 16) -> FloatArray:
    """`(dim,)` of unit length, nearly at right angles to that of any other text."""
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    row = np.random.default_rng(seed).normal(size=dimensions).astype(np.float32)
    unit: FloatArray = row / np.linalg.norm(row)
    return unit


def vectors(chunks: Sequence[Chunk], dimensions: int = 16) -> FloatArray:
    """`(n, dim)`."""
    if not chunks:
        return np.empty((0, dimensions), np.float32)
    return np.stack([vector(chunk.text, dimensions) for chunk in chunks])


def state(path: str, chunks: int, *, mtime_ns: int = 1, skipped: str = "", failed: int = 0) -> FileState:
    return FileState(
        path=path,
        size_bytes=(1 << 40) + chunks,
        mtime_ns=mtime_ns,
        inode=(1 << 64) - 1,
        digest=hashlib.blake2b(f"{path}{mtime_ns}".encode(), digest_size=16).digest(),
        chunks=chunks,
        skipped=skipped,
        failed=failed,
    )


def put(writer: ChunkWriter, *chunks: Chunk, mtime_ns: int = 1) -> None:
    """Replace the files of these chunks."""
    paths = list(dict.fromkeys(chunk.path for chunk in chunks))
    files = [state(path, sum(c.path == path for c in chunks), mtime_ns=mtime_ns) for path in paths]
    writer.replace(files, chunks, vectors(chunks, writer.spec.dimensions))


def texts(reader: ChunkReader) -> list[str]:
    """All that a reader finds, by text."""
    query = vector("anything", reader.spec.dimensions)[None]
    return sorted(hit.chunk.text for hit in reader.nearest(query, k=10_000, where=EVERYTHING)[0])


def found(reader: ChunkReader, query: str, *, where: Where = EVERYTHING, k: int = 10) -> list[str]:
    """The texts that full-text search finds, best first."""
    return [hit.chunk.text for hit in reader.matching([query], k=k, where=where)[0]]
