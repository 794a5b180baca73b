"""Where the blocks of a prose document begin, and which of them are headings.

Used by `prose`. Markdown, reStructuredText, pages as `pages` makes them and plain text are told apart; each is read
line by line, in time linear in its length. Inline marks are left as they are. Blocks tile the text: white space belongs
to the block before it.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from embatch.search.chunks.pages import HEADING, LINE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Rank(IntEnum):
    """How good a place for a cut is; the higher, the better. A heading of level 1 to 6 is `HEADING - level`."""

    CHARACTER = 0  # within a word
    WORD = 1
    SOFT = 2  # lines of one sentence
    SENTENCE = 3  # sentences, or lines that are no running text
    INNER = 4  # an indented paragraph: of a list's item, of a directive
    ITEM = 5  # of a list
    PARAGRAPH = 6
    HEADING = 13


class Block(NamedTuple):
    """A paragraph, list's item, table, fenced code or heading; up to where the next one starts."""

    start: int
    rank: int
    level: int = 0
    """Of a heading, from 1; 0 for everything else."""
    title: str = ""
    """A heading's text."""
    by_line: bool = False
    """Cut between lines if it must be cut, not between sentences: code and tables."""


def blocks_of(text: str, language: str) -> list[Block]:
    """The blocks in order, the first at 0. Languages that are not known are plain text."""
    found = [block for block in _READERS.get(language, _plain)(text) if block.start < len(text)]
    if found and not text[: found[0].start].strip():
        # White space before the first block must go with it, or it would be a section of its own.
        return [found[0]._replace(start=0), *found[1:]]
    return [Block(0, Rank.PARAGRAPH), *found]


_LINES = re.compile(r"[^\n]*\n|[^\n]+")
_TITLE_CHARS = 200


def _title(text: str) -> str:
    """A heading's text on one line, without the signs of permanent links."""
    words = " ".join(text.split()).rstrip("¶ ").strip()
    return words if len(words) <= _TITLE_CHARS else words[: _TITLE_CHARS - 1].rstrip() + "…"


_FENCE = re.compile(r"[ \t]*(?:>[ \t]*)?(`{3,}|~{3,})([^\n]*)")
_ATX = re.compile(r" {0,3}(#{1,6})(?=[ \t\n]|\Z)")
_SETEXT = re.compile(r" {0,3}(={2,}|-{2,})[ \t]*\n?\Z")
_ITEM = re.compile(r"[ \t]*(?:[-*+•]|\d{1,9}[.)]|#\.)[ \t]+\S")
_NO_TITLE = "|>-*+=#`~:<"  # a line that begins so is no heading's text


def _markdown(text: str) -> Iterator[Block]:
    return _Markdown().read(text)


class _Markdown:
    """Reads one document line by line."""

    def __init__(self) -> None:
        self._fence = ""  # the marks that close it
        self._after_blank = True
        self._in_table = False
        self._held: Block | None = None
        """A paragraph of one line so far: the next line may make it a heading."""

    def read(self, text: str) -> Iterator[Block]:
        begin = _front_matter(text)
        if begin:
            yield Block(0, Rank.PARAGRAPH, by_line=True)
        for match in _LINES.finditer(text, begin):
            line = match[0]
            bare = line.strip()
            if self._fence:
                self._in_fence(bare)
                continue
            if self._held:
                under = _SETEXT.match(line)
                title = text[self._held.start : match.start()]
                yield (
                    _heading(self._held.start, 1 if under[1][0] == "=" else 2, title) if under else self._held
                )
                self._held = None
                if under:
                    self._after_blank = True
                    continue
            if bare:
                yield from self._line(match.start(), line, bare)
            else:
                self._after_blank, self._in_table = True, False
        if self._held:
            yield self._held

    def _in_fence(self, bare: str) -> None:
        if bare.startswith(self._fence) and not bare.strip(self._fence[0]):
            self._fence, self._after_blank = "", True

    def _line(self, start: int, line: str, bare: str) -> Iterator[Block]:
        """What begins with a line that is not blank; nothing, if it goes on with what was before."""
        was_table, self._in_table = self._in_table, bare[0] == "|"
        after_blank, self._after_blank = self._after_blank, False
        if (opens := _FENCE.match(line)) and "`" not in opens[2]:
            self._fence = opens[1]
            yield Block(start, _paragraph(line), by_line=True)
        elif bare[0] == "#" and (heading := _ATX.match(line)):
            self._after_blank = True
            yield _heading(start, len(heading[1]), _without_closing(line[heading.end() :]))
        elif self._in_table:
            if not was_table:
                yield Block(start, Rank.PARAGRAPH, by_line=True)
        elif _ITEM.match(line):
            yield Block(start, Rank.ITEM)
        elif after_blank:
            block = Block(start, _paragraph(line))
            if bare[0] in _NO_TITLE:
                yield block
            else:
                self._held = block


def _without_closing(title: str) -> str:
    """Without the `#` that may close a heading."""
    bare = title.strip()
    rest = bare.rstrip("#")
    return rest if not rest or rest[-1] in " \t" else bare


def _heading(start: int, level: int, title: str) -> Block:
    return Block(start, Rank.HEADING - level, level, _title(title))


def _paragraph(line: str) -> int:
    return Rank.INNER if line.startswith(("  ", "\t")) else Rank.PARAGRAPH


def _front_matter(text: str) -> int:
    """Behind the YAML or TOML at the start of a Markdown file; 0 without."""
    for mark, end in (("---\n", r"^(?:---|\.\.\.)[ \t]*$"), ("+++\n", r"^\+\+\+[ \t]*$")):
        if text.startswith(mark) and (close := re.compile(end, re.MULTILINE).search(text, len(mark))):
            return close.end()
    return 0


_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1+[ \t]*\n?\Z")
_SHORTEST_RULE = 4


class _Adorned:
    """Finds titles with a line of signs below, and perhaps above."""

    def __init__(self, level_of: Callable[[str], int]) -> None:
        self._level_of = level_of

    def at(self, lines: list[re.Match[str]], number: int) -> tuple[int, int, str] | None:
        """Lines, level and title of the heading that begins with line `number`, behind a blank one, if one does."""
        first = lines[number][0]
        second = lines[number + 1][0] if number + 1 < len(lines) else ""
        if not second.strip():
            return None
        if _ADORNMENT.match(first):
            third = lines[number + 2][0] if number + 2 < len(lines) else ""
            if third.rstrip() != first.rstrip() or _ADORNMENT.match(second):
                return None
            return self._heading(3, first, second, over=first[0])
        if first[0].isspace() or not _ADORNMENT.match(second):
            return None
        return self._heading(2, second, first)

    def _heading(self, lines: int, rule: str, title: str, over: str = "") -> tuple[int, int, str] | None:
        if len(rule.rstrip()) < min(_SHORTEST_RULE, len(title.strip())):
            return None
        level = self._level_of(over + rule[0])
        return (lines, level, title) if level else None


def _rest(text: str) -> Iterator[Block]:
    styles: dict[str, int] = {}  # in the order of their first appearance: the level of each
    return _adorned(text, _Adorned(lambda style: min(6, styles.setdefault(style, len(styles) + 1))))


def _plain(text: str) -> Iterator[Block]:
    """Plain text: only titles with a line below that people use for it."""
    levels = {"=": 1, "-": 2, "~": 3, "==": 1, "**": 1, "--": 2}
    return _adorned(text, _Adorned(lambda style: levels.get(style, 0)))


def _adorned(text: str, headings: _Adorned) -> Iterator[Block]:
    lines = list(_LINES.finditer(text))
    number, after_blank = 0, True
    while number < len(lines):
        line = lines[number][0]
        if line.isspace():
            number, after_blank = number + 1, True
            continue
        start = lines[number].start()
        if after_blank and (heading := headings.at(lines, number)):
            taken, level, title = heading
            yield _heading(start, level, title)
            number, after_blank = number + taken, True
            continue
        if _ITEM.match(line):
            yield Block(start, Rank.ITEM)
        elif after_blank or line.startswith(".. "):
            yield Block(start, _paragraph(line), by_line=line.startswith((">>> ", "+-", "===")))
        number, after_blank = number + 1, False


_PAGE_BORDER = re.compile(
    rf"{HEADING}(#{{1,6}}) ([^{HEADING}]{{0,1000}}+){HEADING}|[{LINE}{HEADING}][^\S{HEADING}]*+"
)


def _page(text: str) -> Iterator[Block]:
    for match in _PAGE_BORDER.finditer(text):
        if match[1]:
            yield _heading(match.start(), len(match[1]), match[2])
            if match.end() < len(text):
                yield Block(match.end(), Rank.SENTENCE)
        else:
            yield Block(match.end(), Rank.PARAGRAPH)


_READERS: dict[str, Callable[[str], Iterator[Block]]] = {"markdown": _markdown, "rst": _rest, "html": _page}
