"""`load_code_chunks`: a code base as chunks, ready for `BatchEmbeddingProcessor`.

Wires listing, reading and cutting together, with a model's limit and its own way of counting tokens. It embeds nothing
and keeps no index.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from embatch.errors import CorruptModelError, UnsupportedModelError
from embatch.frontends.arguments import positive
from embatch.frontends.opening import is_remote
from embatch.search.chunks import Chunker, read_file
from embatch.storage.sources.listing import list_files, to_key
from embatch.storage.sources.skips import SkipLog

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from embatch.chunks import Chunk
    from embatch.decisions.units import Count
    from embatch.storage.sources.listing import SourceFile

MAX_TOKENS = 256
"""Of a chunk where the model's files are not at hand: what the default model takes."""

PROVIDER_TOKENS = 512
"""Of a chunk for a provider's model, which would take a whole file: a place to find is smaller than that."""

_SPECIAL = 2  # tokens that models of this kind add to every text
_PIECE = re.compile(r"[A-Za-z]{1,3}|[0-9]|[^\sA-Za-z0-9]")

_log = logging.getLogger(__name__)


def load_code_chunks(
    path: str | Path, *, model: str = "minilm", max_tokens: int | None = None, skips: SkipLog | None = None
) -> list[Chunk]:
    """The chunks of a file or of all files below a folder, code and prose, in the order of their names.

    `.gitignore` is honoured; binary, generated and very large files are passed over. Code is cut by its syntax where
    its grammar is installed (the `search` extra), else by lines; every character of a file that is read is in a chunk.

    Args:
        path: a file or a folder. Chunks' paths are relative to the folder.
        model: whose limit and tokeniser hold. If its files are not on this machine, or it is a provider's, tokens are
            estimated from the characters, rather too many than too few.
        max_tokens: of a chunk at most. None: what the model takes (256 for the default model); 512 for a provider's.
        skips: gets what was passed over, and why, files that could not be read among them.

    Raises:
        SourceNotFoundError: there is nothing at `path`.
        SourceUnreadableError: it is neither a file nor a folder, or may not be looked at.
        UnknownModelError: there is no such model.
        UsageError: `max_tokens` leaves no room for text.
    """
    positive(max_tokens=max_tokens)
    skips = SkipLog() if skips is None else skips
    files = list(_relative(list_files([str(path)], skips), Path(path)))
    tokens, count = measure_of(model, max_tokens)
    chunker = Chunker(max_tokens=tokens, count=count)
    chunks: list[Chunk] = []
    for file in files:
        content = read_file(file)
        if content.problem is not None:
            _log.warning("%s: %s", file.key, content.problem)
            skips.add(file.key, "cannot be read" if not content.documents else "cannot be read in part")
        elif content.skipped:
            skips.add(file.key, content.skipped)
        chunks += [chunk for chunk in chunker.cut(content.documents) if chunk.text.strip()]
    return chunks


def _relative(files: Sequence[SourceFile], top: Path) -> Iterator[SourceFile]:
    """Files by their place below the folder: a chunk keeps its path when the folder is named in another way."""
    folder = top if top.is_dir() else top.parent
    for file in files:
        place = Path(file.path)
        yield (
            file._replace(key=to_key(str(place.relative_to(folder))))
            if place.is_relative_to(folder)
            else file
        )


def measure_of(model: str, max_tokens: int | None) -> tuple[int, Count]:
    """Most tokens of a chunk for a model, and its way of counting."""
    if is_remote(model):
        from embatch.providers.facts import facts_for

        most = facts_for(model).call.item_tokens
        return min(most, max_tokens or PROVIDER_TOKENS), estimated
    if model == "hashing":
        return max_tokens or MAX_TOKENS, estimated
    from embatch.backends.resolve import locate

    try:
        files = locate(model)
    except (CorruptModelError, UnsupportedModelError) as error:
        _log.warning("tokens are estimated: %s", error)
        files = None
    if files is None:
        return max_tokens or MAX_TOKENS, estimated
    from embatch.backends.layout import read_layout
    from embatch.backends.tokenizing import TextTokenizer

    tokenizer = TextTokenizer(read_layout(files.path))

    def count(texts: Sequence[str]) -> Sequence[int]:
        tokens: list[int] = tokenizer.count(texts).tolist()
        return tokens

    return min(tokenizer.max_tokens, max_tokens or tokenizer.max_tokens), count


def estimated(texts: Sequence[str]) -> list[int]:
    """Tokens of each text by its characters: three letters or one sign to a token; too few for one chunk in 600."""
    return [_SPECIAL + len(_PIECE.findall(text)) for text in texts]
