"""Hits as a person wants them in a terminal, and as JSON for programs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from embatch.decisions.lanes.words import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from embatch.chunks import Hit
    from embatch.frontends.searching.index import Index

_SEPARATORS = str.maketrans({"\u2028": " ", "\u2029": " ", "\r": "", "\f": " ", "\x1b": " "})
_LEXERS = {"c_sharp": "csharp", "text": "text", "shell": "bash"}  # where ours is not the highlighter's name


def as_json(index: Index, asked: Sequence[str], found: Sequence[Sequence[Hit]]) -> None:
    """One object a question, one a line."""
    for question, hits in zip(asked, found, strict=True):
        told = {"query": question, "count": len(hits), "hits": [_hit(index, hit) for hit in hits]}
        sys.stdout.write(json.dumps(told, ensure_ascii=False) + "\n")


def as_text(
    index: Index, asked: Sequence[str], found: Sequence[Sequence[Hit]], *, lines: int, several: bool
) -> None:
    """`path:line  symbol`, and the first lines of each place below it; coloured in a terminal."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    for question, hits in zip(asked, found, strict=True):
        if several:
            console.print(question, style="bold", markup=False)
        if not hits:
            console.print("Nothing found.", style="dim")
        for hit in hits:
            _show(console, index, hit, lines)
        if several:
            console.print()


def stats(index: Index, *, as_json: bool) -> int:
    """What an index holds."""
    told = index.stats()
    spec = index.reader.spec
    if as_json:
        fields = {
            "index": index.location,
            "root": str(index.root),
            "chunks": told.chunks,
            "files": told.files,
            "bytes": told.bytes,
            "languages": dict(told.by_language),
            "kinds": dict(told.by_kind),
            "vector_index": told.vector_index,
            "recall": told.recall,
            "model": spec.model,
            "precision": spec.precision,
            "dimensions": spec.dimensions,
            "fingerprint": spec.fingerprint,
        }
        sys.stdout.write(json.dumps(fields, ensure_ascii=False) + "\n")
        return 0
    lines = [
        f"{count(told.chunks, 'chunk')} of {count(told.files, 'file')}, {told.bytes / 1e6:,.1f} MB, {index.location}",
        f"  {spec.model}, {spec.precision}, {spec.dimensions} dimensions",
        f"  vector index: {told.vector_index}"
        + ("" if told.recall is None else f", recall at 10 {told.recall:.3f}"),
        *(
            f"  {what}: " + ", ".join(f"{number:,} {name}" for name, number in _largest(numbers.items()))
            for what, numbers in (("languages", told.by_language), ("kinds", told.by_kind))
            if numbers
        ),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _largest(numbers: Any) -> list[tuple[str, int]]:
    return sorted(numbers, key=lambda pair: (-pair[1], pair[0]))


def _hit(index: Index, hit: Hit) -> dict[str, Any]:
    return fields_of(hit, file=str(index.root / hit.chunk.path))


def fields_of(hit: Hit, **more: Any) -> dict[str, Any]:
    """A hit as programs read it; `more` stands behind its path."""
    chunk = hit.chunk
    return {
        "path": chunk.path,
        **more,
        "start_line": chunk.start_line,
        "end_line": chunk.end_line,
        "language": chunk.language,
        "kind": chunk.kind,
        "symbol": chunk.symbol,
        "score": round(hit.score, 6),
        "text": chunk.text,
    }


def _show(console: Console, index: Index, hit: Hit, lines: int) -> None:
    from rich.text import Text

    chunk = hit.chunk
    skipped = len(chunk.text) - len(chunk.text.lstrip("\r\n"))
    first = chunk.start_line + chunk.text[:skipped].count("\n")
    head = Text()
    head.append(index.place.shown(chunk.path), style="magenta")
    head.append(":")
    head.append(str(first), style="green")
    if chunk.symbol:
        head.append(f"  {chunk.symbol}", style="bold")
    console.print(head)
    if lines:
        console.print(
            _excerpt(chunk.text.strip("\r\n"), chunk.language, first, lines, colour=console.is_terminal)
        )


def _excerpt(text: str, language: str, first: int, lines: int, *, colour: bool) -> Any:
    """The first lines, numbered; highlighted where somebody sees it."""
    from rich.text import Text

    # Not `splitlines`: pages of HTML have other separators within their lines.
    all_lines = text.translate(_SEPARATORS).expandtabs(4).split("\n")
    shown = [line.rstrip() for line in all_lines[:lines]]
    width = len(str(first + len(shown)))
    if not colour:
        body = "\n".join(f"  {first + at:>{width}}  {line}" for at, line in enumerate(shown))
        return Text(body)
    from rich.syntax import Syntax

    return Syntax(
        "\n".join(shown),
        _LEXERS.get(language, language),
        line_numbers=True,
        start_line=first,
        theme="ansi_dark",
        background_color="default",
        word_wrap=False,
    )
