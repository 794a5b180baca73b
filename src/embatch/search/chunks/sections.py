"""The sections of a prose document, and what stands before a chunk of one so that it is understood alone.

Used by `prose`, between `headings` and the cutting. A section is a heading with what follows up to the next heading of
any level; what stands before the first heading is one too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from embatch.search.chunks.headings import blocks_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.decisions.units import Count, Limits
    from embatch.search.chunks.headings import Block

SEPARATOR = " > "

_CONTEXT_SHARE = 4
"""At most one in so many tokens of a chunk is context: a chunk is found by what it says itself."""

_NAME_CHARS = 80  # of a heading in a path; nobody searches for more


class Heading(NamedTuple):
    """A heading that others stand below."""

    level: int
    title: str


class Section(NamedTuple):
    """A heading and what follows it."""

    start: int
    end: int
    path: tuple[str, ...]
    """The headings above it, its own included."""
    own: bool
    """Whether it begins with a heading. Only what stands before the first heading does not."""
    rank: int
    """How good a place for a cut is before it."""
    blocks: tuple[Block, ...]

    @property
    def parents(self) -> tuple[str, ...]:
        """The headings that it does not hold itself."""
        return self.path[:-1] if self.own else self.path


def sections_of(
    text: str, language: str, above: Sequence[Heading] = ()
) -> tuple[list[Section], tuple[Heading, ...]]:
    """The sections, which tile the text, and the headings that hold at its end.

    Args:
        text: the document's; not empty.
        language: of `headings.blocks_of`.
        above: headings that hold at its start, as in a notebook's later cells.
    """
    blocks = blocks_of(text, language)
    heads = [number for number, block in enumerate(blocks) if number == 0 or block.level]
    stack = list(above)
    sections = []
    for number, following in zip(heads, [*heads[1:], len(blocks)], strict=True):
        first = blocks[number]
        if first.level:
            while stack and stack[-1].level >= first.level:
                stack.pop()
            stack.append(Heading(first.level, first.title))
        end = blocks[following].start if following < len(blocks) else len(text)
        path = tuple(heading.title for heading in stack)
        own = first.level > 0
        sections.append(
            Section(first.start, end, path, own, first.rank, tuple(blocks[number:following])),
        )
    return sections, tuple(stack)


def symbol_of(path: Sequence[str]) -> str:
    """`Guide > Install`."""
    return SEPARATOR.join(name for title in path if (name := _short(title)))


def contexts_of(paths: Sequence[tuple[str, ...]], limits: Limits, count: Count) -> dict[tuple[str, ...], str]:
    """For each path the line that is embedded before a text: whole, or its last headings, or empty.

    It has at most a quarter of a chunk's tokens.
    """
    most = limits.tokens // _CONTEXT_SHARE
    found: dict[tuple[str, ...], str] = {(): ""}
    waiting = {path: symbol_of(path) for path in paths if path}
    while waiting:
        filled = [text for text in waiting.values() if text]
        tokens = dict(zip(filled, count(filled), strict=True)) if filled else {}
        longer = {}
        for path, text in waiting.items():
            if not text or tokens[text] - limits.added <= most:
                found[path] = text
            else:
                longer[path] = _shorter(text)
        waiting = longer
    return found


def _shorter(context: str) -> str:
    """Without the outermost heading; the last one loses half of its characters, until nothing is left."""
    _, separator, rest = context.partition(SEPARATOR)
    return rest if separator else context[: len(context) // 2].rstrip()


def _short(title: str) -> str:
    return title if len(title) <= _NAME_CHARS else title[: _NAME_CHARS - 1].rstrip() + "…"
