"""The words of search, as frozen data, and what a store of chunks can do.

Everything that flows *document → chunks → vectors → store → hits* is one of these. Like `types`, it holds no behaviour
beyond what a value can say about itself. Who cuts documents is `search/chunks`, who keeps chunks `storage/vectors`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, get_args

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embatch.types import FloatArray, ModelSpec

CodeKind = Literal["function", "method", "class", "block", "lines"]
"""A whole function, a method, a class's head, a run of small neighbours, or lines of a file without a grammar."""

ProseKind = Literal["section", "cell", "page"]
"""A part of prose under its headings, of a notebook's cell, or of a page."""

ChunkKind = Literal[CodeKind, ProseKind]
"""What a chunk is a piece of."""

CODE_KINDS: tuple[str, ...] = get_args(CodeKind)
PROSE_KINDS: tuple[str, ...] = get_args(ProseKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One text to cut: a file, a notebook's cell, a page."""

    path: str
    """The file's key: relative to the folder that is indexed, `/` between its parts, always UTF-8."""
    text: str
    language: str
    """A programming language in lower case (`python`, `c_sharp`), or `markdown`, `rst`, `html`, `text`."""
    first_line: int = 1
    """Line of the file in which the text begins, from 1."""
    part: str = ""
    """Which part of the file it is: `cell 3`, `page 12`; empty if it is all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A part of a document that gets a vector of its own."""

    path: str
    """The document's."""
    text: str
    """Verbatim: `document.text[start:end]`. The chunks of a document, joined, are the document."""
    start: int
    end: int
    """Characters of the document, from 0; `end` is one behind the last."""
    start_line: int
    end_line: int
    """Lines of the file, from 1, both included."""
    kind: ChunkKind
    language: str
    symbol: str = ""
    """Where it is, by name: `Class.method`, or the headings above it, `Guide > Install`."""
    context: str = ""
    """What is embedded before the text: names that it does not hold itself. Never its path: a file may move."""
    imports: str = ""
    """The import lines of the file whose names the text uses, one line each; searched as text, not embedded."""

    @property
    def embedded(self) -> str:
        """What the model is given."""
        text = self.text.strip()
        return f"{self.context}\n{text}" if self.context else text

    @property
    def digest(self) -> bytes:
        """16 bytes that name what the model is given: equal ones have equal vectors."""
        return hashlib.blake2b(self.embedded.encode("utf-8", "surrogatepass"), digest_size=16).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class FileState:
    """What the index knows of one file: enough to see by a stat whether it has changed."""

    path: str
    size_bytes: int
    mtime_ns: int
    inode: int
    digest: bytes
    """16 bytes over its content and the way it was cut; empty if it was not read."""
    chunks: int = 0
    skipped: str = ""
    """Why it has no chunks, in words from a closed set such as `binary`; empty if it was indexed."""
    failed: int = 0
    """Chunks without a vector: the next run tries them again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Which chunks may be found. Empty fields allow all."""

    paths: tuple[str, ...] = ()
    """Patterns over the whole path: `*` and `?` within a part, `**` over parts, `[a-z]`. `!` before one excludes."""
    languages: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    """Of `ChunkKind`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A chunk that was found."""

    chunk: Chunk
    score: float
    """Cosine for `nearest` (-1 to 1), BM25 for `matching`, the fused score for a hybrid search: higher is better."""
    id: str
    """Names the chunk within one published state of the store: equal in both searches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStats:
    """How much a store holds, as last published."""

    chunks: int
    files: int
    bytes: int
    """On disk; 0 where it cannot be told."""
    by_language: Mapping[str, int]
    by_kind: Mapping[str, int]
    vector_index: str
    """In words, such as `none: exact search` or `IVF, 512 lists, 24 probed`."""
    recall: float | None
    """At 10 against exact search, as measured when the vector index was made; None without one."""


class ChunkReader(Protocol):
    """A store as searchers see it: what was last published, whole. Thread-safe. Never blocked by a writer."""

    @property
    def spec(self) -> ModelSpec:
        """The model that its vectors were made with."""
        ...

    @property
    def about(self) -> Mapping[str, str]:
        """What its writers said of it by `describe`, as last published: opaque to the store."""
        ...

    def count(self) -> int:
        """Chunks in it."""
        ...

    def nearest(self, vectors: FloatArray, *, k: int, where: Where) -> list[list[Hit]]:
        """The `k` chunks with the highest cosine for each row of `(q, dim)`, best first; fewer if there are fewer."""
        ...

    def matching(self, texts: Sequence[str], *, k: int, where: Where) -> list[list[Hit]]:
        """The `k` best chunks for each query by BM25 over text, symbol, path and imports.

        A query is words in any form, never a query language: quotes, colons and stars have no meaning, and an empty
        one finds nothing. Identifiers are found by their parts too (`batch_size`, `BatchSize`: batch, size).
        """
        ...

    def at(self, path: str, line: int) -> tuple[Chunk, FloatArray] | None:
        """The chunk that holds a line of a file, with its vector `(dim,)`; None if there is none."""
        ...

    def stats(self) -> StoreStats:
        """How much it holds."""
        ...

    def refresh(self) -> bool:
        """Look for something newer that was published since it was opened; whether there was."""
        ...

    def close(self) -> None:
        """Release it. Closing twice is allowed."""
        ...


class ChunkWriter(Protocol):
    """A store as the one process sees it that changes it. Nothing is seen by readers before `publish`.

    What was written and not published when a process dies is kept for the next writer: it may be found by `known`, and
    `files` names it, so that nothing is embedded twice.
    """

    @property
    def spec(self) -> ModelSpec:
        """The model that its vectors are made with."""
        ...

    @property
    def about(self) -> Mapping[str, str]:
        """What was said of it last, by `describe`."""
        ...

    def describe(self, about: Mapping[str, str]) -> None:
        """Keep these words with it, instead of those before; readers see them from the next `publish` on."""
        ...

    def files(self) -> dict[str, FileState]:
        """Everything that is in it, by path, unpublished changes included."""
        ...

    def known(self, digests: Sequence[bytes]) -> dict[bytes, FloatArray]:
        """The vectors `(dim,)` that it holds among those asked for, by `Chunk.digest`."""
        ...

    def replace(self, files: Sequence[FileState], chunks: Sequence[Chunk], vectors: FloatArray) -> None:
        """Drop all chunks of these files and add `chunks`, with `(len(chunks), dim)` vectors, and note the states.

        Called again and again with some thousand chunks. A process killed within it leaves the files as they were or
        as they are to be, or not noted at all, never noted with chunks missing.

        Raises:
            DiskFullError: and what was written before is kept.
        """
        ...

    def note(self, files: Sequence[FileState]) -> None:
        """Note states of files whose chunks are as they were: only touched, or without any."""
        ...

    def remove(self, paths: Sequence[str]) -> None:
        """Drop these files and their chunks."""
        ...

    def publish(self) -> None:
        """Bring the indexes up to date and let readers see everything, in one step. Cheap if nothing has changed."""
        ...

    def close(self) -> None:
        """Release it, and let another writer in. Closing twice is allowed."""
        ...
