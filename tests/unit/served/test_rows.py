"""The lines that tell what became of a row."""

import base64
import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tests.served import line_of

from embatch.frontends.server.errors import ApiError
from embatch.frontends.server.jobs.rows import Row, Settled, as_row, result_line, shares, undone_line
from embatch.frontends.server.settings import ServeSettings

SETTINGS = ServeSettings()
JOB = "batch_0123456789abcdef0123456789abcdef"


@given(st.integers(0, 10**6), st.lists(st.text(max_size=50) | st.lists(st.integers(0, 9)), min_size=1))
def test_shares_add_up(total: int, inputs: list[str | list[int]]) -> None:
    """Tokens of an ask are divided among its inputs without loss, unless all of them are empty."""
    found = shares(total, inputs)
    assert len(found) == len(inputs)
    assert min(found) >= 0
    assert sum(found) == (total if any(inputs) else 0)


def test_longer_inputs_get_more() -> None:
    """The share of an input goes by its length, where a token id counts as a few characters."""
    assert shares(100, ["abcd" * 3, [7]]) == [75, 25]


def test_numbers() -> None:
    """A good row has OpenAI's line with vectors as numbers, in the order of its inputs."""
    row = as_row(line_of("a", ["x", "y"]), 3, SETTINGS)
    settled = [Settled(np.array([0.5, -1], np.float32), 2), Settled(np.array([1, 2], np.float32), 3)]
    went_well, raw = result_line(row, settled, job=JOB, model="double")
    line = json.loads(raw)
    assert went_well
    assert raw.endswith(b"\n")
    assert line["custom_id"] == "a"
    assert line["error"] is None
    assert line["response"]["status_code"] == 200
    assert line["response"]["body"] == {
        "object": "list",
        "model": "double",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.5, -1.0]},
            {"object": "embedding", "index": 1, "embedding": [1.0, 2.0]},
        ],
        "usage": {"prompt_tokens": 5, "total_tokens": 5},
    }


def test_base64() -> None:
    """With `encoding_format` base64 a vector is its little-endian float32 bytes."""
    row = as_row(line_of("a", "x", encoding_format="base64"), 1, SETTINGS)
    vector = np.array([0.1, 2.5], np.float32)
    line = json.loads(result_line(row, [Settled(vector, 1)], job=JOB, model="double")[1])
    told = line["response"]["body"]["data"][0]["embedding"]
    assert np.array_equal(np.frombuffer(base64.b64decode(told), "<f4"), vector)


def test_refused_rows() -> None:
    """A row that is refused has a line with the status and OpenAI's error body."""
    row = as_row(line_of("a", ""), 1, SETTINGS)
    went_well, raw = result_line(row, [], job=JOB, model="double")
    line = json.loads(raw)
    assert not went_well
    assert line["response"]["status_code"] == 400
    assert line["response"]["body"]["error"]["param"] == "input"
    assert line["error"] is None


def test_one_failed_input_fails_its_row() -> None:
    """A row is one request: if one of its inputs has no vector, the row is an error."""
    row = as_row(line_of("a", ["x", "y"]), 1, SETTINGS)
    settled = [Settled(np.zeros(2, np.float32), 1), Settled(None, 0, ApiError(500, "broken"))]
    went_well, raw = result_line(row, settled, job=JOB, model="double")
    assert not went_well
    assert json.loads(raw)["response"]["status_code"] == 500


def test_undone_rows() -> None:
    """A row whose turn never came has no response, and a code that says how the batch ended."""
    line = json.loads(undone_line(Row(number=9, custom_id="q"), job=JOB, ending="expired"))
    assert line["response"] is None
    assert line["error"]["code"] == "batch_expired"
    assert line["custom_id"] == "q"


def test_a_line_that_changed_is_an_error_row() -> None:
    """A file that was changed behind the server's back spoils its rows, and nothing else."""
    row = as_row(b"{nonsense", 1, SETTINGS)
    assert row.problem is not None
    assert row.problem.status == 400
    assert row.inputs == ()
