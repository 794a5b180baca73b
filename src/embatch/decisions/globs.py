"""Patterns over paths, as regular expressions that every store understands.

Between `Where.paths` and a store's filter. What comes out keeps to the syntax that Python, Rust's `regex` and
PostgreSQL share. It looks at no file system: paths are text with `/` between their parts.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from embatch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SPECIAL = frozenset(".^$*+?{}[]\\|()")
_SPECIAL_IN_CLASS = frozenset("]\\^[-&~")
_ANY = "([^/]|/)*"  # a dot means different things in different libraries


class PathRules(NamedTuple):
    """Regular expressions over whole paths. A path passes if it matches one of `only`, if any, and none of `never`."""

    only: tuple[str, ...]
    never: tuple[str, ...]


def path_rules(patterns: Sequence[str]) -> PathRules:
    """The patterns as regular expressions from `^` to `$`; `!` before one excludes.

    Raises:
        UsageError: a pattern is empty, or has a range such as `[z-a]`.
    """
    only = [f"^{to_regex(pattern)}$" for pattern in patterns if not pattern.startswith("!")]
    never = [f"^{to_regex(pattern[1:])}$" for pattern in patterns if pattern.startswith("!")]
    return PathRules(tuple(only), tuple(never))


def path_filter(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Whether a path passes the patterns.

    Raises:
        UsageError: see `path_rules`.
    """
    rules = path_rules(patterns)
    only = [re.compile(rule[1:-1]) for rule in rules.only]  # `$` would let a final line break through
    never = [re.compile(rule[1:-1]) for rule in rules.never]

    def passes(path: str) -> bool:
        return (not only or any(rule.fullmatch(path) for rule in only)) and not any(
            rule.fullmatch(path) for rule in never
        )

    return passes


def to_regex(pattern: str) -> str:
    """One pattern, without anchors.

    `*` and `?` stay within a part, `**` goes over parts (`a/**/b` is also `a/b`), `[a-z]` and `[!a-z]` are one
    character, `a/` is everything below `a`, and `./` at the front means nothing. All else is literal.

    Raises:
        UsageError: see `path_rules`.
    """
    text = pattern.removeprefix("./")
    if not text:
        raise UsageError(f"{pattern!r} is no pattern of paths", hint="Write for example 'src/**/*.py'.")
    if text.endswith("/"):
        text += "**"
    parts: list[str] = []
    at = 0
    while at < len(text):
        piece, at = _piece(text, at)
        parts.append(piece)
    return "".join(parts)


def _piece(text: str, at: int) -> tuple[str, int]:
    """What stands at a place, as a regular expression, and the place behind it."""
    char = text[at]
    if text.startswith("**", at):
        end = at + len(text[at:]) - len(text[at:].lstrip("*"))
        if (at == 0 or text[at - 1] == "/") and text.startswith("/", end):
            return f"({_ANY}/)?", end + 1
        return _ANY, end
    if char == "*":
        return "[^/]*", at + 1
    if char == "?":
        return "[^/]", at + 1
    if char == "[" and (end := text.find("]", at + (3 if text.startswith("!", at + 1) else 2))) > 0:
        return _class(text[at + 1 : end]), end + 1
    return (f"\\{char}" if char in _SPECIAL else char), at + 1


def _class(inner: str) -> str:
    negated = inner.startswith("!")
    members = inner[1:] if negated else inner
    parts: list[str] = []
    at = 0
    while at < len(members):
        first = last = members[at]
        at += 1
        if members.startswith("-", at) and at + 1 < len(members):
            last = members[at + 1]
            at += 2
        if first > last:
            raise UsageError(f"the range {first}-{last} in the pattern [{inner}] is the wrong way round")
        parts.append(_in_class(first) if first == last else f"{_in_class(first)}-{_in_class(last)}")
    return f"[^{''.join(parts)}/]" if negated else f"[{''.join(parts)}]"


def _in_class(char: str) -> str:
    return f"\\{char}" if char in _SPECIAL_IN_CLASS else char
