"""A small index to draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.contract.chunk_stores.making import chunk, put

from embatch.types import ModelSpec

if TYPE_CHECKING:
    from pathlib import Path

    from embatch.chunks import Chunk

WICKED = "<img src=x onerror=\"document.title='owned'\"></script><script>document.title='owned'</script>"


def chunks() -> list[Chunk]:
    """Sixty chunks of three folders and two languages; two of them hold what must not become markup."""
    made = []
    for at in range(60):
        folder, language = (("src/web", "python"), ("src/core", "python"), ("docs", "markdown"))[at % 3]
        made.append(
            chunk(
                f"{folder}/file_{at % 10}.{'md' if language == 'markdown' else 'py'}",
                f"number {at} of the flock " + ("penguin" if at % 20 == 0 else "heron"),
                at=at,
                kind="section" if language == "markdown" else "function",
                language=language,
                symbol=f"Class.method_{at}",
            )
        )
    made.append(chunk(f"src/web/{WICKED}.py", WICKED, at=100, symbol=WICKED))
    return made


def write_index(folder: Path, rows: list[Chunk]) -> None:
    """An index of these chunks, as `embatch index` leaves it in a folder."""
    from embatch.storage.vectors import open_writer

    spec = ModelSpec(model="test/model", revision="1", dimensions=16, max_tokens=64)
    writer = open_writer(folder / ".embatch" / "index", spec=spec)
    if rows:
        put(writer, *rows)
    writer.publish()
    writer.close()


@pytest.fixture(scope="session")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an index of `chunks()`."""
    pytest.importorskip("lance")
    folder = tmp_path_factory.mktemp("indexed") / "project"
    write_index(folder, chunks())
    return folder
