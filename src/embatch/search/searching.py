"""Find chunks: by meaning, by words, or by both with their rankings fused.

The last step, *question → vector → store → hits*. The store ranks, `decisions.fusion` fuses; the model is the caller's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

import numpy as np

from embatch.chunks import CODE_KINDS, PROSE_KINDS, Where
from embatch.decisions.ranking import DEPTH, ranked
from embatch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from embatch.chunks import ChunkReader, Hit
    from embatch.types import FloatArray

Mode = Literal["hybrid", "vector", "text"]
"""`hybrid`: words and meaning, fused by rank. `vector`: meaning only. `text`: words only, no model needed."""

_GROUPS = {"code": CODE_KINDS, "prose": PROSE_KINDS}


class Searcher:
    """Answers questions from what is published.

    Args:
        reader: the store; not closed.
        embed: query vectors `(q, dim)` of questions, asked for only where meaning counts.
    """

    def __init__(self, reader: ChunkReader, embed: Callable[[Sequence[str]], FloatArray]) -> None:
        self._reader = reader
        self._embed = embed

    def query(
        self, texts: Sequence[str], *, k: int = 10, mode: Mode = "hybrid", where: Where | None = None
    ) -> list[list[Hit]]:
        """The `k` best chunks for each question, best first; fewer if there are fewer.

        Raises:
            UsageError: a question is empty, or `k` is below 1.
            ItemError: a question cannot be embedded.
            SearchIndexError: the store failed.
        """
        if k < 1:
            raise UsageError(f"k={k}: ask for at least one hit.")
        for text in texts:
            if not text.strip():
                raise UsageError(
                    "An empty question finds nothing.", hint="Say in a few words what to look for."
                )
        where = where or Where()
        if not texts:
            return []
        depth = max(DEPTH, 2 * k)
        vectors = None if mode == "text" else self._embed(texts)
        none: list[list[Hit]] = [[] for _ in texts]
        near = none if vectors is None else self._reader.nearest(vectors, k=depth, where=where)
        matching = none if mode == "vector" else self._reader.matching(texts, k=depth, where=where)
        return [
            ranked(question, one, other, chosen=bool(where.paths))[:k]
            for question, one, other in zip(texts, near, matching, strict=True)
        ]

    def similar(self, path: str, line: int, *, k: int = 10, where: Where | None = None) -> list[Hit]:
        """The `k` chunks nearest in meaning to the one that holds a line of a file, itself left out.

        Raises:
            UsageError: the index has no such line.
        """
        found = self._reader.at(path, line)
        if found is None:
            raise UsageError(
                f"The index has nothing at {path}:{line}.",
                hint="Give a file as the index calls it, and a line of it; index the file if it is new.",
            )
        chunk, vector = found
        hits = self._reader.nearest(vector[np.newaxis], k=k + 1, where=where or Where())[0]
        itself = (chunk.path, chunk.start, chunk.end)
        return [hit for hit in hits if (hit.chunk.path, hit.chunk.start, hit.chunk.end) != itself][:k]


def where_of(paths: Iterable[str] = (), languages: Iterable[str] = (), kinds: Iterable[str] = ()) -> Where:
    """A filter from what a person asks for.

    `code` and `prose` stand for all their kinds, and a path without a `/` for files and folders of that name anywhere.

    Raises:
        UsageError: there is no such kind.
    """
    allowed: list[str] = []
    for kind in kinds:
        if kind not in (*_GROUPS, *CODE_KINDS, *PROSE_KINDS):
            known = ", ".join((*_GROUPS, *CODE_KINDS, *PROSE_KINDS))
            raise UsageError(f"There is no kind {kind!r}.", hint=f"Kinds are: {known}.")
        allowed.extend(_GROUPS.get(kind, (kind,)))
    wide = tuple(pattern for typed in paths for pattern in _widened(typed))
    return Where(paths=wide, languages=tuple(map(_language, languages)), kinds=tuple(allowed))


def _widened(typed: str) -> list[str]:
    """The patterns that a typed one means.

    >>> _widened("*.py"), _widened("!tests"), _widened("src/*.py")
    (['**/*.py', '**/*.py/**'], ['!**/tests', '!**/tests/**'], ['src/*.py'])
    """
    sign, pattern = ("!", typed[1:]) if typed.startswith("!") else ("", typed)
    pattern = pattern.removeprefix("./")
    if "/" in pattern or pattern == "**":
        return [sign + pattern]
    return [f"{sign}**/{pattern}", f"{sign}**/{pattern}/**"]


_SPOKEN = {"c++": "cpp", "c#": "c_sharp", "csharp": "c_sharp", "js": "javascript", "ts": "typescript"}
_SPOKEN |= {"py": "python", "rs": "rust", "golang": "go", "shell": "bash", "sh": "bash", "md": "markdown"}


def _language(name: str) -> str:
    lowered = re.sub(r"\s+", "_", name.strip().lower())
    return _SPOKEN.get(lowered, lowered)
