"""embatch turns any number of texts into vectors by the cheapest path that meets the goal, and loses nothing.

    import embatch

    vectors = embatch.embed(["a text", "another"])  # (2, 384) float32

The public names are loaded when they are first used: `import embatch` itself loads no engine.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from embatch._version import __version__

if TYPE_CHECKING:
    from embatch.errors import EmbatchError, ItemError, ItemsFailedError
    from embatch.frontends.async_embedder import AsyncEmbedder
    from embatch.frontends.embedder import Embedder, EmbedResult
    from embatch.frontends.one_call import embed
    from embatch.frontends.processor.code_chunks import load_code_chunks
    from embatch.frontends.processor.processor import BatchEmbeddingProcessor
    from embatch.frontends.searching.index import Index
    from embatch.frontends.sentence_transformer import BatchTuner, SentenceTransformerEmbedder
    from embatch.types import BadItem, Block, Item, ItemFailure, ModelSpec, Report

__all__ = [
    "AsyncEmbedder",
    "BadItem",
    "BatchEmbeddingProcessor",
    "BatchTuner",
    "Block",
    "EmbatchError",
    "EmbedResult",
    "Embedder",
    "Index",
    "Item",
    "ItemError",
    "ItemFailure",
    "ItemsFailedError",
    "ModelSpec",
    "Report",
    "SentenceTransformerEmbedder",
    "__version__",
    "embed",
    "load_code_chunks",
]

_HOME = {
    "embatch.errors": ["EmbatchError", "ItemError", "ItemsFailedError"],
    "embatch.frontends.async_embedder": ["AsyncEmbedder"],
    "embatch.frontends.embedder": ["EmbedResult", "Embedder"],
    "embatch.frontends.one_call": ["embed"],
    "embatch.frontends.processor.code_chunks": ["load_code_chunks"],
    "embatch.frontends.processor.processor": ["BatchEmbeddingProcessor"],
    "embatch.frontends.searching.index": ["Index"],
    "embatch.frontends.sentence_transformer": ["BatchTuner", "SentenceTransformerEmbedder"],
    "embatch.types": ["BadItem", "Block", "Item", "ItemFailure", "ModelSpec", "Report"],
}  # module -> public names that it defines


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    for module, names in _HOME.items():
        if name in names:
            value = globals()[name] = getattr(import_module(module), name)
            return value
    raise AttributeError(f"module 'embatch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
