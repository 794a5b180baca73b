"""What every sink does, whatever its format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pytest

from embatch.decisions.vectors import quantize
from embatch.errors import BadVectorError, OutputBusyError, OutputError
from embatch.storage.sinks import open_sink
from embatch.types import Block, Item

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from embatch.types import ModelSpec, Output

    class Rows(Protocol):
        keys: list[str]
        vectors: npt.NDArray[Any]
        sources: list[str]
        texts: list[str] | None

    class Format(Protocol):
        name: str
        holds_text: bool
        read: Callable[[Path], Rows]


OUTPUTS: list[Output] = ["float32", "float16", "int8", "binary"]
STRANGE = [
    "",
    " ",
    "näïve café",
    "日本語 🙂",
    'quote " and \\ backslash',
    "line\nbreak\r\ttab",
    "nul\x00byte",
    "\u2028separator",
    "a" * 5000,
]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(path: Path, spec: ModelSpec, blocks: Sequence[Block], **options: Any) -> None:
    with open_sink(path, spec=spec, **options) as sink:
        for block in blocks:
            sink.write(block)
        sink.commit()


def test_rows_come_in_input_order(
    form: Format, tmp_path: Path, spec: ModelSpec, block: Callable[..., Block]
) -> None:
    """Blocks of any size, empty ones too, follow each other as they were written, each row with its key."""
    blocks = [block(3), block(1, first=3), block(0, first=4), block(200, first=4)]
    write(tmp_path / form.name, spec, blocks)
    rows = form.read(tmp_path / form.name)
    assert rows.keys == [f"key-{row}" for row in range(204)]
    assert rows.sources == [f"folder/{row // 3}.txt" for row in range(204)]
    np.testing.assert_array_equal(rows.vectors, np.concatenate([b.vectors for b in blocks]))


def test_failed_rows_are_left_out(
    form: Format, tmp_path: Path, spec: ModelSpec, block: Callable[..., Block]
) -> None:
    """A failed item has no row, its neighbours keep theirs, and a block may have failed altogether."""
    blocks = [block(5, failed={0, 3}), block(2, first=5, failed={5, 6}), block(2, first=7, failed={8})]
    write(tmp_path / form.name, spec, blocks)
    rows = form.read(tmp_path / form.name)
    assert rows.keys == ["key-1", "key-2", "key-4", "key-7"]
    np.testing.assert_array_equal(
        rows.vectors, np.concatenate([blocks[0].vectors[[1, 2, 4]], blocks[2].vectors[:1]])
    )


@pytest.mark.parametrize("output", OUTPUTS)
def test_every_output_reads_back(
    form: Format, tmp_path: Path, spec: ModelSpec, block: Callable[..., Block], output: Output
) -> None:
    """Numbers are stored as asked for, and read back exactly as they were quantised."""
    rows = block(40)
    write(tmp_path / form.name, spec, [rows], output=output)
    np.testing.assert_array_equal(form.read(tmp_path / form.name).vectors, quantize(rows.vectors, output))


@pytest.mark.parametrize("output", OUTPUTS)
def test_an_empty_output_is_a_whole_file(
    form: Format, tmp_path: Path, spec: ModelSpec, output: Output
) -> None:
    """No rows at all still give a file that its readers accept."""
    write(tmp_path / form.name, spec, [], output=output)
    rows = form.read(tmp_path / form.name)
    assert rows.keys == []
    assert len(rows.vectors) == 0


@pytest.mark.parametrize("first", [1e-45, 1.17549435e-38, 3.4028235e38, 0.1, 1 / 3, 16_777_216.0])
def test_float32_reads_back_as_the_same_number(
    form: Format, tmp_path: Path, spec: ModelSpec, first: float
) -> None:
    """Tiny, huge and unshortenable numbers come back as the same float32."""
    vectors = np.zeros((1, spec.dimensions), dtype=np.float32)
    vectors[0, 0], vectors[0, 1] = first, -first / 7
    write(tmp_path / form.name, spec, [Block(0, [Item("k", "t")], vectors)])
    found = form.read(tmp_path / form.name).vectors
    np.testing.assert_array_equal(found.astype(np.float32), vectors)


def test_keys_and_sources_are_kept_verbatim(
    form: Format, tmp_path: Path, spec: ModelSpec, block: Callable[..., Block]
) -> None:
    """Any Unicode text is a key: line breaks, quotes, NUL, emoji, nothing at all."""
    items = [Item(key, "text", key[::-1]) for key in STRANGE]
    write(tmp_path / form.name, spec, [Block(0, items, block(len(items)).vectors)])
    rows = form.read(tmp_path / form.name)
    assert rows.keys == STRANGE
    assert rows.sources == [key[::-1] for key in STRANGE]


def test_file_names_that_are_no_unicode_are_written_somehow(
    form: Format, tmp_path: Path, spec: ModelSpec, block: Callable[..., Block]
) -> None:
    """A lone surrogate, which is how Python spells such a name, neither fails nor touches other rows."""
    items = [Item("good", "t", "s"), Item("bad-\udcff", "t", "dir/\udcff.txt")]
    write(tmp_path / form.name, spec, [Block(0, items, block(2).vectors)])
    rows = form.read(tmp_path / form.name)
    assert rows.keys[0] == "good"
    assert rows.keys[1].startswith("bad-")
    assert "dcff" in ascii(rows.keys[1])


def test_texts_are_stored_if_asked_for(
    form: Format, tmp_path: Path, spec: ModelSpec, block: Callable[..., Block]
) -> None:
    """Without asking there are none."""
    if not form.holds_text:
        pytest.skip("this format has no place for texts")
    items = [Item(f"k{i}", text) for i, text in enumerate(STRANGE)]
    rows = Block(0, items, block(len(items)).vectors)
    write(tmp_path / form.name, spec, [rows], with_text=True)
    assert form.read(tmp_path / form.name).texts == STRANGE
    write(tmp_path / form.name, spec, [rows])
    assert form.read(tmp_path / form.name).texts is None


def test_nothing_shows_before_commit(
    form: Format, tmp_path: Path, spec: ModelSpec, block: Callable[..., Block]
) -> None:
    """Until `commit` only a hidden temporary file exists; after it, no temporary file does."""
    sink = open_sink(tmp_path / form.name, spec=spec)
    sink.write(block(3))
    assert all(name.startswith(".") and name.endswith(".tmp") for name in names(tmp_path))
    sink.commit()
    assert form.name in names(tmp_path)
    assert not [name for name in names(tmp_path) if name.endswith(".tmp")]


def test_an_older_output_stays_until_commit(
    form: Format, tmp_path: Path, spec: ModelSpec, block: Callable[..., Block]
) -> None:
    """An aborted second run leaves the first one's file byte for byte, a committed one replaces it."""
    path = tmp_path / form.name
    write(path, spec, [block(3)])
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    sink = open_sink(path, spec=spec)
    sink.write(block(2, first=50))
    sink.abort()
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before
    write(path, spec, [block(2, first=50)])
    assert form.read(path).keys == ["key-50", "key-51"]


def test_abort_leaves_nothing(
    form: Format, tmp_path: Path, spec: ModelSpec, block: Callable[..., Block]
) -> None:
    """What was written is gone, and aborting again does nothing."""
    sink = open_sink(tmp_path / form.name, spec=spec)
    sink.write(block(300))
    sink.abort()
    sink.abort()
    assert names(tmp_path) == []


def test_leaving_without_commit_aborts(
    form: Format, tmp_path: Path, spec: ModelSpec, block: Callable[..., Block]
) -> None:
    """Whatever ends the block between the first row and `commit` leaves nothing behind."""
    with open_sink(tmp_path / form.name, spec=spec) as sink:
        sink.write(block(3))
    assert names(tmp_path) == []


def test_abort_after_commit_does_nothing(
    form: Format, tmp_path: Path, spec: ModelSpec, block: Callable[..., Block]
) -> None:
    """A finished output is not taken back."""
    with open_sink(tmp_path / form.name, spec=spec) as sink:
        sink.write(block(3))
        sink.commit()
        sink.abort()
    assert form.read(tmp_path / form.name).keys == ["key-0", "key-1", "key-2"]


def test_an_ended_sink_takes_no_more(
    form: Format, tmp_path: Path, spec: ModelSpec, block: Callable[..., Block]
) -> None:
    """Rows after the end would be lost, so they are refused."""
    sink = open_sink(tmp_path / form.name, spec=spec)
    sink.commit()
    with pytest.raises(OutputError, match="ended"):
        sink.write(block(1))
    with pytest.raises(OutputError, match="ended"):
        sink.commit()


def test_a_row_of_nan_that_nobody_owns_is_refused(
    form: Format, tmp_path: Path, spec: ModelSpec, block: Callable[..., Block]
) -> None:
    """A row that is not finite and not among the failures would be lost in silence: it is named instead."""
    rows = block(3)
    rows.vectors[1, 4] = np.nan
    with pytest.raises(BadVectorError, match="key-1"), open_sink(tmp_path / form.name, spec=spec) as sink:
        sink.write(rows)
    assert names(tmp_path) == []


def test_one_target_has_one_writer(
    form: Format, tmp_path: Path, spec: ModelSpec, block: Callable[..., Block]
) -> None:
    """A second sink for the same file is refused while the first is open, and the first is not disturbed."""
    with open_sink(tmp_path / form.name, spec=spec) as sink:
        sink.write(block(2))
        with pytest.raises(OutputBusyError):
            open_sink(tmp_path / form.name, spec=spec)
        sink.commit()
    assert form.read(tmp_path / form.name).keys == ["key-0", "key-1"]
    write(tmp_path / form.name, spec, [block(1)])


def test_the_same_rows_give_the_same_bytes(
    form: Format, tmp_path: Path, spec: ModelSpec, block: Callable[..., Block]
) -> None:
    """No clock, no process and no block border shows in a file."""
    write(tmp_path / form.name, spec, [block(30)])
    write(tmp_path / "other" / form.name, spec, [block(11), block(19, first=11)])
    assert (tmp_path / form.name).read_bytes() == (tmp_path / "other" / form.name).read_bytes()
