"""How a task is put into words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embatch.errors import EmptyTextError, NotTextError
from embatch.frontends.tasks.texts import plain_text, task_items
from embatch.tasks import UNKNOWN_TASK, build_input_text
from embatch.types import BadItem, Item


def test_title_description_and_sorted_files_stand_on_lines_of_their_own() -> None:
    """The text is the stripped title, the stripped description, and the sorted unique files."""
    text = build_input_text(" Fix login ", " It fails.\n", ["b.py", " a.py ", "b.py", ""])
    assert text == "Fix login\nIt fails.\nFiles touched: a.py, b.py"


@pytest.mark.parametrize("empty", [(None, None, None), ("", " ", []), ("\n", "", ["", " "])])
def test_a_task_that_says_nothing_is_unknown(empty: tuple[str, str, list[str]]) -> None:
    """Without any text the words are UNKNOWN_TASK."""
    assert build_input_text(*empty) == UNKNOWN_TASK == "UNKNOWN_TASK"


def test_counting_words_does_without_the_label() -> None:
    """The words `Files touched:` are left out where words are counted."""
    assert plain_text("Fix", None, ["b", "a"]) == "Fix\na b"


@given(st.text(), st.text(), st.lists(st.text()))
def test_the_order_of_files_means_nothing(title: str, description: str, files: list[str]) -> None:
    """Any order and repetition of the files gives the same text."""
    again = build_input_text(title, description, [*reversed(files), *files])
    assert build_input_text(title, description, files) == again


@pytest.mark.parametrize(
    "task",
    [{"title": 5}, {"description": ["x"]}, {"files_touched": 5}, {"files_touched": ["a", 1]}, "title", None],
)
def test_what_is_no_text_is_named_and_keeps_its_place(task: object) -> None:
    """A value of a wrong type makes a bad row between good ones."""
    rows = task_items([{"title": "a"}, task, {"title": "b"}], plain=False)  # type: ignore[list-item]  # on purpose
    assert [type(row) for row in rows] == [Item, BadItem, Item]
    assert isinstance(rows[1], BadItem)
    assert isinstance(rows[1].error, NotTextError)


def test_a_silent_task_is_bad_and_named_by_its_id() -> None:
    """A task without a text gets no vector, since that would match every other such task."""
    (row,) = task_items([{"task_id": "T1", "title": " "}], plain=True)
    assert isinstance(row, BadItem)
    assert row.key == "T1"
    assert isinstance(row.error, EmptyTextError)
