"""Documents without a grammar, cut by lines.

Beside `code`, for configuration, data and the languages that it does not know. Empty lines are the best places for a
cut, then the least indented lines; only a line that is over the limit itself is cut, at words where it has some.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from embatch.search.chunks.lines_fitting import Fitting, Label, Span
from embatch.search.chunks.lines_tearing import Border

if TYPE_CHECKING:
    from embatch.chunks import Chunk, Document
    from embatch.decisions.units import Count

_LINES = Label("lines")


def cut_lines(document: Document, *, max_tokens: int, count: Count) -> list[Chunk]:
    """The chunks of a document in order, of kind `lines`: whole lines where these are within the limit.

    Joined they are the document; an empty one has none. Borders stay where they are when a distant part changes.

    Args:
        document: in any language.
        max_tokens: most tokens of `Chunk.embedded`.
        count: tokens of each text with what is added to every text, no more than one for an ASCII character.

    Raises:
        UsageError: `max_tokens` leaves no room for text.
    """
    fitting = Fitting(document.text, max_tokens=max_tokens, count=count, opened=lambda _: [])
    return fitting.chunks(document, line_spans(document.text, _LINES))


def line_spans(text: str, label: Label) -> list[Span]:
    """The text's lines; empty ones belong to the line before them."""
    spans: list[Span] = []
    start = at = 0
    while at < len(text):
        end = text.find("\n", at) + 1 or len(text)
        if at > start and not text[at:end].isspace():
            spans.append(Span(start, at, Border.TOKEN, label, label))
            start = at
        at = end
    if start < len(text):
        spans.append(Span(start, len(text), Border.TOKEN, label, label))
    return spans
