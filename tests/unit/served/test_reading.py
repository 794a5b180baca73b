"""Input files in groups: nothing is lost between them, and reading can begin after any of them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.served import line_of

from embatch.frontends.server.jobs.reading import GROUP_BYTES, INPUT_BYTES, Group, GroupReader, InputLines
from embatch.frontends.server.jobs.rows import wish_of
from embatch.frontends.server.settings import ServeSettings

SETTINGS = ServeSettings()
MOST = 5
ROWS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 1, 1, 2, 7]),  # inputs; 0 is a refused row
        st.sampled_from([None, None, 3]),  # dimensions
        st.integers(0, 2),  # blank lines before it
    ),
    max_size=25,
)


def groups_of(path: Path, offset: int = 0, number: int = 0) -> list[Group]:
    with InputLines(path, most_bytes=1 << 20, offset=offset, number=number) as lines:
        reader = GroupReader(lines, SETTINGS, most_inputs=MOST)
        return list(iter(reader.next, None))


def told(groups: list[Group]) -> list[tuple[object, ...]]:
    return [(row.number, row.custom_id, list(row.inputs)) for group in groups for row in group.rows]


@settings(deadline=None)
@given(ROWS)
def test_groups(rows: list[tuple[int, int | None, int]]) -> None:
    """All rows come, in order, in groups that agree in what they want and are no larger than one row makes them."""
    raw = b""
    for place, (inputs, dimensions, blanks) in enumerate(rows):
        raw += b" \n" * blanks
        raw += line_of(place, [f"text {place}"] * inputs or "", dimensions=dimensions)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "in"
        path.write_bytes(raw)
        groups = groups_of(path)
        read = [row for group in groups for row in group.rows]
        assert [row.custom_id for row in read] == [str(place) for place in range(len(rows))]
        for group in groups:
            assert len(group.inputs) <= MOST or len(group.rows) == 1
            assert sum(len(row.inputs) for row in group.rows) == len(group.inputs)
            assert {wish_of(row.asked.ask) for row in group.rows if row.asked} <= {group.wish}
        lines = upto = 0
        for done, group in enumerate(groups):
            lines, upto = lines + group.lines, group.upto
            assert told(groups_of(path, upto, lines)) == told(groups[done + 1 :])
        assert all(a.upto < b.upto for a, b in pairwise(groups))


def test_long_inputs_weigh_more(tmp_path: Path) -> None:
    """What is under way is bounded by memory too: an input of much text counts as several, and fills a group."""
    path = tmp_path / "in"
    text = "x" * (GROUP_BYTES // 2 + 1)
    path.write_bytes(b"".join(line_of(number, text) for number in range(3)))
    groups = groups_of(path)
    assert [len(group.rows) for group in groups] == [1, 1, 1]
    assert groups[0].weight == -(-len(text) // INPUT_BYTES)


def test_lines_that_are_too_long(tmp_path: Path) -> None:
    """A line longer than a request may be is passed over; the next one is read as if nothing were."""
    path = tmp_path / "in"
    path.write_bytes(b"y" * 3_000_000 + b"\n" + line_of("a", "text"))
    with InputLines(path, most_bytes=1000) as lines:
        first, second = lines.take(10)
    assert (first.number, first.raw) == (1, None)
    assert (second.number, second.raw) == (2, line_of("a", "text"))


def test_last_line_without_a_newline(tmp_path: Path) -> None:
    """The last line needs no newline."""
    path = tmp_path / "in"
    path.write_bytes(line_of("a", "text").rstrip())
    (group,) = groups_of(path)
    assert group.rows[0].custom_id == "a"
    assert group.upto == path.stat().st_size
