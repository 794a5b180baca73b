"""From an index to its map: read, reduce, lay out, write. What `embatch map` and programs call.

It wires a store's reader, the projection and the page. The file appears whole or not at all.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, cast

from embatch.errors import MissingExtraError, OutputNotWritableError
from embatch.frontends.map.projection import layout
from embatch.frontends.map.reading import read_corpus
from embatch.search.places import is_url
from embatch.storage.files import make_folder, os_errors, sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embatch.frontends.map.reading import Scannable, Tell

Color = Literal["folder", "kind", "language"]

POINTS = 50_000
"""Chunks that a map shows unless more are asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A map that was made."""

    output: Path
    chunks: int
    """In the index."""
    points: int
    """Of these, on the map."""
    bytes: int
    seconds: float


def make_map(
    location: str,
    output: Path,
    *,
    color: Color = "folder",
    points: int = POINTS,
    seed: int = 0,
    tell: Tell = lambda *_: None,
) -> Made:
    """Draw the map of an index into one HTML file.

    Args:
        location: the index's folder, or the URL of a database.
        output: the file; one that is there is replaced.
        color: what points are coloured by at first; the page can switch.
        points: so many at most; of more chunks, a sample.
        seed: the same one draws the same map of the same state of an index.
        tell: is told what goes on, how much of it is done, and of how much.

    Raises:
        IndexNotFoundError: there is no index.
        SearchIndexError: it is empty, or cannot be read.
        MissingExtraError: the extra `map` is not installed.
        OutputNotWritableError: the file cannot be written.
        DiskFullError: no space is left.
    """
    from embatch.storage.vectors import open_reader

    began = time.perf_counter()
    plotly = plotly_js()
    with _replacing(output) as file:
        reader = cast("Scannable", open_reader(location))
        try:
            corpus = read_corpus(reader, most=points, seed=seed, tell=tell)
        finally:
            reader.close()
        places = layout(corpus.reduced, seed=seed, tell=tell)
        tell("writing", 0, 0)
        from embatch.frontends.map.page import Heading, write_page

        heading = Heading(name=name_of(location), color=color, model=corpus.spec.model, chunks=corpus.chunks)
        with os_errors(output):
            write_page(file, corpus.spots, places, heading=heading, plotly=plotly)
            file.flush()
            size = os.fstat(file.fileno()).st_size
    return Made(
        output=output,
        chunks=corpus.chunks,
        points=len(corpus.spots),
        bytes=size,
        seconds=time.perf_counter() - began,
    )


def name_of(location: str) -> str:
    """What people call an index: the folder that it is of, or the database, without a password."""
    if is_url(location):
        scheme, _, rest = location.partition("://")
        return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"
    folder = Path(location).absolute()
    return folder.parent.parent.name if folder.parent.name == ".embatch" else folder.name


def plotly_js() -> str:
    """The plotting library for the page, a few megabytes.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise MissingExtraError(
            f"a map needs libraries that are not installed ({error})",
            hint='Install them: pip install "embatch[map]"',
        ) from error
    source: str = get_plotlyjs()
    return source


@contextmanager
def _replacing(output: Path) -> Iterator[IO[str]]:
    """A file that takes the place of `output` when the block ends well, and leaves nothing when it does not."""
    if output.is_dir():
        raise OutputNotWritableError(f"cannot write {str(output)!r}: it is a folder")
    make_folder(output.absolute().parent, output)
    with os_errors(output):
        descriptor, name = tempfile.mkstemp(prefix=f".{output.name}.", dir=output.absolute().parent)
    written = Path(name)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123  # it is open already
            yield file
            with os_errors(output):
                file.flush()
                os.fsync(file.fileno())
        with os_errors(output):
            written.chmod(_mode(output))
            written.replace(output)
    except BaseException:
        with suppress(OSError):
            written.unlink()
        raise
    sync_folder(output.absolute().parent)


def _mode(output: Path) -> int:
    """Permissions of the file that is replaced, or those of any new one."""
    with suppress(OSError):
        return output.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
