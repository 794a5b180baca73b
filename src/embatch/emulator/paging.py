"""Lists by pages, as Gemini gives them out: a size, and a token for the next page."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")
_MOST = 100


def page(found: list[T], size: str | None, token: str | None, *, usual: int) -> tuple[list[T], str]:
    """One page, and the token for the next one; empty if there is none.

    What is created between two pages moves the rest on, so that an entry may come twice: as with the provider.
    """
    start = int(token, 36) if token and token.isalnum() else 0
    count = int(size) if size and size.isdigit() and int(size) else usual
    end = start + min(count, _MOST)
    return found[start:end], (_base36(end) if end < len(found) else "")


def _base36(number: int) -> str:
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    text = ""
    while number:
        number, digit = divmod(number, 36)
        text = digits[digit] + text
    return text.rjust(6, "0")
