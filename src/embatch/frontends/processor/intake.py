"""From what callers have as chunks to rows for the engine: strings, Items, Chunks, objects and dicts with a text.

The first step of chunks → rows → engine → results. Rows are taken one at a time, from iterables and async iterables of
any length; nothing is held but the chunks whose results are not there yet. It judges no text: the engine does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Iterable, Mapping, Sized
from typing import TYPE_CHECKING, Any

from embatch.chunks import Chunk
from embatch.errors import NotTextError, UsageError
from embatch.types import BadItem, Item

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import AsyncIterator, Iterator

Chunks = Iterable[object] | AsyncIterable[object]

_TEXTS = ("text", "content")
_KEYS = ("key", "id", "chunk_id")
_PATHS = ("path", "file_path", "source")
_LINES = (("start_line", "end_line"), ("line_start", "line_end"))


def as_row(chunk: object, row: int) -> Item | BadItem:
    """A chunk as a row: its text and what names it.

    The text is the chunk itself, or its `text` or `content`; of an `embatch.chunks.Chunk` what the model is given. The
    key is its `key` or `id`, or its path and lines, or its position.
    """
    if isinstance(chunk, Item | BadItem):
        return chunk
    if isinstance(chunk, str):
        return Item(str(row), chunk)
    if isinstance(chunk, Chunk):
        return Item(f"{chunk.path}:{chunk.start_line}-{chunk.end_line}", chunk.embedded, chunk.path)
    key = _key(chunk) or str(row)
    for name in _TEXTS:
        text = _get(chunk, name)
        if text is not None:
            return Item(key, text)
    kind = type(chunk).__name__
    return BadItem(key, NotTextError(f"a chunk of type {kind} has no text: neither `text` nor `content`"))


def _key(chunk: object) -> str:
    for name in _KEYS:
        if isinstance(key := _get(chunk, name), str | int) and str(key):
            return str(key)
    path = next((str(path) for name in _PATHS if (path := _get(chunk, name))), "")
    for first, last in _LINES:
        if path and (start := _get(chunk, first)) is not None:
            end = _get(chunk, last)
            return f"{path}:{start}" if end is None else f"{path}:{start}-{end}"
    return path


def _get(chunk: object, name: str) -> Any:
    """A field of a mapping or an attribute. Foreign code may run here, and raise: then there is none."""
    try:
        return chunk.get(name) if isinstance(chunk, Mapping) else getattr(chunk, name, None)
    except Exception:  # noqa: BLE001  # see above: one chunk must not end the run
        return None


class Rows:
    """Chunks as rows, taken in portions by the thread that runs the engine.

    Args:
        chunks: any iterable or async iterable.
        loop: the caller's, which async iterables are read in.

    Raises:
        UsageError: what was given is one chunk, or none at all.
    """

    def __init__(self, chunks: Chunks, loop: asyncio.AbstractEventLoop) -> None:
        if isinstance(chunks, str | bytes | Mapping) or not isinstance(chunks, Iterable | AsyncIterable):
            raise UsageError(
                f"chunks are a list or another iterable of chunks, not one value of type {type(chunks).__name__}",
                hint="Write [chunk] for a single one.",
            )
        self.total: int | None = len(chunks) if isinstance(chunks, Sized) else None
        """Chunks in all; None while it is not known."""
        self.error: BaseException | None = None
        """What the iterable raised, if it did: the rows before it count all the same."""
        self._loop = loop
        self._source = self._pulled(aiter(chunks)) if isinstance(chunks, AsyncIterable) else iter(chunks)
        self._future: concurrent.futures.Future[object] | None = None
        self.stopped = False
        """Whether no more rows may be taken."""
        self._ended = False
        self._read = 0
        self._next: list[object] = []
        self._open: deque[object] = deque()  # chunks read whose results are not there yet

    @property
    def read(self) -> int:
        """Rows taken so far."""
        return self._read

    def more(self) -> bool:
        """Whether there is another row. May wait for the source."""
        if not self._next and not self._ended and not self.stopped:
            try:
                self._next.append(next(self._source))
            except StopIteration:
                self._ended = True
            except BaseException as error:  # noqa: BLE001  # raised again once the rows before it are done
                self._ended = True
                self.error = error
        if self._ended and not self._next:
            self.total = self._read
        return bool(self._next) and not self.stopped

    def portion(self, most: int | None) -> Iterator[Item | BadItem]:
        """The next rows, at most so many."""
        taken = 0
        while (most is None or taken < most) and self.more():
            chunk = self._next.pop()
            self._open.append(chunk)
            row = as_row(chunk, self._read)
            self._read += 1
            taken += 1
            yield row

    def finished(self) -> object:
        """The chunk that the next result is of."""
        return self._open.popleft()

    def stop(self) -> None:
        """Take no more rows. From any thread."""
        self.stopped = True
        if self._future is not None:
            self._future.cancel()

    def _pulled(self, chunks: AsyncIterator[object]) -> Iterator[object]:
        async def following() -> object:
            return await anext(chunks)

        while not self.stopped:
            self._future = asyncio.run_coroutine_threadsafe(following(), self._loop)
            try:
                yield self._future.result()
            except StopAsyncIteration:
                return
