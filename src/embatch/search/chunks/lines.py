"""Documents without a grammar, cut by lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embatch.chunks import Chunk, Document
    from embatch.decisions.units import Count


def cut_lines(document: Document, *, max_tokens: int, count: Count) -> list[Chunk]:
    """The chunks of a document, in order, each of whole lines where these are within the limit."""
    raise NotImplementedError
