"""What a provider's error means for one text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embatch.errors import ItemProviderError

if TYPE_CHECKING:
    from embatch.errors import ProviderError

ATTEMPTS = 4
"""Fruitless attempts that may be a text's own fault, before it is sent alone; then as many again, alone."""


def item_error(error: ProviderError) -> ItemProviderError:
    """The same for the one text that it is about: the others are not touched."""
    failed = ItemProviderError(str(error), hint=error.hint if error.hint != error.default_hint else None)
    failed.__cause__ = error
    return failed
