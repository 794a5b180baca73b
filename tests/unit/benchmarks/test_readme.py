"""What the documents claim is what the recorded results give."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from benchmarks import readme, results
from benchmarks.suites import SUITES, suite

if TYPE_CHECKING:
    from pathlib import Path

TABLES = {"speed": "| a |\n| :--- |\n| 1 |"}


@pytest.mark.parametrize("path", readme.DOCUMENTS, ids=lambda path: str(path.parent.name))
def test_documents_show_the_recorded_results(path: Path) -> None:
    """Each marked table equals the one rendered from the results; `python -m benchmarks tables` makes it so."""
    text = path.read_text("utf-8")
    assert readme.filled(text, readme.all_tables()) == text


def test_marked_table_is_replaced_and_the_rest_is_left() -> None:
    """Only what stands between the markers changes, and filling twice changes nothing more."""
    text = "before\n<!-- table:speed -->\nold\n<!-- /table -->\nafter\n"
    once = readme.filled(text, TABLES)
    assert once == f"before\n<!-- table:speed -->\n\n{TABLES['speed']}\n\n<!-- /table -->\nafter\n"
    assert readme.filled(once, TABLES) == once


def test_figures_without_a_result_are_an_error() -> None:
    """Figures that no recorded result gives are found, and the message says which tables there are."""
    with pytest.raises(readme.UnknownTableError, match=r"'slow'.*speed"):
        readme.filled("<!-- table:slow -->\n| 9 |\n<!-- /table -->", TABLES)


def test_place_without_a_result_stays_empty() -> None:
    """A table that is not recorded yet has its place, and nothing in it."""
    text = "<!-- table:slow -->\n<!-- /table -->\n"
    assert readme.filled(text, TABLES) == text


def test_tables_of_another_machine_have_its_name(tmp_path: Path) -> None:
    """Both machines' tables are there, each under a name of its own."""
    result = results.read("query")
    assert result is not None
    for on, commit in ((None, "here"), ("zen5", "there")):
        results.save({**result, "commit": commit}, tmp_path, on=on)
    tables = readme.all_tables(tmp_path)
    assert set(tables) == {"query", "query-on-zen5"}
    assert "commit here" in tables["query"]
    assert "commit there" in tables["query-on-zen5"]


@pytest.mark.parametrize(
    ("name", "on"), [(name, on) for name in SUITES for on in (None, *results.machines(name))]
)
def test_recorded_results_are_complete(name: str, on: str | None) -> None:
    """A recorded result says what, where, when and of which commit, and is rendered without an error."""
    result = results.read(name, on=on)
    if result is None:
        pytest.skip("nothing is recorded for this suite")
    assert {"commit", "date", "machine", "parameters", "versions", "summary", "rounds"} <= set(result)
    assert all(suite(name).tables(result).values())
