"""Source code, cut by its syntax tree: a chunk is a function, a method, a class's head, or a run of small neighbours.

Part of document → chunks, for the languages of `languages.GRAMMARS`. The tree's nodes become spans (`code_tree`), the
spans chunks within the limit (`lines_fitting`). Broken source has a tree too, in which errors are nodes like others.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from embatch.search.chunks.code_imports import Imports
from embatch.search.chunks.code_tree import Tree
from embatch.search.chunks.grammars import parse
from embatch.search.chunks.lines_fitting import Fitting

if TYPE_CHECKING:
    from embatch.chunks import Chunk, Document
    from embatch.decisions.units import Count


def cut_code(document: Document, *, max_tokens: int, count: Count) -> list[Chunk]:
    """The chunks of a document in order; joined they are the document, and an empty one has none.

    A chunk begins and ends between two tokens of the syntax tree, unless a token alone is over the limit. A function
    that is over it is cut between its statements, its pieces keep its symbol. Borders stay where they are when a
    distant part of the document changes.

    Args:
        document: in a language of `languages.GRAMMARS`.
        max_tokens: most tokens of `Chunk.embedded`.
        count: tokens of each text with what is added to every text, no more than one for an ASCII character.

    Raises:
        UsageError: `max_tokens` leaves no room for text.
        MissingExtraError: tree-sitter or the language's grammar is not installed.
    """
    source = document.text.encode("utf-8", "surrogatepass")
    root = parse(document.language, source)
    tree = Tree(document.text, source, document.language)
    fitting = Fitting(document.text, max_tokens=max_tokens, count=count, opened=tree.opened)
    chunks = fitting.chunks(document, tree.spans(root, fitting))
    imports = Imports(document.language, tree.imports, source)
    return [
        replace(chunk, imports=lines) if (lines := imports.used_by(chunk.text)) else chunk for chunk in chunks
    ]
