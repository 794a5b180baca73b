"""Memory of past tasks: their vectors, and finding those that are like a new one.

    from embatch.tasks import NeuralBackend

    vectors = NeuralBackend().compute_embeddings_batch([{"title": "Fix the login"}, {"title": "Speed up queries"}])

The names are loaded when they are first used. What they do is said with each of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embatch.frontends.tasks.backends import NeuralBackend, TaskBackend, TaskEmbedder, TFIDFBackend
    from embatch.frontends.tasks.models import release_models
    from embatch.frontends.tasks.monitor import MonitorRunner, submit_task
    from embatch.frontends.tasks.texts import UNKNOWN_TASK, build_input_text
    from embatch.frontends.tasks.workspace import TaskMemory

__all__ = [
    "UNKNOWN_TASK",
    "MonitorRunner",
    "NeuralBackend",
    "TFIDFBackend",
    "TaskBackend",
    "TaskEmbedder",
    "TaskMemory",
    "build_input_text",
    "release_models",
    "submit_task",
]

_ROOM = "embatch.frontends.tasks"
_HOME = {
    "backends": ["NeuralBackend", "TFIDFBackend", "TaskBackend", "TaskEmbedder"],
    "models": ["release_models"],
    "monitor": ["MonitorRunner", "submit_task"],
    "texts": ["UNKNOWN_TASK", "build_input_text"],
    "workspace": ["TaskMemory"],
}  # module -> public names that it defines


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    for module, names in _HOME.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"{_ROOM}.{module}"), name)
            return value
    raise AttributeError(f"module 'embatch.tasks' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
