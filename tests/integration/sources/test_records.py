"""JSON lines, JSON arrays and standard input as items."""

from __future__ import annotations

import gzip
import io
import json
from typing import TYPE_CHECKING

import pytest

from embatch.errors import MissingColumnError, SourceFormatError, UsageError
from embatch.storage.sources import open_sources, streams
from embatch.types import BadItem, Item

if TYPE_CHECKING:
    from collections.abc import Callable

    Write = Callable[..., None]
    Items = Callable[..., dict[str, str]]
    Errors = Callable[..., dict[str, tuple[str, str]]]


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "A.JSONL", "a.jsonl.gz"])
def test_a_line_is_an_item(write: Write, items: Items, name: str) -> None:
    """Objects with a text field, or bare strings; blank lines are none; the line names what has no id."""
    lines = [
        '{"id": "x", "text": "One"}',
        "",
        '{"text": "Zwei ü \\u00e9"}\r',
        '  "three"  ',
        '{"id": 7, "text": "7"}',
    ]
    content = "\n".join(lines).encode()
    write(name, gzip.compress(content) if name.endswith(".gz") else content)
    assert items(name) == {"x": "One", f"{name}:3": "Zwei ü é", f"{name}:4": "three", "7": "7"}


def test_every_item_knows_its_place(write: Write) -> None:
    """The source is file and line, also where the key is the user's."""
    write("a.jsonl", '{"id": "x", "text": "One"}\n{"text": "Two"}\n')
    assert [row.source for row in open_sources(["a.jsonl"])] == ["a.jsonl:1", "a.jsonl:2"]


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        (b'{"text": null}', "NotTextError", "the text is null"),
        (b'{"text": 3.5}', "NotTextError", "the text is float 3.5"),
        (b'{"text": true}', "NotTextError", "the text is bool True"),
        (b'{"text": ["a"]}', "NotTextError", "the text is list"),
        (b'{"text": {}}', "NotTextError", "the text is dict"),
        (b'{"txt": "a"}', "RowError", "has no field 'text'"),
        (b'{"text": "a"', "RowError", "is not JSON"),
        (b'{"text": "a"} x', "RowError", "is not JSON"),
        (b"nonsense", "RowError", "is not JSON"),
        (b"[1, 2]", "RowError", "holds a JSON list"),
        (b"17", "RowError", "holds a JSON int"),
        (b"1" * 5000, "RowError", "is not JSON"),
        (b"[" * 100_000, "RowError", "nested too deeply"),
        (b'{"text": "caf\xe9"}', "EncodingError", "is not UTF-8"),
        (b'{"text": "a", "id": [1]}', "RowError", "the id is a list"),
        (b'{"text": "a", "id": true}', "RowError", "the id is a bool"),
        (b'{"text": "a\0"}', "RowError", "is not JSON"),
    ],
)
def test_a_broken_line_is_named_and_the_others_go_on(
    write: Write, errors: Errors, line: bytes, error: str, message: str
) -> None:
    """Each kind of bad row has its error and its place, wherever in the file it stands."""
    good = b'{"id": "good", "text": "good"}\n'
    for before in (1, 150):
        write("d/a.jsonl", good * before + line + b"\n" + good * 2)
        rows = list(open_sources(["d/a.jsonl"]))
        assert [type(row) for row in rows] == [Item] * before + [BadItem] + [Item] * 2
        ((key, (name, text)),) = errors("d/a.jsonl").items()
        assert (key, name) == (f"d/a.jsonl:{before + 1}", error)
        assert text.startswith(key)
        assert message in text


def test_lone_surrogates_are_passed_on_in_texts_and_escaped_in_keys(write: Write) -> None:
    """JSON can escape what is no Unicode text: the engine names the text, and a key can always be written."""
    write("a.jsonl", '{"id": "k\\ud800", "text": "a\\ud800"}\n')
    (row,) = open_sources(["a.jsonl"])
    assert row == Item("k\\ud800", "a\ud800", "a.jsonl:1")


def test_other_separators_of_unicode_do_not_end_a_line(write: Write, items: Items) -> None:
    """U+2028 and U+0085 may stand in a JSON string as they are."""
    write("a.jsonl", '{"text": "a\u2028b\u0085c"}\n')
    assert items("a.jsonl") == {"a.jsonl:1": "a\u2028b\u0085c"}


def test_a_field_may_be_missing_in_the_first_records(write: Write, items: Items) -> None:
    """Columns are chosen by the first hundred records, not by the first."""
    write("a.jsonl", '{"id": 1, "title": "T"}\n{"id": 2, "title": "T", "text": "x"}\n')
    rows = list(open_sources(["a.jsonl"]))
    assert [type(row).__name__ for row in rows] == ["BadItem", "Item"]


def test_lines_longer_than_a_block_are_read(write: Write, items: Items) -> None:
    """A line is not bounded by how much is read at a time."""
    texts = ["x" * 3_000_000, "ü" * 1_100_000, "short"]
    write("a.jsonl", "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts))
    assert list(items("a.jsonl").values()) == texts


def test_a_line_beyond_measure_ends_its_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of hundreds of megabytes is no row; it must not fill the memory."""
    monkeypatch.setattr(streams, "MAX_LINE_BYTES", 2 << 20)
    write("a.jsonl", '{"text": "a"}\n' * 200 + "x" * (5 << 20))
    rows = list(open_sources(["a.jsonl"]))
    assert len(rows) == 201
    assert isinstance(rows[-1], BadItem)
    assert str(rows[-1].error) == "'a.jsonl' has a line of more than 2 MB."


def test_truncated_compression_keeps_the_rows_before_it(write: Write) -> None:
    """What could be read is embedded, and the rest is one bad item."""
    content = b"".join(b'{"text": "row %d"}\n' % n for n in range(200_000))
    write("a.jsonl.gz", gzip.compress(content)[:-100_000])
    rows = list(open_sources(["a.jsonl.gz"]))
    assert len(rows) > 1_000
    assert isinstance(rows[-1], BadItem)
    assert (rows[-1].key, type(rows[-1].error)) == ("a.jsonl.gz", SourceFormatError)
    assert all(isinstance(row, Item) for row in rows[:-1])


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_an_array_of_records_is_a_table(
    write: Write, items: Items, indent: int | None, encoding: str
) -> None:
    """A `.json` file that holds a list of objects or strings gives an item each, numbered from 1."""
    records = [{"id": "x", "text": "One"}, {"text": "Zwei ü"}, "three", {"id": 4, "text": "]"}]
    write("a.json", json.dumps(records, indent=indent, ensure_ascii=False).encode(encoding))
    assert items("a.json") == {"x": "One", "a.json:2": "Zwei ü", "a.json:3": "three", "4": "]"}


def test_a_long_array_is_read_in_blocks(write: Write) -> None:
    """Elements may lie across blocks, and be longer than one."""
    texts = [f"{n}-" + "y" * (n % 7 * 40_000) for n in range(100)] + ["z" * 2_500_000] + ["end"] * 1_000
    write("a.json", "\n" + json.dumps(texts) + "\n")
    assert [row.text for row in open_sources(["a.json"]) if isinstance(row, Item)] == texts


@pytest.mark.parametrize(
    "content", ['{"name": "x"}', "[]", "[1, 2]", "[[]]", '[{"a": 1}]', '[{"a": }', "17", "not json", '["a"']
)
def test_other_json_files_are_documents(write: Write, items: Items, content: str) -> None:
    """Configurations, numbers, records without a text, broken arrays: the file's text is its text."""
    write("a.json", content)
    assert items("a.json") == {"a.json": content}


def test_an_array_that_breaks_late_keeps_its_rows(write: Write) -> None:
    """Rows before the break are items; the rest of the file cannot be read, and that is one bad item."""
    write("a.json", "[" + '{"text": "x"},' * 500 + '{"text": }]')
    rows = list(open_sources(["a.json"]))
    assert len(rows) == 501
    assert isinstance(rows[-1], BadItem)
    assert "a.json:501 is not JSON" in str(rows[-1].error)


def test_a_named_column_makes_an_array_of_records_a_table(write: Write, items: Items) -> None:
    """Who names a column says that it is one; then a missing field is an error."""
    write("a.json", '[{"a": "x"}]')
    assert items("a.json", text_column="a") == {"a.json:1": "x"}
    with pytest.raises(MissingColumnError):
        open_sources(["a.json"], text_column="b")


def test_duplicate_ids_are_the_users(write: Write) -> None:
    """Keys are passed on as they are."""
    write("a.jsonl", '{"id": "x", "text": "One"}\n{"id": "x", "text": "Two"}\n')
    assert [row.key for row in open_sources(["a.jsonl"])] == ["x", "x"]


@pytest.mark.parametrize(
    ("content", "stdin_format", "expected"),
    [
        (b"one\n\n  \ntwo \r\n", "auto", {"stdin:1": "one", "stdin:4": "two "}),
        (b'{"id": "x", "text": "One"}\n"two"\n', "auto", {"x": "One", "stdin:2": "two"}),
        (b'\n\n{"text": "One"}', "auto", {"stdin:3": "One"}),
        (b'{"text": "One"}\n', "text", {"stdin:1": '{"text": "One"}'}),
        (b'"one"\n"two"\n', "jsonl", {"stdin:1": "one", "stdin:2": "two"}),
        (b"{not json}\n", "auto", {"stdin:1": "{not json}"}),
        ("\ufeffone\n".encode(), "auto", {"stdin:1": "one"}),
        ("grüße\n".encode("utf-16"), "auto", {"stdin:1": "grüße"}),
        (b"", "auto", {}),
        (b"\n", "auto", {}),
    ],
)
def test_standard_input_is_read_by_lines(
    items: Items, content: bytes, stdin_format: str, expected: dict[str, str]
) -> None:
    """Records if the first line is one, else texts; the format can be told."""
    assert items("-", stdin=io.BytesIO(content), stdin_format=stdin_format) == expected


def test_a_very_long_first_record_is_one(items: Items) -> None:
    """The format is told by the first bytes where the first line goes on beyond them."""
    content = json.dumps({"text": "x" * 100_000}).encode()
    assert len(items("-", stdin=io.BytesIO(content))["stdin:1"]) == 100_000


def test_bad_lines_of_standard_input_are_named(errors: Errors) -> None:
    """Broken UTF-8 costs its line."""
    assert errors("-", stdin=io.BytesIO(b"good\ncaf\xe9\n"))["stdin:2"][0] == "EncodingError"


def test_binary_standard_input_is_an_error(write: Write) -> None:
    """Alone it ends the run, beside files it is a bad item."""
    with pytest.raises(SourceFormatError, match="binary"):
        list(open_sources(["-"], stdin=io.BytesIO(b"\0\0")))
    write("a.md")
    rows = list(open_sources(["-", "a.md"], stdin=io.BytesIO(b"\0\0")))
    assert [row.key for row in rows] == ["stdin", "a.md"]


def test_standard_input_has_no_size_and_no_second_reading(write: Write) -> None:
    """Nothing is known of it beforehand; it is read at its place among the others; it stays open."""
    write("a.md")
    stream = io.BytesIO(b"one\n")
    sources = open_sources(["a.md", "-"], stdin=stream)
    assert sources.bytes_total is None
    assert sources.signature() is None
    assert [row.key for row in sources] == ["a.md", "stdin:1"]
    assert not stream.closed
    with pytest.raises(UsageError, match="twice"):
        list(sources)


def test_lines_come_as_soon_as_they_are_there() -> None:
    """A slow pipe is not waited for: its first lines are items while the rest is not written yet."""

    class Pipe(io.BytesIO):
        """Hands over one line at a time and notes how many."""

        given = 0

        def read1(self, size: int | None = -1, /) -> bytes:
            self.given += 1
            return self.readline()

    pipe = Pipe(b"".join(b"line %d\n" % n for n in range(100)))
    rows = iter(open_sources(["-"], stdin=pipe))
    assert next(rows) == Item("stdin:1", "line 0", "stdin:1")
    assert pipe.given == 1
