"""Bring an index in step with files: read what has changed, cut it, embed what is new, and drop what is gone.

*files → chunks → vectors → store*. Files are read and cut in the thread that feeds the engine (`intake`), and stored in
the caller's, so that the device waits for neither. Which files have changed is `survey`'s matter, how documents are cut
that of `chunks`, and the model is the caller's.
"""

from __future__ import annotations

import hashlib
import threading
import time
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from embatch.search.intake import Intake
from embatch.search.report import SyncReport
from embatch.search.survey import survey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from embatch.chunks import ChunkWriter, Document, FileState
    from embatch.search.intake import Pending, Workshop
    from embatch.search.places import Place
    from embatch.search.survey import Survey
    from embatch.types import Block, FloatArray, Item

_FLUSH_CHUNKS = 4096
_FLUSH_S = 10.0
"""So much is stored together, at the latest after so long: each time has its price."""


class Sync:
    """One pass over files or documents.

    Args:
        writer: the store. It is published at the end, and not closed.
        place: names the files.
        workshop: opens what reads, cuts and embeds, once there is something to read.
        cut_by: names the way of cutting, token limit included: files cut in another way are cut again.
    """

    def __init__(
        self, writer: ChunkWriter, place: Place, workshop: Callable[[], Workshop], *, cut_by: str
    ) -> None:
        self.report = SyncReport()
        self._writer = writer
        self._place = place
        self._workshop = workshop
        self._cut_by = cut_by
        self._lock = threading.Lock()  # around the writer, which two threads use
        self._complete: list[Pending] = []
        self._complete_chunks = 0
        self._flushed = 0.0

    def run(self, paths: Sequence[str]) -> SyncReport:
        """Bring everything below `paths` up to date, and publish it.

        Raises:
            SourceError: a path does not exist or cannot be looked at.
            SearchIndexError: the store failed.
            EmbatchError: the model failed as a whole; what was stored before is kept, and the next sync goes on.
        """
        began = time.monotonic()
        known = self._writer.files()
        found = survey(paths, self._place, known, trust=self._writer.about.get("cut") == self._cut_by)
        self._count(found)
        if found.gone:
            self._writer.remove(found.gone)
        if found.to_read:
            intake = self._intake(known)
            self._embed(intake, intake.rows(found.to_read))
        self._finish()
        self.report.seconds = time.monotonic() - began
        return self.report

    def add(self, documents: Sequence[Document]) -> SyncReport:
        """Index texts that have no file, each under its path, and publish them; what is there already is free.

        Raises:
            SearchIndexError: the store failed.
            EmbatchError: the model failed as a whole.
        """
        began = time.monotonic()
        self.report.files = len(documents)
        intake = self._intake(self._writer.files())
        self._embed(intake, intake.documents(documents, _text_digest))
        self._finish()
        self.report.seconds = time.monotonic() - began
        return self.report

    def _count(self, found: Survey) -> None:
        report = self.report
        report.files, report.unchanged, report.removed = found.listed, found.unchanged, len(found.gone)
        report.bytes_total = found.bytes_to_read
        for reason, number in found.skipped.counts.items():
            report.skip(reason, number)

    def _intake(self, known: dict[str, FileState]) -> Intake:
        def look_up(digests: Sequence[bytes]) -> dict[bytes, FloatArray]:
            with self._lock:
                return self._writer.known(digests)

        self._shop = self._workshop()
        intake = Intake(
            self._shop,
            look_up,
            known,
            cut_by=self._cut_by,
            report=self.report,
            relieve=lambda: self._flush(intake, whole=False),
        )
        return intake

    def _embed(self, intake: Intake, rows: Iterable[Item]) -> None:
        self._flushed = time.monotonic()
        with closing(self._shop.embed(rows)) as blocks:
            try:
                for block in blocks:
                    self._take(intake, block)
                    self._flush(intake, whole=False)
            finally:
                # Whatever ended it: what has its vectors is kept, and need not be embedded again.
                self._flush(intake, whole=True)

    def _take(self, intake: Intake, block: Block) -> None:
        failed = {failure.row - block.first_row: failure for failure in block.failures}
        for row in range(len(block.items)):
            pending, at = intake.slots.popleft()
            pending.open -= 1
            if row in failed:
                self.report.failed += 1
                self.report.problem(failed[row].key, str(failed[row].error))
            else:
                pending.vectors[at] = block.vectors[row]
                self.report.embedded += 1

    def _flush(self, intake: Intake, *, whole: bool) -> None:
        """Store files that are complete, if there are enough of them or they have waited."""
        with self._lock:
            while intake.waiting and not intake.waiting[0].open:
                pending = intake.waiting.popleft()
                self._complete.append(pending)
                self._complete_chunks += len(pending.chunks)
            due = whole or time.monotonic() - self._flushed > _FLUSH_S
            if self._complete and (due or self._complete_chunks >= _FLUSH_CHUNKS):
                self._store(self._complete)
                self._complete, self._complete_chunks = [], 0
                self._flushed = time.monotonic()

    def _store(self, taken: Sequence[Pending]) -> None:
        same = [pending.state for pending in taken if pending.same]
        if same:
            self._writer.note(same)
        states, chunks, vectors = [], [], []
        for pending in taken:
            if pending.same:
                continue
            missing = 0
            for chunk, vector in zip(pending.chunks, pending.vectors, strict=True):
                if vector is None:
                    missing += 1
                else:
                    chunks.append(chunk)
                    vectors.append(vector)
            states.append(replace(pending.state, chunks=len(pending.chunks) - missing, failed=missing))
        if states:
            dimensions = self._writer.spec.dimensions
            stacked = np.stack(vectors) if vectors else np.empty((0, dimensions), np.float32)
            self._writer.replace(states, chunks, stacked)

    def _finish(self) -> None:
        self._writer.describe({**self._writer.about, **self._place.about(), "cut": self._cut_by})
        self._writer.publish()


def _text_digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
