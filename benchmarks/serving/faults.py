"""What goes wrong in a soak: the faults of the backend, and how its server and its clients speak of them."""

from __future__ import annotations

from dataclasses import dataclass

FAIL, NAN, TIGHT = "[[fail]] ", "[[nan]] ", "[[tight]] "
"""Marks: the model fails on this text; it gives NaN for it; it has no memory for it beside others."""
MARKS = (FAIL, NAN, TIGHT)
TELL = "/_soak"
SLOW_CLIENT_S = 5.0
"""What a slow client has for its headers, for its body without a pause, and for taking an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chances:
    """How often a call of the backend goes wrong by itself."""

    error: float = 0.004
    memory: float = 0.004
    nan: float = 0.002
    slow: float = 0.002
    slow_s: float = 0.2
    outage_every_s: float = 240.0
    """Now and then every call fails for a moment: the engine counts as dead, and the model is opened again."""
    outage_s: float = 0.5
