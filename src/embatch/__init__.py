"""embatch turns any number of texts into vectors by the cheapest path that meets the goal, and loses nothing.

The public names are loaded when they are first used: `import embatch` itself loads no engine.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from embatch._version import __version__

__all__ = ["__version__"]


_HOME: dict[str, str] = {}  # public name -> module that defines it


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'embatch' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
