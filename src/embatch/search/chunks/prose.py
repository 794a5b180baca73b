"""Prose as chunks: by headings, paragraphs and sentences, with the headings above each chunk before it.

The middle of *files → documents → chunks*, beside `code` and `lines`. A section that fits is one chunk, small
neighbours under the same heading share one, long sections are cut between paragraphs, else sentences. Borders are
chosen by what is near them alone. What a token is, the caller's `count` says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from embatch.chunks import Chunk
from embatch.decisions.stable_packing import Unit, pack_stable
from embatch.decisions.units import Limits, count_all
from embatch.search.chunks.pieces import LINES_FIRST, Piece, cut, fitted
from embatch.search.chunks.sections import contexts_of, sections_of, symbol_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from embatch.chunks import Document, ProseKind
    from embatch.decisions.units import Count
    from embatch.search.chunks.sections import Heading, Section

_MANY_CHARS = 6
"""A section of more characters for each token of the limit is taken for too long without being counted whole."""

_SMALL_SHARE = 2
"""Sections are joined up to one in so many of the limit's tokens."""


class _Span(NamedTuple):
    """A chunk to be."""

    start: int
    end: int
    first: int
    last: int
    """Its sections, both included."""
    places: tuple[tuple[int, int], ...] = ()
    """Where it can be cut, if it must be: positions and their ranks."""
    bare: bool = False
    """Without context: there is no room for it."""


def cut_prose(
    document: Document, *, max_tokens: int, count: Count, above: Sequence[Heading] = ()
) -> list[Chunk]:
    """The chunks of a document in order. Joined they are exactly its text.

    `Chunk.embedded` of each has at most `max_tokens` by `count`, unless a single character has more. A chunk of white
    space alone comes only from a document of white space alone.

    Args:
        document: any; without headings that its language shows, it is one section.
        max_tokens: most tokens of a chunk, context included.
        count: tokens of each text, with whatever the model adds to every text.
        above: headings that hold where the document begins.

    Raises:
        UsageError: `max_tokens` leaves no room for text.
    """
    if not document.text:
        return []
    return _Cutter(document, Limits.of(max_tokens, 0, count), count, above).chunks()


def headings_after(document: Document, above: Sequence[Heading]) -> tuple[Heading, ...]:
    """The headings that hold at the end of a document, given those at its start."""
    return sections_of(document.text, document.language, above)[1] if document.text else tuple(above)


class _Cutter:
    """Cuts one document."""

    def __init__(self, document: Document, limits: Limits, count: Count, above: Sequence[Heading]) -> None:
        self._document = document
        self._text = document.text
        self._limits = limits
        self._count = count
        self._sections = sections_of(document.text, document.language, above)[0]
        paths = {path for section in self._sections for path in (section.path, section.parents)}
        self._contexts = contexts_of(sorted(paths), limits, count)

    def chunks(self) -> list[Chunk]:
        spans: list[_Span] = []
        run: list[tuple[_Span, int]] = []  # sections that fit, with their tokens
        sections = [self._section(at) for at in range(len(self._sections))]
        for span, tokens in self._counted(
            sections, min(self._limits.chars, self._limits.tokens * _MANY_CHARS)
        ):
            if tokens <= self._limits.tokens:
                run.append((span, tokens))
                continue
            spans += self._joined(run)
            run = []
            spans += self._cut_section(span.first)
        spans += self._joined(run)
        spans = self._without_blanks(spans)
        return self._as_chunks(self._within(spans))

    def _section(self, at: int) -> _Span:
        section = self._sections[at]
        return _Span(section.start, section.end, at, at)

    def _counted(self, spans: Sequence[_Span], most_chars: int) -> Iterator[tuple[_Span, int]]:
        """Each with its tokens as embedded; more than the limit for what has more characters."""
        texts = [self._embedded(span) for span in spans]
        tokens = count_all((text or "." for text in texts if len(text) <= most_chars), self._count)
        for span, text in zip(spans, texts, strict=True):
            yield span, next(tokens) if len(text) <= most_chars else self._limits.tokens + 1

    def _joined(self, run: Sequence[tuple[_Span, int]]) -> list[_Span]:
        """Sections with small neighbours that stand under the same heading, or under the one before them."""
        if not run:
            return []
        wall = 1 << 20
        units = []
        for at, (span, tokens) in enumerate(run):
            section = self._sections[span.first]
            apart = at > 0 and not _related(self._sections[run[at - 1][0].first], section)
            text = self._text[span.start : span.end]
            units.append(Unit(max(1, tokens - self._limits.added), wall if apart else section.rank, text))
        groups = pack_stable(units, limit=self._limits.room // _SMALL_SHARE, wall=wall)
        return [self._join([span for span, _ in run[first:end]]) for first, end in groups]

    def _join(self, spans: Sequence[_Span]) -> _Span:
        places = tuple((span.start, self._sections[span.first].rank) for span in spans[1:])
        return _Span(spans[0].start, spans[-1].end, spans[0].first, spans[-1].last, places)

    def _cut_section(self, at: int) -> list[_Span]:
        """The chunks of a section that does not fit into one."""
        section = self._sections[at]
        context = self._contexts[section.path]
        room = self._limits.room - (self._count([context])[0] - self._limits.added + 1 if context else 0)
        ends = [*(block.start for block in section.blocks[1:]), section.end]
        pieces = [
            Piece(block.start, end, block.rank, -1, LINES_FIRST if block.by_line else 0)
            for block, end in zip(section.blocks, ends, strict=True)
        ]
        pieces = fitted(self._text, pieces, room=max(1, room), limits=self._limits, count=self._count)
        units = [Unit(piece.tokens, piece.rank, self._text[piece.start : piece.end]) for piece in pieces]
        return [
            _Span(
                pieces[first].start,
                pieces[end - 1].end,
                at,
                at,
                tuple((piece.start, piece.rank) for piece in pieces[first + 1 : end]),
            )
            for first, end in pack_stable(units, limit=max(1, room))
        ]

    def _without_blanks(self, spans: Sequence[_Span]) -> list[_Span]:
        """Those of white space alone joined to the one before, the first to the one behind."""
        kept: list[_Span] = []
        for span in spans:
            if kept and self._text[span.start : span.end].isspace():
                kept[-1] = kept[-1]._replace(end=span.end)
            elif len(kept) == 1 and self._text[kept[0].start : kept[0].end].isspace():
                kept[0] = span._replace(start=kept[0].start)
            else:
                kept.append(span)
        return kept

    def _within(self, spans: Sequence[_Span]) -> list[_Span]:
        """The spans, those cut that are over the limit all the same: parts may be less than what they make."""
        settled: list[list[_Span]] = [[span] for span in spans]
        open_at = list(range(len(spans)))
        while open_at:
            todo = [(at, span) for at in open_at for span in settled[at]]
            tokens = [tokens for _, tokens in self._counted([span for _, span in todo], self._limits.chars)]
            again: dict[int, list[_Span]] = {at: [] for at in open_at}
            changed = set()
            for (at, span), size in zip(todo, tokens, strict=True):
                parts = [span] if size <= self._limits.tokens else self._halved(span)
                again[at] += parts
                if parts != [span]:
                    changed.add(at)
            for at, parts in again.items():
                settled[at] = self._without_blanks(parts)
            open_at = sorted(changed)
        return [span for group in settled for span in group]

    def _halved(self, span: _Span) -> list[_Span]:
        """Two parts, cut at the best border, the one nearest to the middle; or the same without context."""
        places = span.places or self._finer(span)
        if not places:
            return [span] if span.bare or not self._context(span) else [span._replace(bare=True)]
        middle = (span.start + span.end) // 2
        at, _ = max(places, key=lambda place: (place[1], -abs(place[0] - middle)))
        border = next(
            (n for n in range(span.first, span.last + 1) if self._sections[n].start == at), span.first
        )
        split = border > span.first
        return [
            _Span(
                span.start,
                at,
                span.first,
                border - 1 if split else span.last,
                tuple(place for place in places if place[0] < at),
            ),
            _Span(
                at,
                span.end,
                border if split else span.first,
                span.last,
                tuple(place for place in places if place[0] > at),
            ),
        ]

    def _finer(self, span: _Span) -> tuple[tuple[int, int], ...]:
        """Places within what was thought to be one."""
        whole = Piece(span.start, span.end, 0, -1)
        return tuple((piece.start, piece.rank) for piece in cut(self._text, whole)[1:])

    def _context(self, span: _Span) -> str:
        """What the chunk does not hold itself of the headings above it."""
        if span.bare:
            return ""
        path, held = self._path(span)
        return self._contexts[path[:-1] if held else path]

    def _path(self, span: _Span) -> tuple[tuple[str, ...], bool]:
        """The headings that all of it stands under, and whether it begins with the last of them."""
        first, begin = span.first, span.start
        while first < span.last and not self._sections[first].path:  # what stands before the first heading
            first, begin = first + 1, self._sections[first].end
        head = self._sections[first]
        path = head.path
        for section in self._sections[first + 1 : span.last + 1]:
            shared = 0
            while shared < min(len(path), len(section.path)) and path[shared] == section.path[shared]:
                shared += 1
            path = path[:shared]
        return path, head.own and begin == head.start and path == head.path

    def _embedded(self, span: _Span) -> str:
        text = self._text[span.start : span.end].strip()
        context = self._context(span)
        return f"{context}\n{text}" if context else text

    def _as_chunks(self, spans: Sequence[_Span]) -> list[Chunk]:
        document = self._document
        chunks = []
        line, counted = document.first_line, 0
        for span in spans:
            line += self._text.count("\n", counted, span.start)
            counted = span.start
            symbol = symbol_of(self._path(span)[0] or self._sections[span.first].path)
            chunks.append(
                Chunk(
                    path=document.path,
                    text=self._text[span.start : span.end],
                    start=span.start,
                    end=span.end,
                    start_line=line,
                    end_line=line + self._text.count("\n", span.start, span.end - 1),
                    kind=_kind(document.part),
                    language=document.language,
                    symbol=f"{document.part} {symbol}".strip(),
                    context=self._context(span),
                )
            )
        return chunks


def _related(before: Section, section: Section) -> bool:
    """Whether a section may share a chunk with the one before it."""
    return section.parents in (before.parents, before.path)


def _kind(part: str) -> ProseKind:
    if part.startswith("cell"):
        return "cell"
    return "page" if part.startswith("page") else "section"
