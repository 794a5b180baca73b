"""Source code, cut by its syntax tree."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embatch.chunks import Chunk, Document
    from embatch.decisions.units import Count


def cut_code(document: Document, *, max_tokens: int, count: Count) -> list[Chunk]:
    """The chunks of a document whose language is in `languages.GRAMMARS`, in order."""
    raise NotImplementedError
