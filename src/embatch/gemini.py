"""Smart batching over a `google.genai.Client`: calls for few requests, batch jobs for many.

    from google import genai
    from embatch.gemini import EmbeddingRequest, SmartGeminiClient

    client = SmartGeminiClient(genai.Client(), "gemini-embedding-001")
    results = client.embed_content([EmbeddingRequest("a text", task_type="RETRIEVAL_QUERY")])

The names are loaded when they are first used. What they do is said with each of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embatch.frontends.smart.client import AdaptiveSmartClient, GeminiBatchClient, SmartGeminiClient
    from embatch.frontends.smart.coalescing import CoalescingSmartClient
    from embatch.frontends.smart.metrics import BatchingMetrics
    from embatch.frontends.smart.requests import (
        BatchPromptRequest,
        BatchPromptResult,
        EmbeddingRequest,
        EmbeddingResult,
    )
    from embatch.frontends.smart.requests import (
        EmbeddingRequest as EmbeddingBatchRequest,
    )
    from embatch.frontends.smart.requests import (
        EmbeddingResult as EmbeddingBatchResult,
    )
    from embatch.frontends.smart.settings import BatchingSettings, Settings, load_settings

__all__ = [
    "AdaptiveSmartClient",
    "BatchPromptRequest",
    "BatchPromptResult",
    "BatchingMetrics",
    "BatchingSettings",
    "CoalescingSmartClient",
    "EmbeddingBatchRequest",
    "EmbeddingBatchResult",
    "EmbeddingRequest",
    "EmbeddingResult",
    "GeminiBatchClient",
    "Settings",
    "SmartGeminiClient",
    "load_settings",
]

_ROOM = "embatch.frontends.smart"
_HOME = {
    "client": ["AdaptiveSmartClient", "GeminiBatchClient", "SmartGeminiClient"],
    "coalescing": ["CoalescingSmartClient"],
    "metrics": ["BatchingMetrics"],
    "requests": ["BatchPromptRequest", "BatchPromptResult", "EmbeddingRequest", "EmbeddingResult"],
    "settings": ["BatchingSettings", "Settings", "load_settings"],
}  # module -> public names that it defines
_ALIASES = {"EmbeddingBatchRequest": "EmbeddingRequest", "EmbeddingBatchResult": "EmbeddingResult"}


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    asked = _ALIASES.get(name, name)
    for module, names in _HOME.items():
        if asked in names:
            value = globals()[name] = getattr(import_module(f"{_ROOM}.{module}"), asked)
            return value
    raise AttributeError(f"module 'embatch.gemini' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
