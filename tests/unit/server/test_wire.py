"""What bodies of requests become: asks, or refusals that name the field."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embatch.frontends.server.errors import ApiError
from embatch.frontends.server.settings import ServeSettings
from embatch.frontends.server.wire import about_tokens, as_openai, as_tei, timeout_of
from embatch.serving import Priority

if TYPE_CHECKING:
    from collections.abc import Callable

    from embatch.frontends.server.wire import Asked

pytestmark = pytest.mark.serve

SETTINGS = ServeSettings(inputs_per_request=8, text_chars=40)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(
    lambda text: not text.isspace()
)
IDS = st.lists(st.integers(0, 2**31), min_size=1, max_size=40)
INPUTS = TEXTS | IDS | st.lists(TEXTS, min_size=1, max_size=8) | st.lists(IDS, min_size=1, max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def refused(**fields: object) -> ApiError:
    with pytest.raises(ApiError) as caught:
        as_openai(body(**fields), SETTINGS, 5.0)
    assert caught.value.status == 400
    return caught.value


def outcome_of(parse: Callable[..., Asked], content: bytes) -> Asked | ApiError:
    try:
        return parse(content, SETTINGS, None)
    except ApiError as error:
        return error


@given(INPUTS)
def test_inputs_come_through_as_they_were_given(inputs: Any) -> None:
    """A text, token ids, and lists of either become the ask's inputs, in order, on both wires."""
    single = isinstance(inputs, str) or isinstance(inputs[0], int)
    for asked in (
        as_openai(body(input=inputs), SETTINGS, 5.0),
        as_tei(body(inputs=inputs), SETTINGS, 5.0),
    ):
        assert asked.ask.inputs == ([inputs] if single else inputs)
        assert asked.single is single
        assert (asked.ask.timeout_s, asked.model, asked.ask.priority) == (5.0, None, Priority.INTERACTIVE)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "model",
                "input",
                "inputs",
                "dimensions",
                "encoding_format",
                "user",
                "task",
                "input_type",
                "prompt_name",
                "priority",
                "truncate",
                "normalize",
                "truncation_direction",
            ]
        ),
        JSON,
    )
)
def test_any_body_is_an_ask_or_a_refusal(fields: dict[str, Any]) -> None:
    """Whatever values fields have, nothing but a refusal comes out, and it names a field that is wrong."""
    for parse in (as_openai, as_tei):
        outcome = outcome_of(parse, body(**fields))
        if isinstance(outcome, ApiError):
            assert outcome.status == 400
            named = outcome.param is None or outcome.param.partition("[")[0]
            assert named is True or named in {*fields, "input", "inputs"}
        else:
            assert 1 <= len(outcome.ask.inputs) <= SETTINGS.inputs_per_request
            assert all(0 < len(each) <= SETTINGS.text_chars for each in outcome.ask.inputs)


@given(st.binary(max_size=60))
def test_any_bytes_are_an_ask_or_a_refusal(content: bytes) -> None:
    """What is no JSON object is refused as that."""
    with pytest.raises(ApiError) as caught:
        as_openai(content, SETTINGS, None)
    assert caught.value.code in {"invalid_json", "invalid_type", "missing_parameter"}


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({}, "input", "missing_parameter"),
        ({"input": None}, "input", "missing_parameter"),
        ({"input": ""}, "input", "empty_string"),
        ({"input": " \n"}, "input", "empty_string"),
        ({"input": []}, "input", "empty_array"),
        ({"input": ["a", ""]}, "input[1]", "empty_string"),
        ({"input": ["a", 1]}, "input[1]", "invalid_type"),
        ({"input": [[1], "a"]}, "input[1]", "invalid_type"),
        ({"input": [1, "a"]}, "input", "invalid_type"),
        ({"input": [1, True]}, "input", "invalid_type"),
        ({"input": [1.5]}, "input[0]", "invalid_type"),
        ({"input": [[1], []]}, "input[1]", "empty_array"),
        ({"input": [[-1]]}, "input[0]", "invalid_value"),
        ({"input": {"a": 1}}, "input", "invalid_type"),
        ({"input": ["a"] * 9}, "input", "array_above_max_length"),
        ({"input": "a" * 41}, "input", "string_above_max_length"),
        ({"input": ["a", "a" * 41]}, "input[1]", "string_above_max_length"),
        ({"input": [1] * 41}, "input", "array_above_max_length"),
        ({"input": "a", "model": 3}, "model", "invalid_type"),
        ({"input": "a", "user": 3}, "user", "invalid_type"),
        ({"input": "a", "dimensions": 0}, "dimensions", "invalid_value"),
        ({"input": "a", "dimensions": "8"}, "dimensions", "invalid_type"),
        ({"input": "a", "dimensions": True}, "dimensions", "invalid_type"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "invalid_value"),
        ({"input": "a", "encoding_format": 1}, "encoding_format", "invalid_type"),
        ({"input": "a", "priority": "urgent"}, "priority", "invalid_value"),
        ({"input": "a", "truncate": "yes"}, "truncate", "invalid_type"),
        ({"input": "a", "task": 1}, "task", "invalid_type"),
        ({"input": "a", "task": "query", "input_type": "document"}, None, "invalid_value"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str | None, code: str) -> None:
    """A refusal says which field, which input of it, and what kind of mistake."""
    error = refused(**fields)
    assert (error.param, error.code) == (param, code)


def test_a_whole_request_is_understood() -> None:
    """Every field that is known has its effect, and unknown ones have none."""
    asked = as_openai(
        body(
            input=["a"], model="m", dimensions=8, encoding_format="base64", user="u", input_type="search_query",
            priority="batch", truncate=False, store=True,
        ),
        SETTINGS,
        1.0,
    )  # fmt: skip
    assert (asked.model, asked.base64) == ("m", True)
    assert (asked.ask.task, asked.ask.dimensions, asked.ask.overlong) == ("query", 8, "error")
    assert asked.ask.priority is Priority.BATCH
    assert as_openai(body(input="a", truncate=True), SETTINGS, None).ask.overlong == "truncate"
    assert as_openai(body(input="a", task="code"), SETTINGS, None).ask.task == "code"


def test_tei_fields_are_understood() -> None:
    """Vectors are normalised unless that is switched off; only the end of a text can be cut."""
    assert as_tei(body(inputs="a"), SETTINGS, None).normalize is True
    assert as_tei(body(inputs="a", normalize=False), SETTINGS, None).normalize is False
    asked = as_tei(body(inputs="a", prompt_name="query", truncation_direction="Right"), SETTINGS, None)
    assert asked.ask.task == "query"
    with pytest.raises(ApiError) as caught:
        as_tei(body(inputs="a", truncation_direction="Left"), SETTINGS, None)
    assert caught.value.param == "truncation_direction"


@pytest.mark.parametrize(
    ("header", "seconds"), [(None, 60.0), (b"5", 5.0), (b"0.25", 0.25), (b"600", 60.0), (b"inf", 60.0)]
)
def test_a_request_brings_its_own_time(header: bytes | None, seconds: float) -> None:
    """The header shortens the server's own limit and never lengthens it."""
    assert timeout_of(header, 60.0) == seconds


@pytest.mark.parametrize("header", [b"0", b"-1", b"nan", b"soon", b""])
def test_a_time_that_is_none_is_refused(header: bytes) -> None:
    """What is no positive number is an error and not the default."""
    with pytest.raises(ApiError, match="X-Request-Timeout"):
        timeout_of(header, 60.0)


def test_tokens_are_estimated_before_they_are_counted() -> None:
    """A quarter of a text's characters, and one at least; token ids are what they are."""
    assert about_tokens(["", "abcd", "abcdefgh"]) == 1 + 2 + 3
    assert about_tokens([[1, 2, 3]]) == 3
