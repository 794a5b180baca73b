"""Read files, cut them, and tell which of their chunks need a vector.

The first half of a sync, run by the thread that feeds the engine. It hands rows on, and keeps beside each what will
take its vector: a `Pending` file. It stores nothing.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from embatch.chunks import FileState
from embatch.types import Item

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

    from embatch.chunks import Chunk, Document
    from embatch.errors import EmbatchError
    from embatch.search.report import SyncReport
    from embatch.storage.sources.listing import SourceFile
    from embatch.types import Block, FloatArray

    Known = Callable[[Sequence[bytes]], Mapping[bytes, FloatArray]]

_FIRST_LOOKUP, _LOOKUP = 64, 1024
"""So many chunks are looked up in the store together; the first time few, so that the device starts at once."""

_RACY_NS = 2_000_000_000
"""A file changed so shortly before it was read may change again without its time showing it: it is read again."""


class Content(Protocol):
    """A file as it was read."""

    @property
    def documents(self) -> Sequence[Document]:
        """What is to be cut."""
        ...

    @property
    def digest(self) -> bytes:
        """Over what was read; empty if nothing was."""
        ...

    @property
    def skipped(self) -> str:
        """Why it is passed over; empty if it is not."""
        ...

    @property
    def problem(self) -> EmbatchError | None:
        """What of it could not be read, and why; with documents, the rest of it could."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What turns files into vectors: made when the first one must be read."""

    read: Callable[[SourceFile], Content]
    cut: Callable[[Sequence[Document]], list[Chunk]]
    embed: Callable[[Iterable[Item]], Generator[Block]]
    """Blocks in the order of the rows."""


class Pending:
    """A file that was read, on its way to the store. Its chunks get their vectors in any order."""

    def __init__(self, state: FileState, chunks: Sequence[Chunk] = (), *, same: bool = False) -> None:
        self.state = state
        self.chunks = chunks
        self.same = same
        """Whether its chunks are as the store has them: only its state is noted."""
        self.vectors: list[FloatArray | None] = [None] * len(chunks)
        self.open = 0
        """Chunks whose vector is still being made. Changed by one thread at a time: first intake, then sync."""


class Intake:
    """Turns files into rows.

    Args:
        workshop: reads and cuts.
        known: vectors that the store has, by digest of the chunk.
        states: what the store knows of each file.
        cut_by: names the way of cutting.
        report: gets counts and problems.
        relieve: called now and then, so that what is complete can be stored while nothing is embedded.
    """

    def __init__(
        self,
        workshop: Workshop,
        known: Known,
        states: Mapping[str, FileState],
        *,
        cut_by: str,
        report: SyncReport,
        relieve: Callable[[], None],
    ) -> None:
        self.waiting: deque[Pending] = deque()
        """Files in their order, complete ones included, until they are taken."""
        self.slots: deque[tuple[Pending, int]] = deque()
        """For each row handed on and not yet answered: its file, and which chunk of it."""
        self._shop = workshop
        self._known = known
        self._states = states
        self._cut_by = cut_by.encode()
        self._report = report
        self._relieve = relieve

    def rows(self, files: Iterable[SourceFile]) -> Iterator[Item]:
        """The chunks that need a vector, as rows."""
        group: list[Pending] = []
        chunks, enough = 0, _FIRST_LOOKUP
        for file in files:
            pending = self._read(file)
            self._report.bytes_done += file.size_bytes
            if pending is None:
                continue
            group.append(pending)
            chunks += len(pending.chunks)
            if chunks >= enough:
                yield from self._looked_up(group)
                group, chunks, enough = [], 0, _LOOKUP
                self._relieve()
        yield from self._looked_up(group)

    def documents(self, documents: Sequence[Document], digest: Callable[[str], bytes]) -> Iterator[Item]:
        """The same for texts without a file, one for each path."""
        group = []
        for document in documents:
            state = FileState(
                path=document.path,
                size_bytes=len(document.text),
                mtime_ns=0,
                inode=0,
                digest=self._digest(digest(document.text)),
            )
            group.append(self._cut(state, [document]))
        yield from self._looked_up(group)

    def _read(self, file: SourceFile) -> Pending | None:
        content = self._shop.read(file)
        if content.problem is not None:
            self._report.unreadable += 1
            self._report.problem(file.key, str(content.problem))
            if not content.documents:
                return None
        racy = time.time_ns() - file.mtime_ns < _RACY_NS
        state = FileState(
            path=file.key,
            size_bytes=file.size_bytes,
            mtime_ns=-1 if racy else file.mtime_ns,
            inode=file.inode[1],
            digest=self._digest(content.digest) if content.digest else b"",
            skipped=content.skipped,
        )
        if content.skipped:
            self._report.skip(content.skipped)
            return Pending(state)
        return self._cut(state, content.documents)

    def _cut(self, state: FileState, documents: Sequence[Document]) -> Pending:
        known = self._states.get(state.path)
        if known is not None and known.digest == state.digest and not known.failed:
            self._report.same += 1
            return Pending(replace(state, chunks=known.chunks, skipped=known.skipped), same=True)
        chunks = [chunk for chunk in self._shop.cut(documents) if chunk.text.strip()]
        self._report.chunks += len(chunks)
        if known is not None and known.chunks:
            self._report.changed += 1
        elif chunks:
            self._report.added += 1
        return Pending(replace(state, chunks=len(chunks)), chunks)

    def _looked_up(self, group: Sequence[Pending]) -> Iterator[Item]:
        digests = {chunk.digest for pending in group for chunk in pending.chunks}
        known = self._known(list(digests)) if digests else {}
        for pending in group:
            rows = self._prepared(pending, known)
            self.slots.extend((pending, at) for at, _ in rows)
            self.waiting.append(pending)
            for _, item in rows:
                yield item

    def _prepared(self, pending: Pending, known: Mapping[bytes, FloatArray]) -> list[tuple[int, Item]]:
        rows = []
        for at, chunk in enumerate(pending.chunks):
            vector = known.get(chunk.digest)
            if vector is not None:
                pending.vectors[at] = vector
                self._report.reused += 1
            else:
                place = f"{chunk.path}:{chunk.start_line}"
                rows.append((at, Item(f"{place}-{chunk.end_line}", chunk.embedded, place)))
        pending.open = len(rows)
        return rows

    def _digest(self, content: bytes) -> bytes:
        return hashlib.blake2b(content + self._cut_by, digest_size=16).digest()
