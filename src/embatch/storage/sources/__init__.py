"""Where texts come from: files, folders, patterns, tables and standard input, read as one stream of items.

The beginning of source → items → plan. `open_sources` is the way in; each format has a module of its own.
"""

from __future__ import annotations

from embatch.storage.sources.columns import ID_COLUMNS, TEXT_COLUMNS
from embatch.storage.sources.reading import StdinFormat
from embatch.storage.sources.skips import Skip
from embatch.storage.sources.sources import Sources, open_sources

__all__ = ["ID_COLUMNS", "TEXT_COLUMNS", "Skip", "Sources", "StdinFormat", "open_sources"]
