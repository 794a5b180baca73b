"""Search over the index that a server serves: opened once, asked from threads, a bounded number at a time.

Between `/v1/search` and `frontends.searching.Index`. Questions become vectors by the served model that made the index,
so that they share batches with everything else; if no such model is served, by the index's own. It knows no HTTP.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from embatch.errors import ExpiredError, OverloadedError, SearchIndexError, UsageError
from embatch.frontends.opening import is_remote
from embatch.frontends.searching.model import remembered
from embatch.search.searching import Searcher, where_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from embatch.chunks import ChunkReader, Hit, Where
    from embatch.frontends.searching.index import Index
    from embatch.frontends.server.pool import ModelPool
    from embatch.frontends.server.settings import ServeSettings
    from embatch.search.searching import Mode
    from embatch.types import FloatArray

THREADS = min(4, os.cpu_count() or 1)
WAITING = 64
"""Questions that may be under way or wait for a thread; the next is refused."""
_RETRY_AFTER_S = 1.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is looked for, and where."""

    text: str
    k: int = 10
    mode: Mode = "hybrid"
    path: tuple[str, ...] = ()
    language: tuple[str, ...] = ()
    kind: tuple[str, ...] = ()

    def where(self) -> Where:
        """The filter.

        Raises:
            UsageError: there is no such kind, or a pattern means nothing.
        """
        from embatch.decisions.globs import path_rules

        where = where_of(self.path, self.language, self.kind)
        path_rules(where.paths)
        return where


class Searching:
    """An index that many ask at once. To be used from one event loop.

    Args:
        settings: `index` is a folder or a database's URL, opened when first asked.
        pool: the served models.
    """

    def __init__(self, settings: ServeSettings, pool: ModelPool) -> None:
        assert settings.index is not None, "there is nothing to search without an index"
        self._settings = settings
        self._location = settings.index
        self._pool = pool
        self._index: Index | None = None
        self._made_with = ""
        self._opening = asyncio.Lock()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="embatch-search")
        self._under_way = 0
        self._unfit: set[tuple[str, str]] = set()

    @property
    def name(self) -> str:
        """What the index is called: the name of its folder, or of its database; never a password."""
        return index_name(self._location)

    async def ask(self, question: Question) -> list[Hit]:
        """The best places, best first.

        Raises:
            OverloadedError: too many questions are under way.
            ExpiredError: it took longer than a request may.
            IndexNotFoundError: there is no index yet.
            UsageError: an empty question, or a filter that means nothing.
            EmbatchError: the index or the model failed.
        """
        if not question.text.strip():
            raise UsageError("An empty question finds nothing.", hint="Say in a few words what to look for.")
        where = question.where()
        if self._under_way >= WAITING:
            raise OverloadedError(f"{WAITING} questions are under way already.", retry_after_s=_RETRY_AFTER_S)
        self._under_way += 1
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                return await self._find(question, where)
        except TimeoutError as error:
            raise ExpiredError(
                f"The search took longer than {self._settings.timeout_s:g} s.",
                hint="Ask again, or ask with filters for fewer places.",
            ) from error
        finally:
            self._under_way -= 1

    def close(self) -> None:
        """Let go of the index. Questions under way end first; afterwards none can be asked."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        if self._index is not None:
            self._index.close()
            self._index = None

    # --- inside -----------------------------------------------------------------------------------------------

    async def _find(self, question: Question, where: Where) -> list[Hit]:
        index, reader = await self._opened()
        vectors: FloatArray | None = None
        if question.mode != "text":
            vectors = await self._vectors(question.text, index, reader)

        def look() -> list[Hit]:
            found = Searcher(reader, lambda _: _given(vectors))
            return found.query([question.text], k=question.k, mode=question.mode, where=where)[0]

        return await self._in_thread(look)

    async def _opened(self) -> tuple[Index, ChunkReader]:
        """The index, and what was published last in it. Opened anew when another model made it since."""
        async with self._opening:
            if self._index is not None:
                index = self._index
                try:
                    reader = await self._in_thread(lambda: index.reader)
                except SearchIndexError:
                    self._index = None  # it may be made anew
                    raise
                if reader.spec.fingerprint == self._made_with:
                    return index, reader
                # Not closed: questions under way still read from it, and the last of them lets go of it.
            fresh = self._index = await self._in_thread(lambda: open_index(self._location))
            reader = await self._in_thread(lambda: fresh.reader)
            self._made_with = reader.spec.fingerprint
            return fresh, reader

    async def _vectors(self, text: str, index: Index, reader: ChunkReader) -> FloatArray:
        """The question's vector `(1, dim)`."""
        name = await self._served(reader)
        if name is not None:
            async with self._pool.using(name) as model:
                return np.asarray(await model.embed_query(text), np.float32).reshape(1, -1)
        if is_remote(reader.spec.model) or is_remote(remembered(reader.about).get("model")):
            raise UsageError(
                f"The index was made with {reader.spec.model}, which this server does not serve.",
                hint='Serve that model too, so that its costs are counted, or search with mode "text".',
            )
        return await self._in_thread(lambda: index.model.queries([text]))

    async def _served(self, reader: ChunkReader) -> str | None:
        """The name of the served model whose vectors compare with those of the index; None if there is none."""
        fingerprint = reader.spec.fingerprint
        for name, model in self._pool.open_models().items():
            if model.embedder.spec.fingerprint == fingerprint:
                return name
        made_by = _absolute(remembered(reader.about).get("model"))
        for served in self._settings.models:
            known = (served.name, fingerprint)
            if known in self._unfit or _absolute(served.model) != made_by:
                continue
            async with self._pool.using(served.name) as model:
                if model.embedder.spec.fingerprint == fingerprint:
                    return served.name
            self._unfit.add(known)  # the same model otherwise: another precision, fewer dimensions
        return None

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def open_index(location: str) -> Index:
    """An index that exists.

    Raises:
        IndexNotFoundError: there is none.
        IndexBrokenError: it cannot be read.
    """
    from embatch.frontends.searching.index import Index

    return Index.open(location, create=False)


def index_name(location: str) -> str:
    """What an index is called in public.

    >>> index_name("/home/me/project/.embatch/index"), index_name("postgresql://me:secret@host/code?table=docs")
    ('project', 'code')
    """
    if "://" in location:
        return location.partition("://")[2].partition("?")[0].rpartition("/")[2] or "index"
    folder = Path(location).absolute()
    if folder.parts[-2:] == (".embatch", "index"):
        folder = folder.parent.parent
    return folder.name or "index"


def _absolute(model: Any) -> Any:
    """A model's folder as an index remembers it; names as they are."""
    if isinstance(model, str) and not is_remote(model) and Path(model).expanduser().is_dir():
        return str(Path(model).expanduser().absolute())
    return model


def _given(vectors: FloatArray | None) -> FloatArray:
    assert vectors is not None, "a search by meaning has the question's vector"
    return vectors
