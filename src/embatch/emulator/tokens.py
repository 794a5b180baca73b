"""How the emulator counts tokens: one rule, so that quotas, bills and answers agree.

Leaves out tokenisation: real providers count otherwise, and estimates must be corrected by what comes back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_BYTES_PER_TOKEN = 4


def utf8(text: str) -> bytes:
    """The text's bytes; lone surrogates, which JSON can carry, included."""
    return text.encode("utf-8", "surrogatepass")


def count_tokens(text: str | Sequence[int]) -> int:
    """Tokens that are counted for a text: a quarter of its UTF-8 bytes, at least 1. Token ids count one each."""
    if isinstance(text, str):
        return max(1, round(len(utf8(text)) / _BYTES_PER_TOKEN))
    return max(1, len(text))


def cut(text: str, tokens: int) -> str:
    """The longest beginning of a text that counts no more than so many tokens, as a model that truncates reads it."""
    if count_tokens(text) <= tokens:
        return text
    return utf8(text)[: tokens * _BYTES_PER_TOKEN].decode("utf-8", "ignore")
