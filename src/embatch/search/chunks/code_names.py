"""Which node names a span, and how: from the nodes of a syntax tree to symbols with dots."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.search.chunks.grammars import Grammar

_MOST_CHARS = 120  # of a name; a symbol is cut to twice as many, at its beginning
_BEFORE_HEADERS = ("modifier", "modifiers", "attribute_list", "attribute_item", "decorator", "comment")
_GENERICS = re.compile(r"<[^<>]*>")
_SEPARATORS = re.compile(r"\s*(?:::|->|\\|\.|#)\s*")
_WORDS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+|[^\W\d_a-zA-Z]+")
_PLAIN = re.compile(r"^(?:module\.)?exports\.|\.prototype\b|[\"'`\[\]*&]")


class Definition(NamedTuple):
    """What a span is named by."""

    node: Any
    name: str
    is_method: bool
    is_class: bool
    """Whether it is a class without a name of its own."""


class Definitions:
    """Finds definitions among the nodes of one language."""

    def __init__(self, grammar: Grammar, source: bytes) -> None:
        self._grammar = grammar
        self._source = source
        self._named = grammar.named
        self._entered = grammar.wrappers | frozenset(grammar.assigned)
        self._seen = self._named | self._entered

    def of(self, nodes: Sequence[Any]) -> Definition | None:
        """The definition among siblings, the first if there are several; one in a wrapper counts."""
        for node in nodes:
            if node.type in self._seen and (found := self._behind(node)):
                return found
        return None

    def _behind(self, node: Any) -> Definition | None:
        named: Any = None  # what gives the definition a name that has none itself
        while True:
            kind = node.type
            if kind in self._named:
                return self._definition(node, named)
            if kind in self._grammar.assigned:
                name, value = self._grammar.assigned[kind]
                named = node.child_by_field_name(name)
                node = node.child_by_field_name(value)
                if node is None or named is None:
                    return None
                if node.type in self._grammar.values:
                    return Definition(node, self._text(named), is_method=False, is_class=node.type == "class")
                if node.type not in self._grammar.assigned:
                    return None
                continue
            if kind in self._grammar.wrappers:
                named = node.child_by_field_name("declarator") or named
                inner = next((child for child in node.named_children if child.type in self._seen), None)
                if inner is None:
                    return None
                node = inner
                continue
            return None

    def _definition(self, node: Any, named: Any) -> Definition | None:
        kind = node.type
        if kind.endswith("_specifier") and node.child_by_field_name("body") is None:
            return None  # the use of a struct, not the struct
        name_node = next(
            (found for name in self._grammar.names if (found := self._named_by(node, name))), None
        )
        name = self._text(_declared(name_node or named)) if name_node or named else ""
        is_method = kind in self._grammar.methods or ("." in name and kind in self._grammar.functions)
        if self._grammar.owner and (owner := node.child_by_field_name(self._grammar.owner)):
            name = joined(_type_name(self._source[owner.start_byte : owner.end_byte]), name)
        return Definition(node, name, is_method, is_class=False)

    def _named_by(self, node: Any, name: str) -> Any:
        found = node.child_by_field_name(name)
        if found is None and name.endswith("_reference"):  # no field: a child's type
            found = next((child for child in node.named_children if child.type == name), None)
        return found

    def _text(self, node: Any) -> str:
        raw = self._source[node.start_byte : min(node.end_byte, node.start_byte + 4 * _MOST_CHARS)]
        return plain(raw.decode("utf-8", "replace"))


def plain(name: str) -> str:
    """A name as a symbol: parts with dots between them, no generics, no quotes."""
    text = " ".join(name.split())
    for _ in range(3):
        text = _GENERICS.sub("", text)
    if not text.startswith("operator"):
        text = (
            _PLAIN.sub("", _SEPARATORS.sub(".", text)) if "operator" not in text else text.replace("::", ".")
        )
    return text.strip(". ")[:_MOST_CHARS]


def joined(above: str, name: str) -> str:
    """The symbol of a name in a scope. Of a very long one, the end is kept."""
    symbol = f"{above}.{name}" if above and name else above or name
    return symbol if len(symbol) <= 2 * _MOST_CHARS else symbol[-2 * _MOST_CHARS :].partition(".")[2]


def header(source: bytes, node: Any, bodies: frozenset[str]) -> str:
    """A definition from its keyword up to its body: `class Foo(Bar):`."""
    start, end = -1, node.end_byte
    for child in node.children:
        if start < 0 and not child.type.endswith(_BEFORE_HEADERS):
            start = child.start_byte
        elif start >= 0 and (child.type in bodies or child.type.endswith("comment")):
            end = child.start_byte
            break
    start = max(start, node.start_byte)
    text = source[start : min(end, start + 400)].decode("utf-8", "ignore").strip()
    return text if end < node.end_byte else text.partition("\n")[0]


def _declared(node: Any) -> Any:
    """The name in a C declarator: behind stars, brackets and parameters."""
    while node.type.endswith("declarator"):
        inner = node.child_by_field_name("declarator") or next(iter(node.named_children), None)
        if inner is None:
            return node
        node = inner
    return node


def _type_name(receiver: bytes) -> str:
    """The type of a Go receiver: `Stack` for `(s *Stack[T])`."""
    words = re.findall(r"\w+", receiver.decode("utf-8", "replace").partition("[")[0])
    return str(words[-1])[:_MOST_CHARS] if words else ""


def spoken(symbol: str) -> str:
    """A symbol in plain words, as a person would say it.

    >>> spoken("HTTPServer.handle_request"), spoken("__init__")
    ('http server handle request', 'init')
    """
    return " ".join(_WORDS.findall(symbol)).lower()
