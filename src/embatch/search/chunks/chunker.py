"""Documents as chunks, each document cut in the way of its language.

The door of *documents → chunks*: code goes to `code`, prose to `prose`, everything else to `lines`, and so does code
whose grammar is not installed. The cells of a notebook are cut together, since headings reach over them.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from embatch.chunks import CODE_KINDS
from embatch.decisions.units import Limits
from embatch.errors import MissingExtraError
from embatch.search.chunks.code import cut_code
from embatch.search.chunks.languages import GRAMMARS, PROSE
from embatch.search.chunks.lines import cut_lines
from embatch.search.chunks.prose import cut_prose, headings_after
from embatch.search.chunks.sections import contexts_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.chunks import Chunk, Document
    from embatch.decisions.units import Count
    from embatch.search.chunks.sections import Heading

_WAY = 2
"""Raise it with every change that gives other chunks for the same files, reading included."""

_CUTTERS = (
    "tree-sitter tree-sitter-bash tree-sitter-c tree-sitter-c-sharp tree-sitter-cpp tree-sitter-go tree-sitter-java "
    "tree-sitter-javascript tree-sitter-php tree-sitter-python tree-sitter-ruby tree-sitter-rust tree-sitter-sql "
    "tree-sitter-typescript pypdf"
)
"""Libraries whose versions change where borders are."""

_LEAST_TOKENS = 32
"""With less room than this left for it, code goes without the headings above it."""


class Chunker:
    """Cuts documents for one model. Thread-safe if `count` is."""

    def __init__(self, *, max_tokens: int, count: Count) -> None:
        """Take the model's limit and its way of counting.

        Args:
            max_tokens: most tokens of a chunk, as embedded.
            count: tokens of each text, with whatever the model adds to every text.

        Raises:
            UsageError: `max_tokens` leaves no room for text.
        """
        self._limits = Limits.of(max_tokens, 0, count)
        self._count = count

    @property
    def version(self) -> str:
        """Names the way of cutting: files cut in another way must be cut anew."""
        return cut_version(self._limits.tokens)

    def cut(self, documents: Sequence[Document]) -> list[Chunk]:
        """The chunks of the documents, in their order. Those of each document, joined, are its text.

        Args:
            documents: of one file or several; those of one file stand together.
        """
        chunks: list[Chunk] = []
        path = ""
        above: tuple[Heading, ...] = ()
        for document in documents:
            in_cell = document.part.startswith("cell")
            if not in_cell or document.path != path:
                path, above = document.path, ()
            if document.language in PROSE:
                chunks += cut_prose(document, max_tokens=self._limits.tokens, count=self._count, above=above)
                above = headings_after(document, above) if in_cell else above
            else:
                chunks += self._below(document, above)
        return chunks

    def _below(self, document: Document, above: Sequence[Heading]) -> list[Chunk]:
        """The chunks of code, with the headings of the cells before it as their context."""
        path = tuple(heading.title for heading in above)
        context = contexts_of([path], self._limits, self._count)[path]
        taken = self._count([context])[0] - self._limits.added + 1 if context else 0
        if not context or self._limits.room - taken < _LEAST_TOKENS:
            return [_named(chunk, document.part) for chunk in self._code(document, self._limits.tokens)]
        chunks = [_named(chunk, document.part) for chunk in self._code(document, self._limits.tokens - taken)]
        headed = [
            replace(chunk, context=f"{context}\n{chunk.context}" if chunk.context else context)
            for chunk in chunks
        ]
        tokens = self._count([chunk.embedded or "." for chunk in headed])
        return [
            with_context if size <= self._limits.tokens else chunk
            for chunk, with_context, size in zip(chunks, headed, tokens, strict=True)
        ]

    def _code(self, document: Document, max_tokens: int) -> list[Chunk]:
        if document.language in GRAMMARS:
            try:
                return cut_code(document, max_tokens=max_tokens, count=self._count)
            except (MissingExtraError, ValueError):
                # Not installed, or made for another tree-sitter: lines are chunks too, and the version tells them apart
                pass
        return cut_lines(document, max_tokens=max_tokens, count=self._count)


def _named(chunk: Chunk, part: str) -> Chunk:
    """A chunk of a part of a file says which; what is no function or class is a piece of a cell or page."""
    if not part or chunk.symbol.startswith(part):
        return chunk
    kind = chunk.kind
    if part.startswith("cell") and kind in CODE_KINDS and kind not in {"function", "method", "class"}:
        kind = "cell"
    return replace(chunk, symbol=f"{part} {chunk.symbol}".strip(), kind=kind)


@cache
def cut_version(max_tokens: int) -> str:
    """Names the way of cutting, for those who have no model at hand to make a `Chunker`."""
    installed = " ".join(f"{name}={_version_of(name)}" for name in _CUTTERS.split())
    return f"{_WAY}-{max_tokens}-{hashlib.blake2b(installed.encode(), digest_size=4).hexdigest()}"


def _version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
