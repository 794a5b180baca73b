"""Chunks of every kind become rows with the right text and key."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from embatch.chunks import Chunk
from embatch.errors import EmbatchError, NotTextError, UsageError
from embatch.frontends.processor.intake import Rows, as_row
from embatch.types import BadItem, Item

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

CHUNK = Chunk(
    path="a/b.py", text="  return 1\n", start=0, end=11, start_line=3, end_line=4, kind="function",
    language="python", context="def f():",
)  # fmt: skip  # one line a group


class Touchy:
    """An object whose fields raise."""

    @property
    def key(self) -> str:
        """Nothing."""
        raise RuntimeError("no key")

    text = "touchy"


@pytest.mark.parametrize(
    ("chunk", "key", "text"),
    [
        ("text", "7", "text"),
        (Item("k", "text", "s"), "k", "text"),
        (CHUNK, "a/b.py:3-4", "def f():\nreturn 1"),
        ({"text": "t", "id": 5}, "5", "t"),
        ({"content": "c", "path": "x.py", "start_line": 1, "end_line": 9}, "x.py:1-9", "c"),
        ({"content": "c", "file_path": "x.py", "line_start": 1}, "x.py:1", "c"),
        (SimpleNamespace(text="t", path="x.py"), "x.py", "t"),
        (SimpleNamespace(content="c", key="k", id="other"), "k", "c"),
        pytest.param(Touchy(), "7", "touchy", id="touchy"),
    ],
    ids=str,
)
def test_chunks(chunk: object, key: str, text: str) -> None:
    """Text and key are found in strings, Items, Chunks, dicts and objects."""
    row = as_row(chunk, 7)
    assert isinstance(row, Item)
    assert (row.key, row.text) == (key, text)


@pytest.mark.parametrize("chunk", [None, 5, {}, {"text": None}, pytest.param(object(), id="object")], ids=str)
def test_chunks_without_text(chunk: object) -> None:
    """What has no text keeps its place, as a failure."""
    row = as_row(chunk, 7)
    assert isinstance(row, BadItem)
    assert (row.key, type(row.error)) == ("7", NotTextError)


@pytest.mark.parametrize("chunks", ["text", b"text", {"text": "t"}, CHUNK, 5, None], ids=str)
def test_one_chunk_is_no_collection(chunks: object) -> None:
    """A single chunk is refused by name instead of being read letter by letter."""

    async def go() -> None:
        with pytest.raises(UsageError, match="chunks are a list"):
            Rows(chunks, asyncio.get_running_loop())  # type: ignore[arg-type]  # that is the point

    asyncio.run(go())


def test_portions_of_a_list() -> None:
    """A list knows its length; portions follow each other, and chunks come back in their order."""

    async def go() -> None:
        rows = Rows(["a", "b", "c"], asyncio.get_running_loop())
        assert (rows.total, rows.more()) == (3, True)
        assert [row.key for row in rows.portion(2)] == ["0", "1"]
        assert [row.key for row in rows.portion(None)] == ["2"]
        assert not rows.more()
        assert [rows.finished() for _ in range(3)] == ["a", "b", "c"]

    asyncio.run(go())


async def stream(fail: EmbatchError | None = None) -> AsyncIterator[str]:
    """Three chunks, and perhaps a failure."""
    for text in "abc":
        await asyncio.sleep(0)
        yield text
    if fail is not None:
        raise fail


@pytest.mark.parametrize("fail", [None, EmbatchError("broken")], ids=str)
def test_async_iterables(fail: EmbatchError | None) -> None:
    """They are read in the loop from the engine's thread; what they raise is kept for later."""

    async def go() -> Rows:
        rows = Rows(stream(fail), asyncio.get_running_loop())
        assert rows.total is None
        keys = await asyncio.to_thread(lambda: [row.key for row in rows.portion(None)])
        assert keys == ["0", "1", "2"]
        return rows

    rows = asyncio.run(go())
    assert (rows.total, rows.error) == (3, fail)


def test_stopping_takes_no_more_rows() -> None:
    """Rows end where they are, whatever is left of the source."""

    def endless() -> Iterator[str]:
        while True:
            yield "again"

    async def go() -> None:
        rows = Rows(endless(), asyncio.get_running_loop())
        portion = rows.portion(None)
        next(portion)
        rows.stop()
        assert list(portion) == []
        assert not rows.more()

    asyncio.run(go())
