r"""An HTML page as the text that people see, its lines where they are in the file.

Used by `reading`; `prose` knows the marks. Unlike `storage/sources/html`, which makes texts to embed whole, this
keeps every line break of the file and adds none, so that a chunk can say in which lines it is. Blocks that begin
within a line are set apart by `U+2028`. Headings begin with `U+2029` and as many `#` as their level, and end with
`U+2029`. Scripts, styles and what a browser does not show are dropped; layout, links' targets and images' descriptions
are left out.
"""

from __future__ import annotations

import re
from html import unescape

LINE = "\u2028"
"""Begins a block. White space to everybody else, tokenisers included."""

HEADING = "\u2029"
"""Stands before and behind a heading."""

_NOT_SHOWN = (
    "script style template noscript svg math iframe object canvas audio video select datalist textarea"
)
_DROPPED = frozenset(_NOT_SHOWN.split())
_TO_THE_END = frozenset(("script", "style", "textarea"))
"""Without an end tag they take in the rest of the page."""

_APART = (
    "address article aside blockquote body br caption dd details dialog div dl dt fieldset figcaption "
    "figure footer form header hr legend li main nav ol optgroup option p pre section summary table tbody "
    "tfoot thead title tr ul"
)
_BLOCKS = frozenset(_APART.split())
_CELLS = frozenset(("td", "th"))
_HEADINGS = {f"h{level}": level for level in range(1, 7)}

# Bounded and without backtracking: a page of nothing but quotes and brackets takes linear time too.
_TAG = re.compile(
    r"""<(?:(/?)([A-Za-z][A-Za-z0-9-]*+)(?:[^<>"']++|"[^"]*+"|'[^']*+'|<){0,300}+>|[!?][^>]*+>)"""
)
_SPACES = re.compile(r"[ \t\f\v\r]+")
_LINE_ENDS = re.compile(r" ?\n ?")
_MARKS = str.maketrans({LINE: " ", HEADING: " "})


def visible_lines(page: str) -> str:
    """The text of a page with as many line breaks as the page has, each where it was."""
    return _Page(page).read()


class _Page:
    """A page that is read from left to right."""

    def __init__(self, page: str) -> None:
        self._page = page
        self._out: list[str] = []
        self._preformatted = 0
        self._open_heading = -1  # where in `_out` it begins
        self._unclosed: set[str] = set()  # tags without an end from here on

    def read(self) -> str:
        page, at = self._page, 0
        while (tag_at := page.find("<", at)) >= 0:
            if page.startswith("<!--", tag_at):
                self._text(at, tag_at)
                at = self._drop(tag_at, page.find("-->", tag_at + 4), 3)
                continue
            tag = _TAG.match(page, tag_at)
            if tag is None:  # a bracket that begins no tag
                self._text(at, tag_at + 1)
                at = tag_at + 1
                continue
            self._text(at, tag_at)
            at = self._tag(tag, (tag[2] or "").lower(), opens=not tag[1])
        self._text(at, len(page))
        return "".join(self._out)

    def _tag(self, tag: re.Match[str], name: str, *, opens: bool) -> int:
        """What a tag means; returns where to go on."""
        if opens and name in _DROPPED:
            after = self._end_of(name, tag.end())
            if after >= 0:
                return self._drop(tag.start(), after, 0)
        if name in _HEADINGS:
            self._heading(name, opens=opens)
        elif name in _BLOCKS:
            if self._out[-1:] != [LINE]:
                self._out.append(LINE)
            self._preformatted += (name == "pre") * (1 if opens else -1)
        elif name in _CELLS:
            self._out.append(" ")
        return self._drop(tag.start(), tag.end(), 0)

    def _heading(self, name: str, *, opens: bool) -> None:
        """A heading is one only once it ends."""
        if opens:
            self._open_heading = len(self._out)
            self._out.append(LINE)
        elif self._open_heading >= 0:
            self._out[self._open_heading] = f"{HEADING}{'#' * _HEADINGS[name]} "
            self._out.append(HEADING)
            self._open_heading = -1

    def _end_of(self, name: str, start: int) -> int:
        """Behind the end tag of an element that is not shown; -1 if it never ends and only seems to begin."""
        if name not in self._unclosed:
            end = re.compile(rf"</{name}[^>]*+>", re.IGNORECASE).search(self._page, start)
            if end is not None:
                return end.end()
            self._unclosed.add(name)
        return len(self._page) if name in _TO_THE_END else -1

    def _drop(self, start: int, end: int, more: int) -> int:
        """Pass over the characters up to `end + more`, or all if `end` is negative, but not over their line breaks."""
        end = len(self._page) if end < 0 else end + more
        breaks = self._page.count("\n", start, end)
        if breaks:
            self._out.append("\n" * breaks)
        return end

    def _text(self, start: int, end: int) -> None:
        if start >= end:
            return
        text = self._page[start:end]
        if "&" in text:
            text = "\n".join(unescape(line).replace("\n", " ") for line in text.split("\n"))
        text = text.translate(_MARKS) if LINE in text or HEADING in text else text
        if self._preformatted <= 0:
            text = _LINE_ENDS.sub("\n", _SPACES.sub(" ", text))
        self._out.append(text)
