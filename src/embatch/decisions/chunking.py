"""Cut texts that are longer than a model takes into chunks that it does take.

Between source and plan. Cuts are made before headings, else between paragraphs, else between sentences or lines,
words, characters, and chunks overlap by whole sentences. What a token is, the caller's `count` says; it is slow, so it
gets each character two or three times, in large batches. Texts are cut, never changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from embatch.decisions.packing import pack
from embatch.decisions.units import Limits, count_all, cut_units
from embatch.types import Item

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from embatch.decisions.units import Count
    from embatch.types import BadItem

_WINDOW_CHARS = 1 << 22
"""Texts that wait for their tokens to be counted hold no more than this together, about."""


class Piece(NamedTuple):
    """A part of a text: `text == source[start:end]`, without white space around it."""

    text: str
    start: int
    end: int


def split_text(text: str, *, max_tokens: int, overlap_tokens: int, count: Count) -> list[Piece]:
    """The chunks of a text, in order. Every visible character is in at least one of them.

    The limit of a chunk is `max_tokens` by `count`, and 64 characters a token. A text within it is one chunk,
    unchanged, and so is one of white space only; else every chunk is within it, unless a single character is over it.
    Chunks are filled up, but one ends early, if it is a third full, where a better border is. A sentence is cut only
    if it is over the limit itself.

    Args:
        text: any string, of any length; the work grows with the length and no faster.
        max_tokens: most tokens of a chunk, counted as `count` does.
        overlap_tokens: a chunk repeats whole sentences from the end of the one before it, with at most so many tokens;
            words, if it was cut within a sentence. Nothing is repeated behind a heading.
        count: tokens of each text, with whatever the model adds to every text. Counts over `max_tokens` need not be
            exact. It is given no empty text.

    Raises:
        UsageError: `max_tokens` leaves no room for text, or the overlap is more than half of it.
    """
    limits = Limits.of(max_tokens, overlap_tokens, count)
    if len(text) <= limits.chars and (not text or count([text])[0] <= max_tokens):
        return [Piece(text, 0, len(text))]
    return _split_all([text], limits, count)[0]


def split_items(
    items: Iterable[Item | BadItem],
    *,
    max_tokens: int,
    overlap_tokens: int,
    count: Count,
    may_exceed: Callable[[str], bool],
    window: int = 512,
) -> Iterator[Item | BadItem]:
    """The items in their order, those that are too long as several, with `#1`, `#2` … behind their keys.

    Args:
        items: of any number; bad ones, and texts that are no Unicode, pass through.
        max_tokens: see `split_text`, as for the next two.
        overlap_tokens: see there.
        count: see there.
        may_exceed: false for texts that cannot be over the limit, judged without tokenising: they are not counted.
        window: as many items are looked at together, so that `count` gets full batches. Where nothing may exceed the
            limit, items pass at once.

    Raises:
        UsageError: see `split_text`.
    """
    limits = Limits.of(max_tokens, overlap_tokens, count)
    waiting: list[Item | BadItem] = []
    long: list[int] = []  # positions in `waiting`
    chars = 0
    for item in items:
        candidate = isinstance(item, Item) and may_exceed(item.text) and _is_unicode(item.text)
        if not candidate and not waiting:
            yield item
            continue
        if candidate:
            long.append(len(waiting))
        waiting.append(item)
        chars += len(item.text) if isinstance(item, Item) else 0
        if len(waiting) >= window or chars >= _WINDOW_CHARS:
            yield from _split_window(waiting, long, limits, count)
            waiting, long, chars = [], [], 0
    yield from _split_window(waiting, long, limits, count)


def _split_window(
    items: Sequence[Item | BadItem], long: Sequence[int], limits: Limits, count: Count
) -> Iterator[Item | BadItem]:
    texts = {at: item.text for at in long if isinstance(item := items[at], Item)}
    counted = [at for at, text in texts.items() if len(text) <= limits.chars]
    tokens = dict(zip(counted, count_all((texts[at] for at in counted), count), strict=True))
    over = [at for at in long if tokens.get(at, limits.tokens + 1) > limits.tokens]
    chunks = dict(zip(over, _split_all([texts[at] for at in over], limits, count), strict=True))
    for at, item in enumerate(items):
        parts = chunks.get(at, [])
        if len(parts) < 2:
            yield item
        else:
            for number, part in enumerate(parts, start=1):
                yield Item(f"{item.key}#{number}", part.text, item.source)


def _split_all(texts: Sequence[str], limits: Limits, count: Count) -> list[list[Piece]]:
    """The chunks of each text. Texts go together, so that `count` gets full batches."""
    cut = cut_units(texts, limits, count)
    spans = [
        [_Span.of(text, part.start, part.end, known=part.units == 1) for part in pack(text, units, limits)]
        for text, units in zip(texts, cut, strict=True)
    ]
    del cut
    while any(not span.known for group in spans for span in group):
        spans = _checked(texts, spans, limits, count)
    return [_chunks(text, group) for text, group in zip(texts, spans, strict=True)]


def _chunks(text: str, spans: Sequence[_Span]) -> list[Piece]:
    """The spans as chunks, without those that only repeat: the first half of one that was halved may."""
    chunks = []
    done = 0
    for span in spans:
        if text[done : span.end].strip():
            chunks.append(Piece(text[span.start : span.end], span.start, span.end))
            done = span.end
    return chunks or [Piece(text, 0, len(text))]


class _Span(NamedTuple):
    """A chunk to be, without white space around it."""

    start: int
    end: int
    known: bool
    """Whether it is within the limit for certain. Parts that fit may, joined, be one token more than their sum."""

    @classmethod
    def of(cls, text: str, start: int, end: int, *, known: bool = False) -> _Span:
        part = text[start:end]
        visible = part.strip()
        begin = start + len(part) - len(part.lstrip())
        return cls(begin, begin + len(visible), known and len(visible) == len(part))


def _checked(
    texts: Sequence[str], spans: Sequence[Sequence[_Span]], limits: Limits, count: Count
) -> list[list[_Span]]:
    """The spans with those that were not known counted, and halved if they are over the limit."""
    open_spans = (
        text[span.start : span.end]
        for text, group in zip(texts, spans, strict=True)
        for span in group
        if not span.known
    )
    tokens = count_all(open_spans, count)
    return [
        [
            settled
            for span in group
            for settled in ([span] if span.known else _settled(text, span, next(tokens), limits))
        ]
        for text, group in zip(texts, spans, strict=True)
    ]


def _settled(text: str, span: _Span, tokens: int, limits: Limits) -> list[_Span]:
    if tokens <= limits.tokens or span.end - span.start == 1:
        return [span._replace(known=True)]
    middle = _middle(text, span.start, span.end)
    halves = (_Span.of(text, span.start, middle), _Span.of(text, middle, span.end))
    return [half for half in halves if half.start < half.end]


def _middle(text: str, start: int, end: int) -> int:
    """The white space nearest to the middle, if there is some in the inner half, else the middle."""
    middle, quarter = (start + end) // 2, (end - start) // 4
    left = max(text.rfind(mark, middle - quarter, middle) for mark in " \n")
    right = min((at for mark in " \n" if (at := text.find(mark, middle, middle + quarter)) >= 0), default=end)
    near = left if left >= 0 and middle - left <= right - middle else right
    return near if start < near < end else middle


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
