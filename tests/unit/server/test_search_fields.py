"""What a search may ask for, and what it is told otherwise."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.serve


def question_of(**asked: Any) -> Any:
    from embatch.frontends.server.dashboard.search_routes import question_of as read

    return read(asked)


def test_fields_may_stand_beside_the_query_or_under_filters() -> None:
    """Both ways ask for the same."""
    beside = question_of(query="where", k=3, path="src/**", language=["python"], kind="code")
    under = question_of(
        q="where", limit=3, filters={"path": ["src/**"], "language": "python", "kind": ["code"]}
    )
    assert beside == under
    assert (beside.text, beside.k, beside.mode) == ("where", 3, "hybrid")
    assert (beside.path, beside.language, beside.kind) == (("src/**",), ("python",), ("code",))


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({}, "query"),
        ({"query": "  "}, "query"),
        ({"query": 5}, "query"),
        ({"query": "x" * 9000}, "query"),
        ({"query": "x", "k": 0}, "k"),
        ({"query": "x", "k": True}, "k"),
        ({"query": "x", "limit": 101}, "limit"),
        ({"query": "x", "k": "many"}, "k"),
        ({"query": "x", "mode": "magic"}, "mode"),
        ({"query": "x", "mode": ["text"]}, "mode"),
        ({"query": "x", "path": [1]}, "path"),
        ({"query": "x", "path": [""]}, "path"),
        ({"query": "x", "path": ["a"] * 33}, "path"),
        ({"query": "x", "language": {"a": 1}}, "language"),
        ({"query": "x", "kind": "y" * 600}, "kind"),
        ({"query": "x", "filters": []}, None),
        ({"query": "x", "filters": [1]}, "filters"),
        ({"query": "x", "filters": {"size": 1}}, "filters"),
        ({"query": "x", "colour": "red"}, "colour"),
    ],
)
def test_what_means_nothing_is_refused_by_name(asked: dict[str, Any], param: str | None) -> None:
    """The refusal is a 400 that names the field; an empty filter asks for nothing."""
    from embatch.frontends.server.errors import ApiError

    if param is None:
        assert question_of(**asked).path == ()
        return
    with pytest.raises(ApiError) as refused:
        question_of(**asked)
    assert (refused.value.status, refused.value.param) == (400, param)


def test_a_filter_that_means_nothing_is_found_before_anything_is_computed() -> None:
    """An unknown kind and a broken pattern are the asker's mistake."""
    from embatch.errors import UsageError

    for wrong in ({"kind": "poem"}, {"path": "src/[z-a]"}):
        with pytest.raises(UsageError):
            question_of(query="x", **wrong).where()
