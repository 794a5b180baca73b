"""A Jupyter notebook as one document a cell, outputs left out.

Used by `reading`. Reads the formats 3 and 4 as plain JSON. The lines of a cell are those of the file, where the file
has one line of JSON for each, as Jupyter writes it; else those where its cell begins.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from embatch.chunks import Document
from embatch.errors import SourceFormatError
from embatch.search.chunks.decoding import as_unicode

if TYPE_CHECKING:
    from collections.abc import Iterator

_KERNELS = {"c++": "cpp", "c#": "c_sharp", ".net (c#)": "c_sharp", "csharp": "c_sharp", "node": "javascript"}
_SHELLS = frozenset(("bash", "sh", "script", "shell"))
_MARKUPS = {"html": "html", "markdown": "markdown", "svg": "text", "latex": "text", "writefile": "text"}
_OTHERS = frozenset(("javascript", "js", "ruby", "perl", "sql", "cpp", "rust", "go"))


def read_notebook(path: str, text: str) -> tuple[list[Document], SourceFormatError | None]:
    """The cells that hold something, in order, or what is wrong with the file."""
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError) as error:
        return [], SourceFormatError(
            f"{path!r} is no notebook: {str(error) or 'nested too deep'}.",
            hint="Open and save it with Jupyter, or rename it if it is something else.",
        )
    if not isinstance(notebook, dict):
        return [], SourceFormatError(f"{path!r} is no notebook: it holds no JSON object.")
    kernel = _language(notebook)
    lines = _Lines(text)
    documents = []
    for number, cell in enumerate(_cells(notebook), start=1):
        source = _source(cell)
        first_line = lines.find(source)
        content, language = _content(cell, source, kernel)
        if content and not content.isspace():
            documents.append(
                Document(
                    path=path,
                    text=content,
                    language=language,
                    first_line=first_line,
                    part=f"cell {number}",
                )
            )
    return documents, None


def _cells(notebook: dict[str, Any]) -> Iterator[dict[str, Any]]:
    sheets = notebook.get("worksheets")
    holders = [notebook, *(sheets if isinstance(sheets, list) else [])]
    for holder in holders:
        cells = holder.get("cells") if isinstance(holder, dict) else None
        yield from (cell for cell in cells or () if isinstance(cell, dict))


def _source(cell: dict[str, Any]) -> str:
    """What was typed; format 3 calls it `input` in code."""
    found = cell.get("source", cell.get("input", ""))
    if isinstance(found, list):
        found = "".join(line for line in found if isinstance(line, str))
    return as_unicode(found) if isinstance(found, str) else ""


def _content(cell: dict[str, Any], source: str, kernel: str) -> tuple[str, str]:
    """Text and language of a cell."""
    kind = cell.get("cell_type")
    if kind == "code":
        language = cell.get("language")
        return source, _magic(source, _named(language) if isinstance(language, str) else kernel)
    if kind == "heading":  # of format 3
        level = cell.get("level")
        return f"{'#' * (level if isinstance(level, int) and 1 <= level <= 6 else 1)} {source}", "markdown"
    return source, "markdown" if kind == "markdown" else "html" if kind == "html" else "text"


def _language(notebook: dict[str, Any]) -> str:
    """The kernel's language; Python where the file says nothing."""
    metadata = notebook.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    for part, field in (("language_info", "name"), ("kernelspec", "language")):
        found = metadata.get(part)
        name = found.get(field) if isinstance(found, dict) else None
        if isinstance(name, str) and name:
            return _named(name)
    return "python"


def _named(language: str) -> str:
    """A kernel's name for a language in our words: `ipython3` is `python`."""
    name = language.strip().lower()
    plain = name.removeprefix("i").rstrip("0123456789.") if name.startswith("ipython") else name
    return _KERNELS.get(plain, plain.replace(" ", "_"))


def _magic(source: str, language: str) -> str:
    """The language of a cell that `%%bash` or the like gives to another interpreter."""
    head = source.lstrip()
    if not head.startswith("%%"):
        return language
    name = head[2:].split(maxsplit=1)[0].lower() if head[2:].strip() else ""
    if name in _SHELLS:
        return "bash"
    if name in _OTHERS:
        return "javascript" if name == "js" else name
    return _MARKUPS.get(name, language)


class _Lines:
    """Finds the cells' lines in the file, from top to bottom."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1

    def find(self, source: str) -> int:
        """The line of the file in which a cell's source begins; the last one found if it is nowhere."""
        first, newline, _ = source.partition("\n")
        if not first:
            return self._line
        for plain in (False, True):
            needle = json.dumps(first + newline, ensure_ascii=plain)
            at = self._text.find(needle[:-1], self._at)  # the closing quote: the source may be one string
            if at >= 0:
                self._line += self._text.count("\n", self._at, at)
                self._at = at
                break
        return self._line
