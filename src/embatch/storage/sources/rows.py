"""A text and a name from a table's cells as an `Item`, or as a `BadItem` that says what is wrong.

All readers of tables and records end here, so that a null, a number or a list is treated alike in every format.
"""

from __future__ import annotations

from embatch.errors import EncodingError, NotTextError, RowError
from embatch.types import BadItem, Item

_SHOWN_CHARS = 40


def to_row(place: str, text: object, name: object) -> Item | BadItem:
    """One row.

    Args:
        place: `file:line` or `file:row`, which is the key of a row without a name.
        text: what stands in the text column.
        name: what stands in the id column; `None` without one.
    """
    if type(text) is str and type(name) is str and name.isascii():  # nearly all rows
        return Item(name or place, text, place)
    key = to_name(name)
    if key is None:
        kind = type(name).__name__
        return BadItem(place, RowError(f"{place}: the id is a {kind}, neither text nor a number."), place)
    if not isinstance(text, str):
        return BadItem(key or place, NotTextError(f"{place}: the text is {_named(text)}."), place)
    return Item(key or place, text, place)


def broken_text(place: str, name: object) -> BadItem:
    """A row whose text holds bytes that are no UTF-8."""
    error = EncodingError(f"{place}: the text is not UTF-8.", hint="Convert the file to UTF-8.")
    return BadItem(to_name(name) or place, error, place)


def to_name(value: object) -> str | None:
    """An id as text that encodes as UTF-8; empty if the row has none, `None` if it cannot name anything."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if value is None:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value)
    return None


def _named(value: object) -> str:
    if value is None:
        return "null"
    shown = repr(value) if isinstance(value, int | float | bool) else ""
    return f"{type(value).__name__} {shown[:_SHOWN_CHARS]}".strip()
