"""CSV, TSV and Parquet tables as items."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embatch.errors import MissingColumnError, SourceFormatError, SourceUnreadableError
from embatch.storage.sources import TEXT_COLUMNS, open_sources
from embatch.types import BadItem, Item

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Write = Callable[..., None]
    Items = Callable[..., dict[str, str]]
    Errors = Callable[..., dict[str, tuple[str, str]]]


def save(path: str, columns: dict[str, Any], **options: Any) -> None:
    """A Parquet file."""
    pq.write_table(pa.table(columns), path, **options)


def test_a_row_is_an_item(write: Write, items: Items) -> None:
    """The id column names it, the text column is its text, other columns are not read."""
    write("a.csv", 'x,id,text\n1,r1,One\n2,r2,"Two, and ""more"""\n3,7,"Three\r\nlines"\n')
    assert items("a.csv") == {"r1": "One", "r2": 'Two, and "more"', "7": "Three\nlines"}


def test_a_row_without_an_id_is_named_by_its_line(write: Write, items: Items) -> None:
    """The line where it begins, as an editor shows it; also where the id is empty."""
    write("a.csv", 'text\none\n"two\ntwo"\n\nfive\n')
    assert items("a.csv") == {"a.csv:2": "one", "a.csv:3": "two\ntwo", "a.csv:6": "five"}
    write("b.csv", "id,text\n,one\nx,two\n")
    assert items("b.csv") == {"b.csv:2": "one", "x": "two"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "id\ttext\n1\ta, b\n"),
        ("a.TAB", "id\ttext\n1\ta, b\n"),
        ("a.csv", 'id;text\n1;"a, b"\n'),
        ("a.csv", '\ufeffid,text\r\n1,"a, b"\r\n'),
        ("a.csv", 'id,Text,text_length\n1,"a, b",3'),
    ],
)
def test_dialects_are_told_by_ending_and_header(write: Write, items: Items, name: str, content: str) -> None:
    """Tabs, semicolons, byte order marks, Windows line ends, a name in capitals, no last line end."""
    write(name, content)
    assert items(name) == {"1": "a, b"}


def test_utf16_tables_are_read(write: Write, items: Items) -> None:
    """What spreadsheets export as "Unicode text"."""
    write("a.tsv", "id\ttext\n1\tgrüße\n".encode("utf-16"))
    assert items("a.tsv") == {"1": "grüße"}


def test_a_field_may_be_large(write: Write, items: Items) -> None:
    """Python's own limit of 128 KiB does not hold."""
    write("a.csv", "id,text\n1," + "x" * 2_000_000 + "\n2,y\n")
    assert {key: len(text) for key, text in items("a.csv").items()} == {"1": 2_000_000, "2": 1}


def test_broken_rows_are_named_and_the_others_go_on(write: Write, items: Items, errors: Errors) -> None:
    """Too few or too many cells, broken UTF-8: each with its line."""
    write("d/a.csv", b"id,text\n1,one\n2\n3,a,b\n4,caf\xe9\n5,five\n")
    bad = errors("d/a.csv")
    assert bad == {
        "d/a.csv:3": ("RowError", "d/a.csv:3 has 1 cells, the header 2."),
        "d/a.csv:4": ("RowError", "d/a.csv:4 has 3 cells, the header 2."),
        "4": ("EncodingError", "d/a.csv:5: the text is not UTF-8."),
    }
    rows = list(open_sources(["d/a.csv"]))
    assert [row.key for row in rows] == ["1", "d/a.csv:3", "d/a.csv:4", "4", "5"]


def test_a_stray_carriage_return_costs_its_row(write: Write, errors: Errors) -> None:
    """Outside of quotes it is no part of a cell; a header with one is none."""
    write("a.csv", "id,text\n1,a\rb\n2,c\n")
    assert {key: name for key, (name, _) in errors("a.csv").items()} == {"a.csv:2": "RowError"}
    assert [row.key for row in open_sources(["a.csv"])] == ["a.csv:2", "2"]
    write("mac.csv", "id,text\r1,one\r2,two\r")
    with pytest.raises(SourceFormatError, match="header"):
        open_sources(["mac.csv"])


def test_empty_cells_are_passed_on(write: Write, items: Items) -> None:
    """That a text is empty is for the engine to say, in one way for all sources."""
    write("a.csv", "id,text\n1,\n2,  \n")
    assert items("a.csv") == {"1": "", "2": "  "}


def test_a_table_without_rows_is_skipped(write: Write, items: Items) -> None:
    """A header alone is no text."""
    write("d/a.csv", "id,text\n")
    save("d/a.parquet", {"text": pa.array([], pa.string())})
    pq.ParquetWriter("d/b.parquet", pa.schema([("text", pa.string())])).close()
    assert items("d") == {}
    sources = open_sources(["d"])
    list(sources)
    assert sources.skipped_counts == {"no rows": 3}


@pytest.mark.parametrize("column", TEXT_COLUMNS)
def test_the_text_column_is_found_by_its_usual_names(write: Write, items: Items, column: str) -> None:
    """In the documented order: each name is taken before those after it."""
    later = TEXT_COLUMNS[TEXT_COLUMNS.index(column) :]
    header = ",".join(reversed(later))
    write("a.csv", f"{header}\n" + ",".join(reversed(later)) + "\n")
    assert items("a.csv") == {"a.csv:2": column}


def test_the_only_column_is_the_text(write: Write, items: Items, folder: Path) -> None:
    """Of a CSV, or of the text columns of a Parquet table, whatever its name."""
    write("a.csv", "notes\nhello\n")
    save("b.parquet", {"n": [1], "notes": ["hello"], "when": [1.5]})
    assert items("a.csv") == {"a.csv:2": "hello"}
    assert items("b.parquet") == {"b.parquet:1": "hello"}


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.jsonl", "a.json"])
def test_a_missing_column_is_told_at_once(write: Write, folder: Path, name: str) -> None:
    """Before anything is read, with the columns that there are and the option to name one."""
    write("a.csv", "first,second\n1,2\n")
    write("a.jsonl", '{"first": "1", "second": "2"}\n')
    write("a.json", '[{"first": "1", "second": "2"}]')
    write("other.md")
    save("a.parquet", {"first": ["1"], "second": ["2"]})
    for paths in ([name], ["other.md", name]):
        with pytest.raises(MissingColumnError, match="'first', 'second'") as caught:
            open_sources(paths, text_column="text")
        assert "--text-column" in caught.value.hint
        with pytest.raises(MissingColumnError, match="'nr'") as caught:
            open_sources(paths, text_column="first", id_column="nr")
        assert "--id-column" in caught.value.hint
    assert [row.key for row in open_sources([name], text_column="first", id_column="second")] == ["2"]


def test_a_missing_column_in_a_folder_costs_one_file(write: Write, errors: Errors) -> None:
    """Of many tables that were not named, those without the column are bad items."""
    write("d/a.csv", "text\nx\n")
    write("d/b.csv", "first,second\n1,2\n")
    assert errors("d")["d/b.csv"][0] == errors("d/*.csv")["d/b.csv"][0] == "MissingColumnError"
    assert len(list(open_sources(["d"]))) == 2


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
    ids=str,
)
def test_every_kind_of_text_column_is_read(folder: Path, items: Items, kind: pa.DataType) -> None:
    """Short and large offsets, views, dictionaries; ids may be integers; null is a bad row."""
    texts = pa.array(["one", "grüße", "one"], pa.string()).cast(kind)
    save("a.parquet", {"id": pa.array([1, 2, -3], pa.int64()), "text": texts, "x": [[1], [2], [3]]})
    assert items("a.parquet") == {"1": "one", "2": "grüße", "-3": "one"}


def test_nulls_are_bad_rows(folder: Path, errors: Errors) -> None:
    """A row without a text is named by its id, or by its number; one without an id is named by its number."""
    save("a.parquet", {"id": ["x", None, None], "text": pa.array([None, "b", None], pa.string())})
    assert errors("a.parquet") == {
        "x": ("NotTextError", "a.parquet:1: the text is null."),
        "a.parquet:3": ("NotTextError", "a.parquet:3: the text is null."),
    }


def test_broken_utf8_in_parquet_costs_one_row(folder: Path) -> None:
    """Parquet does not check its texts; we do, and name the row. In a dictionary, pyarrow names the file."""
    raw = pa.array([b"good", b"caf\xe9", b"fine"], pa.binary())
    texts = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    save("a.parquet", {"text": texts})
    rows = list(open_sources(["a.parquet"]))
    assert [isinstance(row, Item) for row in rows] == [True, False, True]
    assert [row.key for row in rows] == ["a.parquet:1", "a.parquet:2", "a.parquet:3"]
    save("a.parquet", {"text": pa.DictionaryArray.from_arrays([0, 1, 2], texts)})
    with pytest.raises(SourceFormatError, match="UTF8"):
        open_sources(["a.parquet"])


def test_many_row_groups_and_files_are_one_stream(folder: Path, items: Items) -> None:
    """Rows are numbered through a file, in order; several files follow each other."""
    for name in "ab":
        save(f"{name}.parquet", {"text": [f"{name}{n}" for n in range(10_000)]}, row_group_size=3_000)
    found = items("*.parquet")
    assert list(found.values()) == [f"{name}{n}" for name in "ab" for n in range(10_000)]
    assert found["b.parquet:10000"] == "b9999"


def test_a_column_that_holds_no_text_is_told_at_once(folder: Path) -> None:
    """Naming a column of numbers is a mistake, and the columns of text are listed."""
    save("a.parquet", {"n": [1], "notes": ["x"]})
    with pytest.raises(SourceFormatError, match=r"holds int64, not text\. These hold text: 'notes'"):
        open_sources(["a.parquet"], text_column="n")


@pytest.mark.parametrize("damage", ["text", "cut", "hole"])
def test_a_broken_parquet_file_is_named(write: Write, folder: Path, errors: Errors, damage: str) -> None:
    """Not Parquet, a lost end, overwritten pages: a format error, never a traceback."""
    save("whole.parquet", {"text": [f"{n} {n * n}" for n in range(50_000)]}, use_dictionary=False)
    whole = (folder / "whole.parquet").read_bytes()
    middle = len(whole) // 2
    broken = {
        "text": b"no parquet at all",
        "cut": whole[:middle],
        "hole": whole[:100] + b"\xff" * (middle - 100) + whole[middle:],
    }[damage]
    write("d/a.parquet", broken)
    assert {name for name, _ in errors("d").values()} == {"SourceFormatError"}
    with pytest.raises(SourceFormatError, match="not a sound Parquet file"):
        open_sources(["d/a.parquet"])


def test_a_parquet_file_that_vanishes_is_reported(write: Write, folder: Path) -> None:
    """As any other file that does."""
    save("a.parquet", {"text": ["x"]})
    write("b.md")
    sources = open_sources(["a.parquet", "b.md"])
    (folder / "a.parquet").unlink()
    row, _ = sources
    assert isinstance(row, BadItem)
    assert isinstance(row.error, SourceUnreadableError)


def test_a_compressed_parquet_file_is_not_read(write: Write) -> None:
    """Parquet is compressed within and cannot be read as a stream."""
    write("d/a.parquet.gz", "x")
    sources = open_sources(["d"])
    assert list(sources) == []
    assert sources.skipped_counts == {"binary": 1}


def test_long_texts_come_in_small_batches(folder: Path, items: Items) -> None:
    """A row group of large texts is not held in memory at once; nothing is lost."""
    save("a.parquet", {"text": [str(n) * 500_000 for n in range(60)]}, compression="zstd")
    assert [len(text) for text in items("a.parquet").values()] == [500_000] * 10 + [1_000_000] * 50


@pytest.mark.parametrize(
    ("header", "asked", "taken"),
    [
        ("id,text,prompt", None, "prompt"),
        ("id,title,Prompt", None, "Prompt"),
        ("id,text,title", None, "text"),
        ("id,text,prompt", "text", "text"),
    ],
)
def test_a_column_may_be_more_usual_than_others(
    tmp_path: Path, header: str, asked: str | None, taken: str
) -> None:
    """What a command looks for first is taken before the usual names, unless a column is named."""
    path = tmp_path / "rows.csv"
    path.write_text(f"{header}\n{','.join(f'the {name}' for name in header.split(','))}\n")
    (row,) = open_sources([str(path)], text_column=asked, usual_column="prompt")
    assert isinstance(row, Item)
    assert row.text == f"the {taken}"
    lines = tmp_path / "rows.jsonl"
    lines.write_text(json.dumps({name: f"the {name}" for name in header.split(",")}) + "\n")
    (row,) = open_sources([str(lines)], text_column=asked, usual_column="prompt")
    assert isinstance(row, Item)
    assert row.text == f"the {taken}"
