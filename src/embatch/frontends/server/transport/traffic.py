"""What goes through a server's door: connections and answers, counted by the loop's one thread."""

from __future__ import annotations

from collections import Counter
from typing import Literal

Cut = Literal["headers", "body", "send", "linger", "broken", "header_bytes", "pipeline", "connections"]
"""Why a connection was cut off: slow headers, body or reader; data after an early refusal; no HTTP; long headers; too
many requests at once on one connection; too many connections."""


class Traffic:
    """Counts since the start, and what is open. Written by the event loop, read from anywhere."""

    __slots__ = ("accepted", "answers", "cuts", "open", "refusing", "under_way")

    def __init__(self) -> None:
        self.open = 0
        """Connections that are served now."""
        self.refusing = 0
        """Connections above the limit that are being told so."""
        self.accepted = 0
        """Connections since the start, refused ones left out."""
        self.under_way = 0
        """Requests being answered now."""
        self.cuts: Counter[Cut] = Counter()
        self.answers: Counter[tuple[str, int]] = Counter()
        """By path (of the known ones, or `other`) and status."""
