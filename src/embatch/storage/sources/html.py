"""The visible text of an HTML page.

Used by `documents`. Blocks become lines and paragraphs, so that chunking finds borders; scripts, styles and what a
browser does not show are dropped. Layout, links' targets and images' descriptions are left out.
"""

from __future__ import annotations

import re

from selectolax.lexbor import LexborHTMLParser, LexborNode

_NOT_SHOWN = (
    "script style template noscript svg math iframe object embed canvas audio video head select datalist "
    "input textarea"
)
_OWN_PARAGRAPH = (
    "address article aside blockquote body details dialog dl fieldset figure footer form h1 h2 h3 h4 h5 h6 header "
    "hr main nav ol p pre section table ul"
)
_OWN_LINE = "br caption dd div dt figcaption legend li optgroup option summary tbody tfoot thead tr"

_DROPPED = frozenset(_NOT_SHOWN.split())
_PARAGRAPHS = frozenset(_OWN_PARAGRAPH.split())
_LINES = frozenset(_OWN_LINE.split())
_CELLS = frozenset(("td", "th"))

_SPACES = re.compile(r"[ \t\n\r\f]+")
_RUNS = re.compile(r" {2,}")

# Stand for a new line, a new paragraph and a space that counts, until all are there: the parser gives no surrogates.
_LINE, _PARAGRAPH, _KEPT = "\ud800", "\ud801", "\ud802"
_BORDERS = re.compile(f"[ \n]?[{_LINE}{_PARAGRAPH}][ {_LINE}{_PARAGRAPH}]*+")


def page_text(page: str) -> str:
    """Title, empty line, and the body's text with one empty line between paragraphs."""
    tree = LexborHTMLParser(page)
    title = tree.css_first("title")
    body = tree.body
    parts = [_SPACES.sub(" ", title.text()).strip() if title is not None else ""]
    if body is not None:
        parts.append(_visible(body))
    return "\n\n".join(part for part in parts if part)


def _visible(body: LexborNode) -> str:
    """Walks the tree without recursion: generated pages nest thousands deep."""
    out: list[str] = []
    preformatted = 0  # how many open elements keep their spaces and line breaks
    node: LexborNode | None = body
    depth = 0
    entering = True
    while node is not None and depth >= 0:
        tag = node.tag or ""
        shown = tag not in _DROPPED
        if entering and node.is_text_node:
            out.append(_text(node, keep=preformatted > 0))
        elif shown and (entering or tag != "br"):
            out.append(_border(tag))
            preformatted += (tag == "pre") * (1 if entering else -1)
        child = node.first_child if entering and shown else None
        following = child or (node.next if depth else None)
        entering = following is not None
        depth += 1 if child is not None else 0 if entering else -1
        node = following or node.parent
    return _tidy("".join(out))


def _text(node: LexborNode, *, keep: bool) -> str:
    text = node.text_content or ""
    return text.replace("\r\n", "\n").replace(" ", _KEPT) if keep else _SPACES.sub(" ", text)


def _border(tag: str) -> str:
    if tag in _PARAGRAPHS:
        return _PARAGRAPH
    if tag in _LINES:
        return _LINE
    return " " if tag in _CELLS else ""


def _tidy(text: str) -> str:
    text = _BORDERS.sub(_newlines, _RUNS.sub(" ", text))
    return text.strip().replace(_KEPT, " ")


def _newlines(borders: re.Match[str]) -> str:
    return "\n\n" if _PARAGRAPH in borders[0] else "\n"
