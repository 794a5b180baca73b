"""The page of a map: points, what they stand for, and the plotting library, in one file that fetches nothing.

Writes text to an open file and knows no index. `page.html`, `page.css` and `page.js` beside it are what the page is
made of; data goes in as one block of JSON, which the page shows as text and never as markup.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from embatch._version import __version__
from embatch.frontends.map.folders import OTHER, folders_of, limited, ranked

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from embatch.frontends.map.reading import Spot
    from embatch.types import FloatArray

_HERE = Path(__file__).parent
_SLOT = re.compile(r"<!--(\w+)-->")


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """What the page says of the whole."""

    name: str
    """Of the index."""
    color: str
    """What points are coloured by at first: `folder`, `kind` or `language`."""
    model: str
    chunks: int
    """In the index, shown or not."""


def write_page(
    file: IO[str], spots: Sequence[Spot], points: FloatArray, *, heading: Heading, plotly: str
) -> None:
    """Write the page.

    Args:
        file: to write to, in UTF-8.
        spots: what the points stand for.
        points: `(n, 2)`, row `i` is where `spots[i]` lies.
        heading: see `Heading`.
        plotly: source of plotly.js.
    """
    parts: dict[str, Callable[[], str]] = {
        "title": lambda: escape(f"{heading.name}: map of the index"),
        "name": lambda: escape(heading.name),
        "style": lambda: _source("page.css"),
        "data": lambda: _as_script(page_data(spots, points, heading)),
        "plotly": lambda: _inline(plotly),
        "code": lambda: _source("page.js"),
        "about": lambda: escape(_about(heading)),
    }
    pieces = _SLOT.split(_source("page.html"))
    for at, piece in enumerate(pieces):
        file.write(parts[piece]() if at % 2 else piece)


def page_data(spots: Sequence[Spot], points: FloatArray, heading: Heading) -> dict[str, Any]:
    """What the page's script works on: columns, with repeated texts as numbers into a list."""
    paths, path_codes = _coded([spot.path for spot in spots])
    kinds, kind_codes = _coded([spot.kind for spot in spots])
    languages, language_codes = _coded([spot.language for spot in spots])
    by: dict[str, Sequence[str]] = {
        "folder": folders_of([spot.path for spot in spots]),
        "kind": limited([spot.kind for spot in spots]),
        "language": limited([spot.language for spot in spots]),
    }
    lines = np.array([(spot.start_line, spot.end_line) for spot in spots], np.int64).reshape(-1, 2)
    return {
        "count": len(spots),
        "chunks": heading.chunks,
        "model": heading.model,
        "color": heading.color,
        "x": _packed(points[:, 0], "<f4"),
        "y": _packed(points[:, 1], "<f4"),
        "paths": paths,
        "path": _packed(path_codes, "<u4"),
        "kinds": kinds,
        "kind": _packed(kind_codes, "<u4"),
        "languages": languages,
        "language": _packed(language_codes, "<u4"),
        "first": _packed(lines[:, 0], "<u4"),
        "last": _packed(lines[:, 1], "<u4"),
        "symbols": [spot.symbol for spot in spots],
        "excerpts": [spot.excerpt for spot in spots],
        "groupings": {name: _grouping(groups) for name, groups in by.items()},
    }


def _grouping(groups: Sequence[str]) -> Mapping[str, Any]:
    """Names of the groups, the largest first and `other` last, and each point's number among them."""
    names = ranked(groups, most=len(groups))
    if OTHER in groups:
        names.append(OTHER)
    numbers = {name: number for number, name in enumerate(names)}
    codes = np.array([numbers[group] for group in groups], np.uint8)
    return {"names": names, "of": _packed(codes, "u1"), "rest": names.index(OTHER) if OTHER in names else -1}


def _coded(values: Sequence[str]) -> tuple[list[str], npt.NDArray[np.int64]]:
    distinct = list(dict.fromkeys(values))
    numbers = {value: number for number, value in enumerate(distinct)}
    return distinct, np.array([numbers[value] for value in values], np.int64)


def _packed(values: npt.NDArray[Any], kind: str) -> str:
    """Base64 of numbers in this form of numpy's: a typed array in the page, at a fifth of its size as text."""
    return base64.b64encode(np.ascontiguousarray(values, dtype=kind).tobytes()).decode("ascii")


def _as_script(data: Mapping[str, Any]) -> str:
    """JSON that cannot end the element that it stands in, whatever texts it holds."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _inline(source: str) -> str:
    """A script that cannot end its own element."""
    return source.replace("</script", "<\\/script")


def _source(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _about(heading: Heading) -> str:
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    return f"Vectors by {heading.model}. Made by embatch {__version__} on {day}."
