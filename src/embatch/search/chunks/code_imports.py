"""Which import lines of a file a chunk of it uses: text for the index, found by the names that they bind."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAME = re.compile(r"[^\W\d]\w*")
_ALIAS = re.compile(r"\b([^\W\d]\w*)\s*(?:\bas\b|=)\s*|(?:\bas\b)\s+([^\W\d]\w*)\s*$")
_ITEMS = re.compile(r"[,{}();\n]+")
_STRING = re.compile(r"[\"'`]([^\"'`]*)[\"'`]|<([^<>]*)>")
_MOST_CHARS = 300
_MOST_LINES = 40

# Words of import lines that bind nothing.
_KEYWORDS = frozenset(
    {
        *(
            "import",
            "from",
            "as",
            "use",
            "using",
            "static",
            "type",
            "typeof",
            "pub",
            "crate",
            "self",
            "super",
        ),
        *(
            "extern",
            "require",
            "default",
            "package",
            "mut",
            "global",
            "unsafe",
            "namespace",
            "const",
            "function",
        ),
    }
)


class Imports:
    """The import lines of one document."""

    def __init__(self, language: str, nodes: Sequence[Any], source: bytes) -> None:
        self._lines: list[str] = []
        self._by_name: dict[str, list[int]] = {}
        for node in nodes:
            raw = source[node.start_byte : min(node.end_byte, node.start_byte + 8192)].decode(
                "utf-8", "replace"
            )
            for line in _import_lines(language, raw):
                self._add(line, bound_names(language, line))

    def _add(self, line: str, names: set[str]) -> None:
        if names:
            for name in names:
                self._by_name.setdefault(name, []).append(len(self._lines))
            self._lines.append(" ".join(line.split())[:_MOST_CHARS].rstrip(";"))

    def used_by(self, text: str) -> str:
        """The lines whose names a text uses, in the file's order, one a line."""
        if not self._by_name:
            return ""
        used = self._by_name.keys() & set(_NAME.findall(text))
        if not used:
            return ""
        lines = sorted({at for name in used for at in self._by_name[name]})
        return "\n".join(self._lines[at] for at in lines[:_MOST_LINES])


def _import_lines(language: str, text: str) -> list[str]:
    """An import node's lines: a block of Go's has several."""
    if language == "go":
        return [
            f"import {part.strip()}"
            for part in re.split(r"[()\n;]", text.removeprefix("import"))
            if part.strip()
        ]
    return [text]


def bound_names(language: str, line: str) -> set[str]:
    """The names that an import line makes known. None if it is no import line, or brings unknown names."""
    if language == "python":
        return _python(line)
    if language in ("javascript", "jsx", "typescript", "tsx"):
        return _javascript(line)
    if language == "ruby":
        return _ruby(line)
    if language == "go":
        return _go(line)
    if language in ("c", "cpp") and line.lstrip().startswith("#"):
        return _included(line)
    return {name for item in _ITEMS.split(line) if (name := _last_name(item))}


def _python(line: str) -> set[str]:
    words = " ".join(part.partition("#")[0] for part in line.split("\n"))
    if words.startswith("from"):
        _, _, words = words.partition(" import ")
        return {name for item in _ITEMS.split(words) if (name := _last_name(item))}
    names = set()
    for item in words.removeprefix("import").split(","):
        module, _, alias = item.partition(" as ")
        names.add(alias.strip() or module.strip().partition(".")[0])
    return names - {""}


def _javascript(line: str) -> set[str]:
    if line.startswith("import"):
        head, found, _ = line.rpartition(" from ")
        items = _ITEMS.split(head.removeprefix("import") if found else "")
    elif "require(" in line:
        items = _ITEMS.split(line.partition("=")[0].replace(":", " as "))
    else:
        return set()
    return {name for item in items if (name := _last_name(item))}


def _ruby(line: str) -> set[str]:
    if not line.startswith(("require", "load", "autoload", "include", "extend")):
        return set()
    if match := _STRING.search(line):
        last = match.group(1).rpartition("/")[2]
        return {"".join(word[:1].upper() + word[1:] for word in re.split(r"[_\-.]", last)), last} - {""}
    return {names[-1]} if (names := _NAME.findall(line)[1:]) else set()


def _go(line: str) -> set[str]:
    match = _STRING.search(line)
    if match is None:
        return set()
    alias = _NAME.findall(line[: match.start()])
    if len(alias) > 1:
        return {alias[-1]} - {"_"}
    parts = [part for part in (match.group(1) or "").split("/") if part and not re.fullmatch(r"v\d+", part)]
    names = _NAME.findall(parts[-1].removeprefix("go-").partition(".")[0]) if parts else []
    return set(names[-1:])


def _included(line: str) -> set[str]:
    """A header binds names that only it knows; code that is named after it is taken to use it."""
    match = _STRING.search(line)
    path = (match.group(1) or match.group(2) or "") if match else ""
    stem = path.rpartition("/")[2].partition(".")[0]
    return {stem} if _NAME.fullmatch(stem) else set()


def _last_name(item: str) -> str:
    """The name that an item of an import list binds: `c` of `a.b.c`, `d` of `c as d` and of `d = a.b`."""
    item = _STRING.sub("", item).strip()
    if "=" in item:
        item = item.partition("=")[0]
    names = _NAME.findall(item)
    if not names or (item.endswith("*") and " as " not in item):
        return ""
    return "" if names[-1] in _KEYWORDS else str(names[-1])
