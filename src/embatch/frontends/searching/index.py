"""`Index`: chunks of a folder, a database of texts or both, kept up to date and searched.

It wires a store, a model, the cutting of documents and the search together. Everything that takes long reports as it
goes; nothing is opened before it is needed.
"""

from __future__ import annotations

import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from embatch.chunks import Document, Where
from embatch.errors import IndexBrokenError, IndexNotFoundError, UsageError
from embatch.frontends.searching.model import IndexModel, remembered
from embatch.frontends.searching.workshop import open_workshop
from embatch.search.chunks import cut_version
from embatch.search.places import FOLDER, Place, is_url, root_of
from embatch.search.searching import Searcher, where_of
from embatch.search.sync import Sync
from embatch.storage.vectors import open_reader, open_writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType

    from embatch.chunks import ChunkReader, ChunkWriter, Hit, StoreStats
    from embatch.frontends.embedder import Embedder
    from embatch.frontends.hosts import AnyPipeline
    from embatch.frontends.searching.workshop import OpenWorkshop
    from embatch.search.report import SyncReport
    from embatch.search.searching import Mode
    from embatch.seen_lanes import RunObserver
    from embatch.types import Report

CHUNK_TOKENS = 512
"""Most tokens of a chunk, unless the model takes fewer or something else is asked for: larger ones find less well."""


class Index:
    """An index, to be filled and searched. Thread-safe; a context manager. Made by `open`.

    Queries see what was published last, and never half of a sync, whoever runs it. One process changes an index at a
    time.
    """

    def __init__(
        self,
        location: str,
        root: Path,
        model: IndexModel,
        *,
        reader: ChunkReader | None,
        chunk_tokens: int | None,
        rebuild: bool,
    ) -> None:
        self.location = location
        """A folder, or the URL of a database."""
        self.root = root
        """The folder that its paths are relative to."""
        self.command: Sequence[str] = ()
        """Arguments that go on with a sync, for `embatch runs resume`; set by the command line."""
        self.observer: RunObserver | None = None
        """Is told of what the engine does in a sync; set by the command line."""
        self._model = model
        self._reader = reader
        self._chunk_tokens = chunk_tokens
        self._rebuild = rebuild
        self._lock = threading.Lock()
        self._running: Sync | None = None
        self._shop: OpenWorkshop | None = None
        self.last_report: SyncReport | None = None
        """Of the last sync or add; None before one has ended."""
        self.last_run: Report | None = None
        """What the engine did in it; None if nothing had to be embedded."""

    @classmethod
    def open(
        cls,
        path: str | Path = ".",
        *,
        model: str | None = None,
        embedder: Embedder | None = None,
        create: bool = True,
        rebuild: bool = False,
        chunk_tokens: int | None = None,
        root: str | Path | None = None,
        **options: Any,
    ) -> Self:
        """Open an index, or begin one.

        Args:
            path: the folder that has it in its `.embatch/index`, or will; the index's own folder; or the URL of a
                PostgreSQL database with pgvector.
            model: as for `Embedder`; that of the index, if it has one, else `minilm`.
            embedder: an open one, instead of a model's name; the caller's own.
            create: whether there need not be one yet.
            rebuild: start over: the first sync or add forgets what is there. Queries find that until then.
            chunk_tokens: most tokens of a chunk; 512, or as many as the model takes.
            root: the folder that paths are relative to, for an index that lies elsewhere.
            **options: more arguments of `Embedder`.

        Raises:
            IndexNotFoundError: there is none, and `create` is false.
            IndexMismatchError: it was made with another model.
            IndexBrokenError: its files cannot be read.
        """
        location = locate(str(path))
        reader = _open_reader(location, create=create or rebuild, broken_is_none=rebuild)
        asked = {**options, **({} if model is None else {"model": model})}
        about: Mapping[str, str] = {} if reader is None else reader.about
        known = {} if rebuild else remembered(about)
        brought = (
            {} if embedder is None else {"model": embedder.spec.model, "dimensions": embedder.dimensions}
        )
        index_model = IndexModel({"model": "minilm", **brought, **known, **_given(asked)}, embedder)
        if reader is not None and not rebuild:
            index_model.expect(reader.spec)
            if any(known.get(name) != value for name, value in _given(asked).items() if name in known):
                index_model.get()  # another model is an error now, not after a long walk
        root = root_of(location, about) if root is None else Path(root).absolute()
        if chunk_tokens is None and not rebuild and "chunk_tokens" in about:
            chunk_tokens = int(about["chunk_tokens"])
        return cls(location, root, index_model, reader=reader, chunk_tokens=chunk_tokens, rebuild=rebuild)

    # --- filling ----------------------------------------------------------------------------------------------

    def sync(self, *paths: str | Path) -> SyncReport:
        """Bring the index in step with folders and files: what is new or changed is embedded, what is gone is dropped.

        What does not lie below `paths` stays as it is. A killed or failed sync is gone on with by the next one.

        Args:
            *paths: the index's root folder if none is given.

        Raises:
            SourceError: a path does not exist.
            IndexBusyError: another process is changing the index.
            EmbatchError: the model failed as a whole.
        """
        listed = [str(path) for path in paths] or [str(self.root)]
        return self._write(lambda sync: sync.run(listed))

    def add(self, texts: Iterable[Document] | Mapping[str, str], *, language: str = "text") -> SyncReport:
        """Index texts that are no files, each under a name of its own; the same name replaces what it had.

        Args:
            texts: documents, or texts by name.
            language: of texts that are given by name.
        """
        documents = (
            [Document(path=name, text=text, language=language) for name, text in texts.items()]
            if hasattr(texts, "items")
            else list(texts)
        )
        names = {document.path for document in documents}
        if len(names) < len(documents):
            raise UsageError("Two of the texts have the same name.", hint="Give each text a name of its own.")
        for document in documents:
            if not isinstance(document.text, str):
                raise UsageError(f"{document.path!r} is no text but {type(document.text).__name__}.")
        return self._write(lambda sync: sync.add(documents))

    def delete(self, *names: str) -> int:
        """Drop files or texts by the path or name that the index calls them by; returns how many it had."""
        with self._writer() as writer:
            there = writer.files()
            found = [name for name in names if name in there]
            if found:
                writer.remove(found)
                writer.publish()
        self._reopen()
        return len(found)

    # --- finding ----------------------------------------------------------------------------------------------

    def query(
        self,
        text: str,
        *,
        k: int = 10,
        mode: Mode = "hybrid",
        path: str | Sequence[str] = (),
        language: str | Sequence[str] = (),
        kind: str | Sequence[str] = (),
    ) -> list[Hit]:
        """The `k` best chunks for a question, best first.

        Args:
            text: in any words.
            k: how many.
            mode: `hybrid`, `vector` or `text`.
            path: patterns of paths, such as `src/**/*.py`; `!tests/**` leaves out.
            language: only these.
            kind: only these: `code`, `prose`, or finer ones such as `function` or `section`.

        Raises:
            UsageError: the question is empty.
            IndexNotFoundError: nothing has been published yet.
        """
        return self.query_many([text], k=k, mode=mode, path=path, language=language, kind=kind)[0]

    def query_many(
        self,
        texts: Sequence[str],
        *,
        k: int = 10,
        mode: Mode = "hybrid",
        path: str | Sequence[str] = (),
        language: str | Sequence[str] = (),
        kind: str | Sequence[str] = (),
    ) -> list[list[Hit]]:
        """The same for many questions, embedded together."""
        where = where_of(_several(path), _several(language), _several(kind))
        return self._searcher().query(texts, k=k, mode=mode, where=where)

    def similar(self, path: str, line: int, *, k: int = 10, where: Where | None = None) -> list[Hit]:
        """The `k` chunks nearest to the one that holds a line of a file."""
        return self._searcher().similar(path, line, k=k, where=where)

    def stats(self) -> StoreStats:
        """How much is in it, as last published."""
        return self.reader.stats()

    @property
    def reader(self) -> ChunkReader:
        """The store, as last published.

        Raises:
            IndexNotFoundError: there is none yet.
        """
        with self._lock:
            if self._reader is None:
                self._reader = open_reader(self.location)
            else:
                self._reader.refresh()
            return self._reader

    @property
    def model(self) -> IndexModel:
        """What embeds."""
        return self._model

    @property
    def place(self) -> Place:
        """Where it lies, and what files are called in it."""
        return Place(self.location, self.root)

    @property
    def progress(self) -> SyncReport | None:
        """How far a sync in another thread is; None if none runs."""
        running = self._running
        return None if running is None else running.report

    @property
    def run(self) -> AnyPipeline | None:
        """The engine's run of a sync in another thread; None while nothing is embedded."""
        shop = self._shop
        return None if shop is None else shop.pipeline

    def close(self) -> None:
        """Release store and model. Closing twice is allowed."""
        with self._lock:
            if self._reader is not None:
                self._reader.close()
                self._reader = None
        self._model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- inside -----------------------------------------------------------------------------------------------

    def _searcher(self) -> Searcher:
        return Searcher(self.reader, self._model.queries)

    def _writer(self) -> closing[ChunkWriter]:
        """The store to write to. An index that exists needs no model to be opened."""
        with self._lock:
            spec = None if self._reader is None or self._rebuild else self._reader.spec
        if spec is None:
            spec = self._model.get().spec
        writer = open_writer(self.location, spec=spec, fresh=self._rebuild)
        self._leave_out_of_git()
        return closing(writer)

    def _leave_out_of_git(self) -> None:
        """Nobody wants to commit an index by mistake."""
        if is_url(self.location) or Path(self.location) != self.root / FOLDER:
            return
        ignored = self.root / FOLDER.parts[0] / ".gitignore"
        with suppress(OSError):  # a convenience, no more
            if not ignored.exists():
                ignored.write_text("*\n", "utf-8")

    def _write(self, job: Callable[[Sync], SyncReport]) -> SyncReport:
        with (
            self._writer() as writer,
            open_workshop(self.location, self._model, self.command, self.observer) as shop,
        ):
            self._model.expect(writer.spec)
            tokens = min(self._chunk_tokens or CHUNK_TOKENS, writer.spec.max_tokens)
            about = {**writer.about, "chunk_tokens": str(tokens)}
            if self._model.opened or "model" not in about:
                about |= self._model.about()
            writer.describe(about)
            sync = Sync(writer, self.place, lambda: shop.open(tokens), cut_by=cut_version(tokens))
            self._running, self._shop = sync, shop
            try:
                report = job(sync)
            finally:
                self._running = self._shop = None
            shop.finish()
        self.last_report, self.last_run = report, shop.report
        if shop.report is not None:  # repeats, and what a killed sync had in its journal, were not made now
            taken = shop.report.duplicates + shop.report.cached
            report.embedded, report.reused = report.embedded - taken, report.reused + taken
        self._rebuild = False
        self._reopen()
        return report

    def _reopen(self) -> None:
        with self._lock, suppress(IndexNotFoundError):
            if self._reader is None:
                self._reader = open_reader(self.location)
            else:
                self._reader.refresh()


def _open_reader(location: str, *, create: bool, broken_is_none: bool) -> ChunkReader | None:
    try:
        return open_reader(location)
    except IndexNotFoundError:
        if not create:
            raise
    except IndexBrokenError:
        if not broken_is_none:
            raise
    return None


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _several(value: str | Sequence[str]) -> Sequence[str]:
    return (value,) if isinstance(value, str) else value


def locate(path: str) -> str:
    """The location of the index that a folder has or is; a URL as it is."""
    if is_url(path):
        return path
    folder = Path(path).absolute()
    if folder.parts[-2:] == FOLDER.parts or (folder / "files.db").exists():
        return str(folder)
    return str(folder / FOLDER)
