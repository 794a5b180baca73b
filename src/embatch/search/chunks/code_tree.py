"""From a syntax tree to the spans that `lines_fitting` makes chunks of: one walk for all languages.

`grammars` says what the nodes mean. A span is a run of sibling nodes: a definition with the comments above it, a
statement, and what is neither, such as a closing brace, goes with what it follows. Nothing here recurses: trees are as
deep as whoever wrote the source wished.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from embatch.search.chunks.code_names import Definition, Definitions, header, joined, spoken
from embatch.search.chunks.grammars import GRAMMARS
from embatch.search.chunks.lines_fitting import Label, Span
from embatch.search.chunks.lines_tearing import Border

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.chunks import ChunkKind
    from embatch.search.chunks.lines_fitting import Fitting

_TINY = 12  # a definition of less than this part of a chunk is joined with its neighbours
_CRUMB = 16  # less than this part is no chunk if it can be avoided
_SMALL = 3  # a class of less than this part stays whole
_LOOK_BACK = 400  # characters before a token in which its line's beginning is looked for
_MARK_BYTES = 3  # a token of no more is taken for a mark, such as the end of a string
_STATEMENTS = ("statement", "declaration", "definition", "item", "clause")


class Offsets:
    """Characters for the bytes that tree-sitter counts."""

    def __init__(self, text: str, source: bytes) -> None:
        self._characters: Any = None
        if len(source) != len(text):
            first = (np.frombuffer(source, np.uint8) & 0xC0) != 0x80
            self._characters = np.concatenate([[0], np.cumsum(first, dtype=np.int64)])

    def __call__(self, byte: int) -> int:
        """The character that begins at a byte."""
        return byte if self._characters is None else int(self._characters[byte])


class Tree:
    """Opens the spans of one document, level by level."""

    def __init__(self, text: str, source: bytes, language: str) -> None:
        self._text = text
        self._source = source
        self._at = Offsets(text, source)
        self._grammar = GRAMMARS[language]
        self._definitions = Definitions(self._grammar, source)
        self._leads = self._grammar.leads
        self._comments = self._grammar.comments
        self._containers = self._grammar.classes | self._grammar.spaces
        self._fitting: Fitting
        self.imports: list[Any] = []
        """The import nodes outside of functions, in order."""

    def spans(self, root: Any, fitting: Fitting) -> list[Span]:
        """The document's spans: its definitions, those in classes too, and the statements between them."""
        self._fitting = fitting
        room = fitting.limits.room
        found: list[Span] = []
        waiting = self._gathered(root.children, 0, len(self._text), Label("block"))[::-1]
        while waiting:
            span = waiting.pop()
            if self._holds_more(span) and fitting.is_over(span.start, span.end, room // _SMALL):
                parts = self.opened(span)
                if parts:
                    waiting.extend(reversed(parts))
                    continue
            if not span.scope.members and span.definition is None:
                self.imports.extend(node for node in span.nodes if node.type in self._grammar.imports)
            found.append(span)
        return self._without_crumbs(found)

    def _without_crumbs(self, spans: Sequence[Span]) -> list[Span]:
        """The spans, with what is almost nothing, such as `extern "C" {`, as the beginning of what follows it."""
        kept: list[Span] = []
        for span in spans:
            last = kept[-1] if kept else None
            if (
                span.alone
                and last is not None
                and not last.alone
                and last.label.kind == "block"
                and (len(kept) < 2 or kept[-2].alone or kept[-2].scope is not last.scope)
                and not self._fitting.is_over(last.start, last.end, self._fitting.limits.room // _CRUMB)
                and not any(node.type in self._grammar.imports for node in last.nodes)
            ):
                kept[-1] = span._replace(start=last.start, nodes=[*last.nodes, *span.nodes])
            else:
                kept.append(span)
        return kept

    def _holds_more(self, span: Span) -> bool:
        if span.definition is not None:
            return span.definition.node.type in self._containers
        return any(node.type in self._grammar.open for node in span.nodes)

    def opened(self, span: Span) -> list[Span]:
        """The spans that a span is made of; none if it is a single token."""
        if span.definition is not None:
            return self._opened_definition(span)
        nodes = span.nodes
        while len(nodes) == 1:
            nodes = nodes[0].children
        if len(nodes) < 2:
            return []
        if len(span.nodes) > 1:
            inside = any(node.type in self._grammar.open for node in nodes)
            if inside:
                nodes = [part for node in nodes for part in self._inside(node)]
                parts = self._gathered(nodes, span.start, span.end, span.scope)
            else:
                parts = self._singly(nodes, span)
            if span.head:  # a comment, a name and parameters belong together
                parts = [part._replace(border=Border.WITHIN) for part in parts]
        else:
            parts = self._gathered(nodes, span.start, span.end, span.scope)
            if len(parts) < 2:
                parts = self._singly(nodes, span)
        return _led(parts, span)

    def _inside(self, node: Any) -> list[Any]:
        return node.children if node.type in self._grammar.open else [node]

    def _opened_definition(self, span: Span) -> list[Span]:
        definition: Definition = span.definition
        symbol = span.label.symbol
        head, items = _body(span.nodes, definition.node, self._grammar.bodies)
        while items and len(head) > 1 and head[-1].type in self._comments and _gap(head[-2], head[-1]):
            items.insert(0, head.pop())  # some grammars see a body begin behind its first comments
        line = self._fitting.context(header(self._source, definition.node, self._grammar.bodies))
        if definition.node.type in self._containers:
            scope = Label("block", symbol, line, members=definition.node.type in self._grammar.classes)
        else:
            above = symbol.rpartition(".")[0]
            line = f"{above}: {line}" if above else line
            scope = Label(span.label.kind, symbol, self._fitting.context(f"{spoken(symbol)}: {line}"))
        if not items:
            return _led(self._singly(head, span._replace(scope=scope)), span) if len(head) > 1 else []
        parts = self._gathered(items, span.start, span.end, scope)
        if head:
            start = self._cut(items[0], self._at(head[-1].end_byte), span.start)
            if start > span.start:
                first = Span(span.start, start, span.border, span.label, scope, head=True, nodes=head)
                return [first, *self._gathered(items, start, span.end, scope)]
            parts[0] = parts[0]._replace(nodes=[*head, *parts[0].nodes], definition=None, alone=False)
        return _led(parts, span)

    def _gathered(self, nodes: Sequence[Any], start: int, end: int, scope: Label) -> list[Span]:
        """The nodes as spans: each with what is above it and belongs to it, and what follows and is no item."""
        return self._spans(self._items(nodes), start, end, scope)

    def _singly(self, nodes: Sequence[Any], span: Span) -> list[Span]:
        """One span a node."""
        return self._spans([[node] for node in nodes], span.start, span.end, span.scope)

    def _spans(self, items: Sequence[list[Any]], start: int, end: int, scope: Label) -> list[Span]:
        if not items:
            return [Span(start, end, Border.TOKEN, scope, scope)] if start < end else []
        starts = [start]
        before = self._at(items[0][-1].end_byte)
        for item in islice(items, 1, None):
            starts.append(self._cut(item[0], before, starts[-1]))
            before = self._at(item[-1].end_byte)
        ends = [*starts[1:], end]
        return [
            self._span(item, begin, stop, scope)
            for item, begin, stop in zip(items, starts, ends, strict=True)
            if begin < stop
        ]

    def _span(self, nodes: list[Any], start: int, end: int, scope: Label) -> Span:
        border = _border(nodes[0])
        definition = self._definitions.of(nodes)
        if definition is None:
            return Span(start, end, border, scope, scope, nodes=nodes)
        symbol = joined(scope.symbol, definition.name)
        if definition.node.type in self._grammar.spaces:
            label = Label("block", symbol, scope.context)
        else:
            # A name in plain words is what a question has in common with it: models split no `getHTTPResponse`.
            names = f"{spoken(symbol)}: {scope.context}" if scope.context else spoken(symbol)
            is_class = definition.node.type in self._grammar.classes or definition.is_class
            is_method = scope.members or definition.is_method
            kind: ChunkKind = "class" if is_class else "method" if is_method else "function"
            label = Label(kind, symbol, self._fitting.context(names))
        alone = self._fitting.is_over(start, end, self._fitting.limits.room // _TINY)
        return Span(start, end, border, label, scope, alone=alone, nodes=nodes, definition=definition)

    def _cut(self, node: Any, before: int, least: int) -> int:
        """Where to cut before a node: where its line begins if it is the first in it."""
        start = self._at(node.start_byte)
        line = self._text.rfind("\n", max(0, start - _LOOK_BACK, before - 1), start) + 1
        if line and not self._text[line:start].strip(" \t"):
            start = line
        return max(start, before, least)

    def _items(self, nodes: Sequence[Any]) -> list[list[Any]]:
        items: list[list[Any]] = []
        leads: list[Any] = []
        previous: Any = None
        for node in nodes:
            kind = node.type if node.is_named else ""
            is_comment = kind in self._comments
            gap = _gap(previous, node) if (leads or is_comment) and previous is not None else 0
            if leads and gap > 1 and leads[-1].type not in self._leads:
                items.append(leads)
                leads = []
            if items and not leads and (not kind or (is_comment and not gap)):
                items[-1].append(node)
            elif is_comment or kind in self._leads:
                leads.append(node)
            else:
                items.append([*leads, node])
                leads = []
            previous = node
        if leads:
            items.append(leads)
        return items


def _border(node: Any) -> int:
    if not node.is_named or (node.end_byte - node.start_byte <= _MARK_BYTES and not node.child_count):
        return Border.WITHIN
    return Border.STATEMENT if node.type.endswith(_STATEMENTS) else Border.TOKEN


def _gap(before: Any, node: Any) -> int:
    """Line breaks between two nodes; some grammars take the one behind a comment for a part of it."""
    end = before.end_point
    last = end.row - (end.column == 0 and end.row > before.start_point.row)
    return int(node.start_point.row - last)


def _led(parts: list[Span], span: Span) -> list[Span]:
    """The parts, the first of them with the border and the label of what it is the beginning of."""
    if parts:
        first = parts[0]
        label = first.label if first.definition is not None else span.label
        parts[0] = first._replace(
            border=span.border, label=label, head=span.head or span.definition is not None
        )
    return parts


def _body(nodes: Sequence[Any], definition: Any, bodies: frozenset[str]) -> tuple[list[Any], list[Any]]:
    """The nodes before a definition's first member or statement, and that with all that follow it."""
    before: list[Any] = []
    after: list[list[Any]] = []
    inside: Sequence[Any] = nodes
    while True:
        at = next((i for i, node in enumerate(inside) if _holds(node, definition)), None)
        if at is None:
            return before, [node for rest in reversed(after) for node in rest]
        before += inside[:at]
        after.append(list(inside[at + 1 :]))
        holder = inside[at]
        inside = holder.children
        if holder == definition:
            break
    at = next((i for i, node in enumerate(inside) if node.type in bodies), None)
    if at is None:
        return [*before, *inside], [node for rest in reversed(after) for node in rest]
    members = inside[at].children
    first = next((i for i, node in enumerate(members) if node.is_named), len(members))
    after.append(list(inside[at + 1 :]))
    before += [*inside[:at], *members[:first]]
    return before, [*members[first:], *(node for rest in reversed(after) for node in rest)]


def _holds(node: Any, other: Any) -> bool:
    return bool(node.start_byte <= other.start_byte and other.end_byte <= node.end_byte)
