"""The sets of texts that are measured: made from Cranfield and Python's standard library, the same on every run.

Texts from the standard library differ between versions of Python, so each result carries a set's digest beside its
size. Nothing here is random in itself: order comes from a fixed seed.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import random
import sysconfig
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import cranfield

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SEED = 7
_SMALLEST_PIECE = 40  # characters: shorter pieces of code are closing brackets and blank comments
_LONG_CHARACTERS = 3000  # some 700 tokens: well beyond 256, in prose and in code

_UNNUMBERED = 60_000  # attempts at a task line before lines get numbers

_TASKS = (
    "Fix the {what} in {name} of {module}",
    "Add a test for {name} in {module}",
    "Rename {name} in {module} and its docs",
    "Speed up {name} in {module}: {what}",
    "Find out why {name} shows a {what}",
    "Document the {what} of {module}.{name}",
    "Drop {name} from {module} before the release",
    "Review the {what} around {name} in {module}",
)
_WHATS = (
    "race condition",
    "memory leak",
    "error message",
    "time zone handling",
    "retry loop",
    "rounding error",
    "file lock",
    "slow path",
    "missing check",
    "default argument",
    "broken link",
)


def digest(texts: list[str]) -> str:
    """16 hex digits that change when any text or the order does."""
    joined = hashlib.sha256()
    for text in texts:
        joined.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return joined.hexdigest()[:16]


def short(count: int) -> list[str]:
    """Task lines of 10 to 20 tokens or so, all different; the first are the same however many are asked for."""
    rng = random.Random(SEED)
    lines: dict[str, None] = {}
    names = _function_names()
    for attempt in itertools.count():
        if len(lines) >= count:
            break
        module, name = rng.choice(names)
        line = rng.choice(_TASKS).format(what=rng.choice(_WHATS), name=name, module=module)
        # There are some 100,000 of them: who wants more gets them numbered.
        lines[line if attempt < _UNNUMBERED else f"{line} ({attempt})"] = None
    return list(lines)


def mixed(count: int) -> list[str]:
    """Abstracts and pieces of code, half and half, shuffled: some 120 tokens in the mean, a long tail."""
    abstracts = cranfield.load().documents
    pieces = list(_code_pieces())
    rng = random.Random(SEED)
    prose = count // 2
    texts = _take(abstracts, prose, rng) + _take(pieces, count - prose, rng)
    rng.shuffle(texts)
    return texts


def long(count: int) -> list[str]:
    """Documents far beyond 256 tokens, half prose and half code: every one is truncated."""
    abstracts = cranfield.load().documents
    prose = ["\n\n".join(abstracts[i : i + 4])[:_LONG_CHARACTERS] for i in range(0, len(abstracts) - 4, 4)]
    code = [source[:_LONG_CHARACTERS] for _, source in _modules() if len(source) >= _LONG_CHARACTERS]
    rng = random.Random(SEED)
    texts = _take(prose, count // 2, rng) + _take(code, count - count // 2, rng)
    rng.shuffle(texts)
    return texts


def repeats(count: int) -> list[str]:
    """Mixed texts, 40 % of the rows a repeat of another row."""
    unique = mixed(count - count * 2 // 5)
    rng = random.Random(SEED)
    texts = unique + [rng.choice(unique) for _ in range(count - len(unique))]
    rng.shuffle(texts)
    return texts


SETS: dict[str, Callable[[int], list[str]]] = {
    "short": short,
    "mixed": mixed,
    "long": long,
    "repeats": repeats,
}


def _take(pool: list[str], count: int, rng: random.Random) -> list[str]:
    """`count` texts of the pool, each once while it lasts, then cut at a turning point so that none is equal."""
    order = rng.sample(pool, min(count, len(pool)))
    extra = count - len(order)
    # A set larger than its sources goes on with texts that begin elsewhere: lengths stay alike, texts stay distinct.
    for number in range(extra):
        text = pool[number % len(pool)]
        cut = len(text) * (1 + number // len(pool)) // (2 + number // len(pool) + extra // len(pool))
        order.append(f"{text[cut:]}\n{text[:cut]}")
    return order


@cache
def _modules() -> list[tuple[str, str]]:
    """Name and source of the standard library's top-level modules, by name."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    found = ((path.stem, path.read_text("utf-8", "replace")) for path in sorted(folder.glob("*.py")))
    return [(name, source) for name, source in found if source.strip()]


@cache
def _function_names() -> list[tuple[str, str]]:
    """Module and name of each public function and class, in the order of the sources."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [
        (module, node.name)
        for module, source in _modules()[:120]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, kinds) and not node.name.startswith("_")
    ]


def _code_pieces() -> Iterator[str]:
    """Paragraphs of source: what lies between two empty lines, each text once."""
    seen: set[str] = set()
    for _, source in _modules():
        for piece in source.split("\n\n"):
            if len(piece) > _SMALLEST_PIECE and piece not in seen:
                seen.add(piece)
                yield piece
