"""What a sync reads, cuts and embeds with: the room's own cutting, the index's model, and a journal beside the index.

Vectors are stored in the journal a quarter of a second after they were made, and by the sync in the store when there
are enough of them: a killed sync embeds nothing twice, and a provider's jobs are found again.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from embatch.frontends.hosts import LocalHost
from embatch.search.chunks import Chunker, read_file
from embatch.search.intake import Workshop
from embatch.search.places import is_url
from embatch.storage.cache import VectorCache
from embatch.storage.files import os_errors
from embatch.storage.folders import user_folder

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from embatch.frontends.embedder import Embedder
    from embatch.frontends.hosts import AnyPipeline
    from embatch.frontends.searching.model import IndexModel
    from embatch.seen_lanes import RunObserver
    from embatch.storage.ledger import Ledger
    from embatch.types import Block, Item, Report


class OpenWorkshop:
    """Opens the model and the journal when the first file is read.

    Args:
        folder: where the journal lies.
        model: of the index.
        command: arguments that go on with the run, for `embatch runs resume`.
        observer: is told of what happens in the engine's run.
    """

    def __init__(
        self,
        folder: Path,
        model: IndexModel,
        command: Sequence[str] = (),
        observer: RunObserver | None = None,
    ) -> None:
        self._observer = observer
        self._folder = folder
        self._model = model
        self._command = list(command)
        self._journal: VectorCache | None = None
        self._ledger: Ledger | None = None
        self._pipeline: AnyPipeline | None = None
        self._embedder: Embedder | None = None

    @property
    def report(self) -> Report | None:
        """What the engine did; None if nothing was embedded."""
        return None if self._pipeline is None else self._pipeline.report

    @property
    def pipeline(self) -> AnyPipeline | None:
        """The run of the engine, for its progress."""
        return self._pipeline

    def open(self, max_tokens: int) -> Workshop:
        """What turns files into vectors, in chunks of at most so many tokens.

        Raises:
            ModelError: the model cannot be opened, or is not that of the index.
        """
        embedder = self._embedder = self._model.get()
        spec = embedder.spec

        def count(texts: Sequence[str]) -> Sequence[int]:
            # One more than was kept marks a text as too long; how much too long does not matter for cutting.
            tokenized = embedder.backend.tokenize(texts, prompt=spec.prompt)
            lengths: list[int] = (tokenized.lengths + tokenized.truncated).tolist()
            return lengths

        return Workshop(
            read=read_file, cut=Chunker(max_tokens=max_tokens, count=count).cut, embed=self._embed
        )

    def finish(self) -> None:
        """Drop the journal: everything is in the store, and published."""
        self._close(whole=True)

    def close(self) -> None:
        """Keep the journal for the next sync. After `finish` it does nothing."""
        self._close(whole=False)

    def _embed(self, rows: Iterable[Item]) -> Generator[Block]:
        assert self._embedder is not None
        spec = self._embedder.spec
        self._journal = VectorCache(
            self._folder / "journal.db", fingerprint=spec.fingerprint, dimensions=spec.dimensions
        )
        rows_at_once = None
        host = self._embedder.host
        if not isinstance(host, LocalHost):
            from embatch.frontends.remote_host import STREAMED_ROWS, open_ledger

            rows_at_once = STREAMED_ROWS
            self._ledger = open_ledger(
                self._folder / "index", spec, command=self._command, base_url=host.backend.base_url
            )
        self._pipeline = self._embedder.pipeline(
            store=self._journal,
            ledger=self._ledger,
            rows_at_once=rows_at_once,
            observer=self._observer,
        )
        blocks: Iterator[Block] = self._pipeline.run(rows)
        yield from blocks
        self._embedder.keep_profile(self._pipeline.report)

    def _close(self, *, whole: bool) -> None:
        ledger, self._ledger = self._ledger, None
        if ledger is not None:
            from embatch.storage.runs import default_registry

            lanes = None if self.report is None else self.report.lanes
            default_registry().end(
                ledger.run_id, "done" if whole else "stopped", lanes.to_dict() if lanes else {}
            )
            if whole:
                ledger.finish()
            else:
                ledger.close()
        journal, self._journal = self._journal, None
        if journal is not None:
            journal.close()
        if whole:
            _drop(self._folder / "journal.db")


@contextmanager
def open_workshop(
    location: str, model: IndexModel, command: Sequence[str] = (), observer: RunObserver | None = None
) -> Iterator[OpenWorkshop]:
    """A workshop whose journal lies with the index, or in the user's folder if that is a database."""
    shop = OpenWorkshop(_folder(location), model, command, observer)
    try:
        yield shop
    finally:
        shop.close()


def _folder(location: str) -> Path:
    if not is_url(location):
        return Path(location)
    return user_folder() / "indexes" / hashlib.blake2b(location.encode(), digest_size=8).hexdigest()


def _drop(path: Path) -> None:
    with os_errors(path):
        for side in ("", "-wal", "-shm"):
            path.with_name(path.name + side).unlink(missing_ok=True)
