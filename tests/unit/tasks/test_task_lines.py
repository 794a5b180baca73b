"""Lines of a task file: what is written reads back the same, what is broken is named and leaves the others alone."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from embatch.storage.task_lines import read_lines, write_lines

KEYS = st.text(max_size=8).filter(lambda key: key not in {"task_id", "embedding"})
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
VECTORS = arrays(np.float32, (4,), elements=st.floats(-1, 1, width=32)).filter(np.any)


def read(*lines: bytes, dimensions: int = 2) -> Any:
    return read_lines(lines, dimensions=dimensions)


@given(st.text(min_size=1), st.dictionaries(KEYS, VALUES, max_size=4), VECTORS)
def test_what_is_written_reads_back(name: str, rest: dict[str, Any], vector: np.ndarray) -> None:
    """Any record and any float32 vector survive, bit by bit, and the line is plain JSON."""
    (line,) = write_lines([{"task_id": name, **rest}], vector[None])
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert set(json.loads(line)) == {"task_id", "embedding", *rest}
    found = read(line.rstrip(b"\n"), dimensions=4)
    assert not found.problems
    assert found.records == [{"task_id": name, "embedding": None, **rest}]
    np.testing.assert_array_equal(found.vectors, vector[None])


def test_a_vector_stays_in_its_place_among_the_keys() -> None:
    """Keys keep their order, so that a rewritten file differs in its vectors only."""
    (line,) = write_lines([{"a": 1, "embedding": None, "task_id": "T"}], np.array([[0.5, 1]], np.float32))
    assert line == b'{"a": 1, "embedding": [0.5,1], "task_id": "T"}\n'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON"),
        (b"[]", "a JSON object is wanted"),
        (b'{"task_id": "T", "embedding": [1]}', "has 1 numbers, not 2"),
        (b'{"task_id": "T", "embedding": []}', "has 0 numbers, not 2"),
        (b'{"task_id": "T", "embedding": [0, 0]}', "zero"),
        (b'{"task_id": "T", "embedding": [1, NaN]}', "no number"),
        (b'{"task_id": "T", "embedding": [1, x]}', "no number"),
        (b'{"task_id": "T", "embedding": [1, "2"]}', "no number"),
        (b'{"task_id": "T", "embedding": [1, true]}', "no number"),
        (b'{"task_id": "T"}', "no list of numbers"),
        (b'{"task_id": 5, "embedding": [1, 2]}', "no task_id"),
        (b'{"embedding": [1, 2]}', "no task_id"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_broken_line_is_named_and_the_others_are_read(line: bytes, reason: str) -> None:
    """The line's number and what is wrong with it are told; its neighbours are read as if it were not there."""
    good = b'{"task_id": "G", "embedding": [0.6, 0.8]}'
    found = read(good, line, b"", good)
    assert found.lines == [1, 4]
    assert [problem.line for problem in found.problems] == [2]
    assert reason in found.problems[0].reason
    np.testing.assert_array_equal(found.vectors, np.array([[0.6, 0.8]] * 2, np.float32))


@pytest.mark.parametrize(
    "line",
    [
        b'{"task_id": "T", "title": "\\"embedding\\": [9]", "embedding": [1, 2]}',
        b'{"task_id": "T", "was": {"embedding": [9, 9]}, "embedding": [1, 2]}',
        b'{"task_id": "T", "embedding": [1, 2], "was": {"embedding": [9, 9]}}',
        b'{"embedding" :  [ 1 ,\t2.0e0 ], "task_id": "T"}\r',
        b'\xef\xbb\xbf{"task_id": "T", "embedding": [1, 2]}',
    ],
)
def test_the_vector_is_found_wherever_it_stands(line: bytes) -> None:
    """Other things of that name, white space, and a byte order mark do not mislead."""
    found = read(line)
    assert not found.problems
    np.testing.assert_array_equal(found.vectors, [[1, 2]])
