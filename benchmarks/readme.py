"""Fills the tables of the README from the recorded results: what is claimed there is in a result file.

A table stands between `<!-- table:NAME -->` and `<!-- /table -->`. Names are those that the suites' `tables` give.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from benchmarks import results
from benchmarks.suites import SUITES, suite
from benchmarks.worker import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DOCUMENTS = (REPOSITORY / "README.md", REPOSITORY / "benchmarks" / "README.md")
_MARKED = re.compile(r"(<!-- table:(?P<name>[\w-]+) -->\n)(?P<now>.*?)(?P<end><!-- /table -->)", re.DOTALL)


class UnknownTableError(Exception):
    """A document shows a table that no recorded result gives."""


def all_tables(folder: Path = results.FOLDER) -> dict[str, str]:
    """Every table that the recorded results give, by name; those of other machines end in `-on-` and its name."""
    found: dict[str, str] = {}
    for name in SUITES:
        for on in (None, *results.machines(name, folder)):
            result = results.read(name, folder, on=on)
            if result is not None:
                tables = suite(name).tables(result)
                found |= {f"{table}-on-{on}" if on else table: text for table, text in tables.items()}
    return found


def filled(text: str, tables: Mapping[str, str]) -> str:
    """The document with each marked table replaced; everything else is left as it is.

    A place whose result is not recorded yet stays empty.

    Raises:
        UnknownTableError: figures stand where no recorded result gives any.
    """

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in tables and not match["now"].strip():
            return match[0]
        if name not in tables:
            raise UnknownTableError(
                f"no recorded result gives the table {name!r}; there are: {sorted(tables)}"
            )
        return f"{match[1]}\n{tables[name]}\n\n{match['end']}"

    return _MARKED.sub(fill, text)


def fill_documents() -> list[str]:
    """Rewrite the documents whose tables have changed, and name them."""
    tables = all_tables()
    changed = []
    for path in DOCUMENTS:
        text = path.read_text("utf-8")
        if (new := filled(text, tables)) != text:
            path.write_text(new, "utf-8")
            changed.append(path.relative_to(REPOSITORY).as_posix())
    return changed
