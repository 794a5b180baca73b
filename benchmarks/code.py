"""Source code to search, and questions about it whose answers are known symbols.

The code is Python's standard library, as it is installed, and embatch's own. A question is answered by a chunk that
overlaps the definition of one of its symbols; where these stand is read from the syntax tree, so that the judgement
does not depend on how chunks are cut.
"""

from __future__ import annotations

import ast
import json
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.worker import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from embatch.chunks import Hit

QUESTIONS = Path(__file__).parent / "data" / "code_questions.jsonl"
_ROOTS = {"stdlib": Path(sysconfig.get_path("stdlib")), "embatch": REPOSITORY}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question, and the lines of a file that answer it."""

    text: str
    places: tuple[tuple[str, int, int], ...]
    """Path below the copied folder, first and last line of each definition that answers."""

    def rank(self, hits: Sequence[Hit]) -> int | None:
        """Place of the first hit that answers, from 1; None if none does."""
        for place, hit in enumerate(hits, start=1):
            chunk = hit.chunk
            if any(
                chunk.path == path and chunk.start_line <= last and chunk.end_line >= first
                for path, first, last in self.places
            ):
                return place
        return None


def questions(*corpora: str) -> list[Question]:
    """Those about the given corpora, all by default.

    Raises:
        LookupError: a symbol is not where the question says: another version of Python, or code that has moved.
    """
    rows = [json.loads(line) for line in QUESTIONS.read_text("utf-8").splitlines()]
    return [_question(row) for row in rows if not corpora or row["corpus"] in corpora]


def copy_stdlib(target: Path, limit: int | None = None) -> int:
    """Copy the standard library's modules, installed packages left out; returns how many files there are.

    Args:
        target: a folder that is made.
        limit: every so many files evenly chosen; all by default.
    """
    root = _ROOTS["stdlib"]
    files = sorted(_modules(root))
    if limit is not None:
        files = files[:: max(1, len(files) // limit)][:limit]
    for file in files:
        to = target / file.relative_to(root)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, to)
    return len(files)


def copy_embatch(target: Path) -> int:
    """Copy embatch's own sources; returns how many files there are."""
    shutil.copytree(REPOSITORY / "src", target / "src", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    return sum(1 for _ in (target / "src").rglob("*.py"))


def _modules(root: Path) -> Iterator[Path]:
    for file in root.rglob("*.py"):
        if not {"site-packages", "dist-packages", "__pycache__"} & set(file.relative_to(root).parts):
            yield file


def _question(row: dict[str, Any]) -> Question:
    corpus = row["corpus"]
    places: list[tuple[str, int, int]] = []
    for answer in row["answers"]:
        path = answer["path"]
        where = _definitions(_ROOTS[corpus] / path)
        if missing := [symbol for symbol in answer["symbols"] if symbol not in where]:
            raise LookupError(f"{path} has no {', '.join(missing)}, which answers {row['question']!r}")
        places.extend((f"{corpus}/{path}", *where[symbol]) for symbol in answer["symbols"])
    return Question(text=row["question"], places=tuple(places))


def _definitions(file: Path) -> dict[str, tuple[int, int]]:
    """Lines of every function and class by dotted name."""
    found: dict[str, tuple[int, int]] = {}
    stack: list[tuple[ast.AST, str]] = [(ast.parse(file.read_text("utf-8")), "")]
    while stack:
        node, above = stack.pop()
        for child in ast.iter_child_nodes(node):
            name = above
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{above}{child.name}"
                found.setdefault(name, (child.lineno, child.end_lineno or child.lineno))
                name += "."
            stack.append((child, name))
    return found
