"""Which field of a table is the text, and which one names the row.

Readers of tables and of JSON ask here, so that all of them choose alike. Pure: names in, names out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from embatch.errors import MissingColumnError

if TYPE_CHECKING:
    from collections.abc import Sequence

TEXT_COLUMNS = (
    "text",
    "content",
    "contents",
    "body",
    "document",
    "passage",
    "chunk",
    "sentence",
    "abstract",
    "description",
    "title",
)
"""Looked for in this order, as written first and in any case after that, where no text column is named."""

ID_COLUMNS = ("id", "_id", "key", "doc_id", "docid", "document_id", "uuid")
"""Looked for in this order where no id column is named. Without one, a row is named by file and line."""

SHOWN_COLUMNS = 30
"""So many names fit into a message; a table can have thousands."""


class Columns(NamedTuple):
    """Names of the text and the id column. Asked for: `None` is "choose". Chosen: `None` is "there is none"."""

    text: str | None = None
    id: str | None = None
    usual: str | None = None
    """Looked for before the usual names of a text column, where none was asked for."""


def choose_columns(
    asked: Columns, present: Sequence[str], *, where: str, texts: Sequence[str] = ()
) -> Columns:
    """The columns to read from a table that has the columns `present`.

    Args:
        asked: what the user named.
        present: all columns, in the table's order.
        where: the table's key, for the message.
        texts: columns that are known to hold text; the only one is taken where no name tells.

    Raises:
        MissingColumnError: the named column is not there, or none of the usual names is.
    """
    for flag, name in (("--text-column", asked.text), ("--id-column", asked.id)):
        if name is not None and name not in present:
            raise MissingColumnError(
                f"{where} has no column {name!r}. It has: {_names(present)}.",
                hint=f"Name one of these with {flag}.",
            )
    first = () if asked.usual is None else (asked.usual,)
    text = asked.text or _usual(first, present) or _usual(TEXT_COLUMNS, present)
    text = text or (texts[0] if len(texts) == 1 else None)
    if text is None:
        raise MissingColumnError(
            f"No column of {where} has a usual name for text ({', '.join((*first, *TEXT_COLUMNS))}). "
            f"It has: {_names(present)}.",
            hint="Name the column that holds the text with --text-column.",
        )
    return Columns(text, asked.id or _usual(ID_COLUMNS, present))


def _usual(names: Sequence[str], present: Sequence[str]) -> str | None:
    exact = next((name for name in names if name in present), None)
    if exact is not None:
        return exact
    folded = {column.lower(): column for column in reversed(present)}
    return next((folded[name] for name in names if name in folded), None)


def _names(present: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in present[:SHOWN_COLUMNS])
    return (
        f"{shown} and {len(present) - SHOWN_COLUMNS} more"
        if len(present) > SHOWN_COLUMNS
        else shown or "none"
    )
