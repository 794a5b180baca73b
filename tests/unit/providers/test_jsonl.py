"""Files of lines: written within a limit, read without trust."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embatch.errors import OutputNotWritableError, ProviderError
from embatch.providers.jsonl import count_of, rows, written
from embatch.remote import ErrorKind, Generated, JobRow

if TYPE_CHECKING:
    from collections.abc import Mapping


def parse(line: Mapping[str, Any]) -> JobRow:
    return JobRow(line["key"], Generated(line["text"]))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=20))
def test_whatever_is_written_is_read_again(texts: list[str]) -> None:
    """Line separators of Unicode, control characters and other scripts survive: a line ends at a line feed only."""
    lines = [{"key": str(i), "text": text} for i, text in enumerate(texts)]
    with written(lines, most_bytes=None) as (file, count):
        assert count == len(texts)
        read = list(rows(file, parse))
    assert [row.key for row in read] == [str(i) for i in range(len(texts))]
    assert [row.result for row in read] == [Generated(text) for text in texts]


def test_a_lone_surrogate_breaks_only_its_own_row() -> None:
    """It is written as an escape, for the provider to refuse."""
    with written([{"text": "a\ud800b"}, {"text": "ü"}], most_bytes=None) as (file, _):
        content = file.read()
    assert json.loads(content.splitlines()[0]) == {"text": "a\ud800b"}
    assert "ü".encode() in content


def test_broken_lines_are_rows_without_a_key() -> None:
    """A line cut off, no JSON, no object, not UTF-8: PROTOCOL each, and the others are read."""
    content = b'{"key":"a","text":"x"}\n\n[1]\nno json\n\xff\xfe{}\n{"key":"b","text":"y"}\n{"key":"c","te'
    read = list(rows(io.BytesIO(content), parse))
    assert [row.key for row in read] == ["a", None, None, None, "b", None]
    for row in read:
        if row.key is None:
            assert isinstance(row.result, ProviderError)
            assert row.result.kind is ErrorKind.PROTOCOL


def test_a_last_line_needs_no_end() -> None:
    """A file may end without a line feed."""
    assert [row.key for row in rows(io.BytesIO(b'{"key":"a","text":"x"}'), parse)] == ["a"]


def test_a_file_that_gets_too_large_is_not_sent() -> None:
    """The limit is found while writing: the items are to be split, a single one is too long."""
    with pytest.raises(ProviderError) as error, written([{"a": "x" * 50}] * 3, most_bytes=100):
        pass
    assert error.value.kind is ErrorKind.TOO_MANY_TOKENS
    with pytest.raises(ProviderError) as error, written([{"a": "x" * 500}], most_bytes=100):
        pass
    assert error.value.kind is ErrorKind.INPUT_TOO_LONG


def test_a_job_without_items_is_refused() -> None:
    """Nothing is sent for nothing."""
    with pytest.raises(ProviderError) as error, written([], most_bytes=None):
        pass
    assert error.value.kind is ErrorKind.BAD_INPUT


def test_no_place_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no fault of the provider, and the message says what to set."""
    monkeypatch.setattr("tempfile.tempdir", "/nowhere/at/all")
    with pytest.raises(OutputNotWritableError) as error, written([{"a": 1}], most_bytes=None):
        pass
    assert "TMPDIR" in error.value.hint


@pytest.mark.parametrize(
    ("value", "count"),
    [(3, 3), ("4", 4), ("-1", -1), ("4.5", None), ("", None), (None, None), (True, None), (1.5, None)],
)
def test_counts_come_as_numbers_or_strings(value: object, count: int | None) -> None:
    """int64 is a string in Google's JSON."""
    assert count_of(value) == count
