"""From spans that tile a text to the chunks that do, each within the limit.

Under `lines` and `code`, which say what the spans are and how one is opened. Spans are packed with `stable_packing` by
an estimate of their tokens, the groups are counted, and what is over the limit is packed anew or opened. All that is
decided hangs on the text near by, so that chunks far from an edit stay as they are.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from embatch.chunks import Chunk
from embatch.decisions.stable_packing import Unit, pack_stable
from embatch.decisions.units import Limits, count_all
from embatch.search.chunks.lines_tearing import line_border, tear

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from embatch.chunks import ChunkKind, Document
    from embatch.decisions.units import Count

# About what a WordPiece vocabulary makes of code: measured, 1.02 tokens a match, with a deviation of 11%.
_ABOUT_A_TOKEN = re.compile(r"[A-Za-z]{1,6}|[0-9]{1,2}|[^A-Za-z0-9\s]")
_SAMPLE = """def load(self, path: str, *, limit: int = 1024) -> list[Row]:
    # Read the file line by line, up to the limit.
    with open(os.path.join(self.root_dir, path), encoding="utf-8") as file:
        return [self._parse_row(line) for line in itertools.islice(file, limit)]
"""
_SPACES = " \n\n  \t\r\n" + " " * 40


class Label(NamedTuple):
    """What a chunk says of itself."""

    kind: ChunkKind
    symbol: str = ""
    context: str = ""
    members: bool = False
    """Whether functions under it are methods."""


class Span(NamedTuple):
    """A stretch of the text, white space behind it included."""

    start: int
    end: int
    border: int
    """A `Border`: how good a place for a cut is before it, line breaks aside."""
    label: Label
    """What it is as a chunk of its own."""
    scope: Label
    """What it is together with its neighbours of the same scope."""
    alone: bool = False
    """Whether it is a chunk of its own even if it is small."""
    head: bool = False
    """Whether the neighbours that follow it share its label."""
    nodes: Sequence[Any] = ()
    """The syntax nodes that hold all tokens in it."""
    definition: Any = None
    """That of `nodes` or under them which it is named by."""


class _Group(NamedTuple):
    """A chunk to be."""

    spans: Sequence[Span]
    label: Label
    target: int
    """Tokens that it was to have at most."""
    fits: bool = False

    @property
    def start(self) -> int:
        return self.spans[0].start

    @property
    def end(self) -> int:
        return self.spans[-1].end


class Fitting:
    """Makes chunks of one document's spans."""

    def __init__(
        self, text: str, *, max_tokens: int, count: Count, opened: Callable[[Span], list[Span]]
    ) -> None:
        """Take the document's text and the limit.

        Args:
            text: all of it.
            max_tokens: most tokens of a chunk with its context, as `count` sees it.
            count: tokens of each text. A text in ASCII must not have more of them than characters, beside those that
                are added to each text.
            opened: the smaller spans that a span is made of; fewer than two if it is a single token.

        Raises:
            UsageError: `max_tokens` leaves no room for text.
        """
        self.text = text
        # One call for all that is asked beforehand: files are small, and calls are slow.
        one, single, sample, spread = count(["a", "a a", _SAMPLE, f"a{_SPACES}a"])
        self.limits = Limits.of(max_tokens, 0, lambda _: (one, single))
        self._count = count
        self._opened = opened
        self._rate = max(0.1, (sample - self.limits.added) / len(_ABOUT_A_TOKEN.findall(_SAMPLE)))
        self._spaces_count = spread > single or single > self.limits.added + 2
        self._sizes: dict[tuple[int, int], int] = {}
        self._contexts: dict[str, int] = {"": 0}
        self._part = max(1, self.limits.room // 4)

    def size(self, start: int, end: int) -> int:
        """Tokens of a stretch, estimated; of a very long one only that it is too long."""
        if end - start > self.limits.chars:
            return self.limits.chars
        size = self._sizes.get((start, end))
        if size is None:
            size = self._sizes[start, end] = int(
                len(_ABOUT_A_TOKEN.findall(self.text, start, end)) * self._rate
            )
        return size

    def is_over(self, start: int, end: int, tokens: int) -> bool:
        """Whether a stretch has more tokens than that, about; looks only at the lengths where they tell."""
        length = end - start
        if length <= tokens:
            return False
        return length > 8 * tokens or self.size(start, end) > tokens

    def context(self, words: str) -> str:
        """Words to be embedded before a text, in one line and shortened to a small part of the limit."""
        most = min(100, self.limits.room // 3)
        line = " ".join(words[:400].split())
        if len(line.encode("utf-8", "replace")) <= most:
            return line
        line = line[:most].encode("utf-8", "replace")[:most].decode("utf-8", "ignore")
        return line.rpartition(" ")[0].rstrip() or line

    def chunks(self, document: Document, spans: Sequence[Span]) -> list[Chunk]:
        """The chunks of the document in order; `spans` tile it."""
        groups = self._fitted(spans)
        chunks = []
        line = document.first_line
        for at, (start, end, label) in enumerate(self._visible(groups)):
            last = end if at + 1 < len(groups) else len(self.text)
            ends = line + self.text.count("\n", start, last)
            chunks.append(
                Chunk(
                    path=document.path,
                    text=self.text[start:end],
                    start=start,
                    end=end,
                    start_line=line,
                    end_line=ends - 1 if end > start and self.text[end - 1] == "\n" else ends,
                    kind=label.kind,
                    language=document.language,
                    symbol=label.symbol,
                    context=label.context,
                )
            )
            line = ends
        return chunks

    def _visible(self, groups: Sequence[_Group]) -> list[tuple[int, int, Label]]:
        """The groups' starts, ends and labels, those of white space only joined to a neighbour."""
        found: list[tuple[int, int, Label]] = []
        begin = groups[0].start if groups else 0
        for group in groups:
            if self.text[group.start : group.end].isspace():
                if found:
                    found[-1] = (found[-1][0], group.end, found[-1][2])
                continue
            found.append((found[-1][1] if found else begin, group.end, group.label))
        return found or ([(begin, groups[-1].end, groups[0].label)] if groups else [])

    def _fitted(self, spans: Sequence[Span]) -> list[_Group]:
        groups = self._packed(spans, self.limits.room)
        while True:
            groups = self._judged(groups)
            if all(group.fits for group in groups):
                return groups
            groups = [part for group in groups for part in ([group] if group.fits else self._smaller(group))]

    def _judged(self, groups: Sequence[_Group]) -> list[_Group]:
        """The groups with what is known by their lengths, or else counted."""
        judged: list[_Group] = []
        asked: list[int] = []
        for at, group in enumerate(groups):
            sure = group.fits or self._surely_fits(group)
            judged.append(group._replace(fits=True) if sure else group)
            if not sure and not self._is_hopeless(group):
                asked.append(at)
        tokens = count_all((self._embedded(groups[at]) for at in asked), self._count)
        for at, size in zip(asked, tokens, strict=True):
            judged[at] = groups[at]._replace(fits=size <= self.limits.tokens)
        return judged

    def _surely_fits(self, group: _Group) -> bool:
        length = group.end - group.start + len(group.label.context)
        if length > self.limits.room and (self._spaces_count or length > 4 * self.limits.room):
            return self.text[group.start : group.end].isspace()
        text = self._embedded(group)
        characters = len(text) if self._spaces_count else sum(map(len, text.split()))
        return characters <= self.limits.room and text.isascii()

    def _is_hopeless(self, group: _Group) -> bool:
        """Whether counting it would be a waste."""
        if group.end - group.start > self.limits.chars:
            return True
        return self.is_over(group.start, group.end, self.limits.room * 6 // 5) and not self._is_token(group)

    def _is_token(self, group: _Group) -> bool:
        """Whether it cannot be cut but within a token, for which its tokens must be known."""
        return len(group.spans) == 1 and not self._opened(group.spans[0])

    def _embedded(self, group: _Group) -> str:
        text = self.text[group.start : group.end].strip()
        return f"{group.label.context}\n{text}" if group.label.context else text

    def _packed(self, spans: Sequence[Span], target: int) -> list[_Group]:
        groups: list[_Group] = []
        for run in _runs(spans):
            if len(run) == 1:
                groups.append(_Group(run, run[0].label, target))
                continue
            limit = target * 15 // 16 - self._taken(run[0].scope.context)
            units = [
                Unit(self.size(span.start, span.end), self._border(span), self.text[span.start : span.end])
                for span in run
            ]
            for first, end in pack_stable(units, limit=max(1, limit)):
                part = run[first:end]
                groups.append(_Group(part, _label(part), target))
        return groups

    def _border(self, span: Span) -> int:
        at_line = span.border and (span.start == 0 or self.text[span.start - 1] == "\n")
        return line_border(self.text, span.start) if at_line else span.border

    def _taken(self, context: str) -> int:
        if context not in self._contexts:
            self._contexts[context] = int(len(_ABOUT_A_TOKEN.findall(context)) * self._rate) + 1
        return self._contexts[context]

    def _smaller(self, group: _Group) -> list[_Group]:
        """The group as several that are smaller, or as it is if it is a single character."""
        if len(group.spans) > 1:
            target = group.target * 3 // 4
            while target:
                parts = self._packed(group.spans, target)
                if len(parts) > 1:
                    return parts
                target //= 2
            return [_Group([span], span.label, 1) for span in group.spans]
        smaller = self._opened_up(group.spans[0])
        if len(smaller) > 1:
            return self._packed(smaller, self.limits.room)
        bare = group.label._replace(context="")
        return [_Group(group.spans, bare, group.target, fits=not group.label.context)]

    def _opened_up(self, span: Span) -> list[Span]:
        """The spans that a span is made of, each a small part of a chunk if it is no single token."""
        found: list[Span] = []
        waiting = (self._opened(span) or self._torn(span))[::-1]
        while waiting:
            part = waiting.pop()
            if not part.alone and self.is_over(part.start, part.end, self._part):
                smaller = self._opened(part) or self._torn_if_over(part)
                if smaller:
                    waiting.extend(reversed(smaller))
                    continue
            found.append(part)
        return found

    def _torn_if_over(self, span: Span) -> list[Span]:
        """A single token in parts if it is over the limit, so that they are packed with what is beside it."""
        if not span.nodes or not self.is_over(span.start, span.end, self._part * 3):
            return []
        return (
            self._torn(span)
            if self._count([self.text[span.start : span.end]])[0] > self.limits.tokens
            else []
        )

    def _torn(self, span: Span) -> list[Span]:
        """A single token in parts: lines, or words, or characters."""
        cuts = [(span.start, span.border), *tear(self.text, span.start, span.end, self._part)]
        ends = [*(start for start, _ in cuts[1:]), span.end]
        rest = span.label if span.head or span.label == span.scope else span.scope
        return [
            span._replace(
                start=start,
                end=end,
                border=border,
                nodes=(),
                definition=None,
                label=rest if at else span.label,
                alone=False,
            )
            for at, ((start, border), end) in enumerate(zip(cuts, ends, strict=True))
        ]


def _runs(spans: Sequence[Span]) -> Iterator[Sequence[Span]]:
    """Neighbours that may be in one chunk."""
    first = 0
    for at in range(1, len(spans) + 1):
        if (
            at == len(spans)
            or spans[at].alone
            or spans[at - 1].alone
            or spans[at].scope is not spans[first].scope
        ):
            if first < at:
                yield spans[first:at]
            first = at


def _label(spans: Sequence[Span]) -> Label:
    first = spans[0]
    if len(spans) == 1 or first.head or all(span.label is first.label for span in spans):
        return first.label
    return first.scope
