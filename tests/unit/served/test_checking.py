"""Validation of input files: every kind of wrong line is found, named with its number, in bounded memory."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.served import ENDPOINT, line_of

from embatch.frontends.server.jobs.checking import MOST_COMPLAINTS, Checker, Verdict
from embatch.frontends.server.jobs.reading import Line

GOOD = json.loads(line_of("x", "text"))
WRONG: dict[str, dict[str, Any]] = {
    "missing_required_parameter": {"custom_id": None},
    "invalid_method": {"method": "GET"},
    "invalid_url": {"url": "/v1/chat/completions"},
    "mismatched_model": {"body": {"model": "other", "input": "text"}},
}


def check(raws: list[bytes | None], most_rows: int = 1000) -> Verdict:
    lines = [Line(number, raw, 0) for number, raw in enumerate(raws, 1)]
    checker = Checker(ENDPOINT, knows=lambda model: model == "double", most_rows=most_rows)
    checker.feed(lines)
    doubles = checker.doubles()
    if doubles:
        checker.feed_again(lines, doubles, set())
    return checker.verdict()


@given(
    st.lists(
        st.tuples(st.sampled_from(["good", "json", "long", *WRONG]), st.integers(0, 8)),
        min_size=1,
        max_size=30,
    )
)
def test_every_wrong_line_is_named(kinds: list[tuple[str, int]]) -> None:
    """Of each wrong line the first thing that is wrong is named; of equal ids, each but the first."""
    raws: list[bytes | None] = [line_of("first", "text")]
    expected: list[tuple[int, str]] = []
    seen: set[str] = set()
    for number, (kind, key) in enumerate(kinds, 2):
        if kind in {"json", "long"}:
            raws.append(b"{" if kind == "json" else None)
            expected.append((number, "invalid_json_line" if kind == "json" else "line_too_long"))
            continue
        line = {**GOOD, "custom_id": f"id {key}", **WRONG.get(kind, {})}
        raws.append(json.dumps(line).encode())
        if kind != "good":
            expected.append((number, kind))
        if line["custom_id"] is not None:
            if line["custom_id"] in seen:
                expected.append((number, "duplicate_custom_id"))
            seen.add(line["custom_id"])
    verdict = check(raws)
    assert sorted((each["line"], each["code"]) for each in verdict.errors) == sorted(expected)
    assert [each["line"] for each in verdict.errors] == sorted(each["line"] for each in verdict.errors)
    assert verdict.total == len(raws)
    assert verdict.model == "double"


def test_empty() -> None:
    """A file without a row is no batch."""
    assert [each["code"] for each in check([]).errors] == ["empty_file"]


def test_unknown_model() -> None:
    """A model that is not served is named with its line."""
    (error,) = check([line_of("a", "text", model="gpt-9")]).errors
    assert error["code"] == "model_not_found"
    assert error["line"] == 1
    assert "gpt-9" in error["message"]


def test_no_model() -> None:
    """A row must say which model it wants."""
    (error,) = check([line_of("a", "text", model=None)]).errors
    assert (error["code"], error["param"]) == ("missing_required_parameter", "body.model")


def test_too_many_rows() -> None:
    """One row more than allowed makes the file invalid."""
    rows: list[bytes | None] = [line_of(number, "text") for number in range(4)]
    assert check(rows, most_rows=4).errors == []
    assert [each["code"] for each in check(rows, most_rows=3).errors] == ["too_many_tasks"]


def test_the_list_of_errors_is_bounded() -> None:
    """A file that is wrong from end to end names its first lines, and says how many more there are."""
    errors = check([b"?"] * (MOST_COMPLAINTS + 23)).errors
    assert len(errors) == MOST_COMPLAINTS + 1
    assert "23 more" in errors[-1]["message"]
    assert errors[-1]["line"] is None


def test_a_line_that_is_no_object() -> None:
    """JSON that is no object is no request."""
    assert [each["code"] for each in check([b"[1, 2]"]).errors] == ["invalid_json_line"]
