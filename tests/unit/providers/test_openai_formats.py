"""OpenAI's requests, answers, jobs and rows of results, as they are on the wire and as they should not be."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from embatch.errors import ProviderError
from embatch.providers.facts import facts_for
from embatch.providers.openai.lines import (
    answer,
    chat_body,
    embed_body,
    input_line,
    job_view,
    output_files,
    prompt_tokens,
    result_row,
    tag_of,
    vectors,
)
from embatch.remote import EmbedWork, ErrorKind, Generated, GenerateWork, JobState

FACTS = facts_for("openai:text-embedding-3-small")
ADA = facts_for("openai:text-embedding-ada-002")
CHAT = facts_for("openai:gpt-5-mini")
COMPATIBLE = facts_for("compatible:mine")
WORK = EmbedWork(model="text-embedding-3-small", dimensions=2, prompt="p: ")


def coded(*values: float) -> str:
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()


def body(*entries: Any, tokens: int = 7) -> dict[str, Any]:
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in entries]
    return {"object": "list", "data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def test_the_encoding_is_always_said() -> None:
    """Else the SDK asks for base64, on which many servers break."""
    asked = embed_body(FACTS, WORK, ["a", "b"], encoding="float")
    assert asked == {
        "model": "text-embedding-3-small",
        "input": ["p: a", "p: b"],
        "encoding_format": "float",
        "dimensions": 2,
    }
    assert "dimensions" not in embed_body(
        ADA, EmbedWork(model="text-embedding-ada-002", dimensions=1536), ["a"], encoding="base64"
    )


def test_lines_have_one_text_each() -> None:
    """Each text has a key, a status and an error of its own."""
    line = input_line(FACTS, WORK, "k", "a", encoding="base64")
    assert (line["custom_id"], line["method"], line["url"]) == ("k", "POST", "/v1/embeddings")
    assert line["body"]["input"] == "p: a"
    chat = input_line(CHAT, GenerateWork(model="gpt-5-mini"), "k", "a", encoding="base64")
    assert chat["url"] == "/v1/chat/completions"


def test_the_limit_of_an_answer_has_two_names() -> None:
    """OpenAI's newer models refuse `max_tokens`, other servers do not know `max_completion_tokens`."""
    work = GenerateWork(model="m", system="s", temperature=0.5, max_output_tokens=9)
    asked = chat_body(CHAT, work, "hi")
    assert asked == {
        "model": "m",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}],
        "temperature": 0.5,
        "max_completion_tokens": 9,
    }
    assert chat_body(COMPATIBLE, work, "hi")["max_tokens"] == 9


def test_vectors_are_ordered_by_index() -> None:
    """The place in the list means nothing."""
    found = vectors(FACTS, WORK, body((1, coded(0, 1)), (0, coded(1, 0))), 2, "x")
    assert [np.asarray(each).tolist() for each in found] == [[1.0, 0.0], [0.0, 1.0]]


def test_numbers_and_base64_are_both_understood() -> None:
    """A server may send numbers though base64 was asked for."""
    found = vectors(FACTS, WORK, body((0, [1.0, 0.0]), (1, coded(0, 1))), 2, "x")
    assert [np.asarray(each).tolist() for each in found] == [[1.0, 0.0], [0.0, 1.0]]


def test_without_indices_the_order_is_the_place() -> None:
    """Some servers send none."""
    found = vectors(FACTS, WORK, {"data": [{"embedding": [1.0, 0.0]}, {"embedding": [0.0, 1.0]}]}, 2, "x")
    assert [np.asarray(each).tolist() for each in found] == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"data": []},
        {"data": None},
        {"data": "odd"},
        body((0, [1.0, 0.0])),
        body((0, [1.0, 0.0]), (0, [1.0, 0.0])),
        body((0, [1.0, 0.0]), (2, [1.0, 0.0])),
        body((0, [1.0, 0.0]), (1, [1.0, 0.0]), (2, [1.0, 0.0])),
        body((None, [1.0, 0.0]), (1, [1.0, 0.0])),
    ],
)
def test_wrong_counts_and_indices_are_no_answer(sent: dict[str, Any]) -> None:
    """Too few, too many, doubled: nothing is guessed."""
    with pytest.raises(ProviderError) as error:
        vectors(FACTS, WORK, sent, 2, "x")
    assert error.value.kind is ErrorKind.PROTOCOL


def test_a_broken_vector_is_the_error_of_its_place() -> None:
    """The others are used."""
    found = vectors(FACTS, WORK, body((0, [1.0, 0.0]), (1, [1.0])), 2, "x")
    assert isinstance(found[0], np.ndarray)
    assert isinstance(found[1], ProviderError)


def test_tokens_that_were_counted() -> None:
    """`prompt_tokens`, else `total_tokens`, else nothing."""
    assert prompt_tokens({"usage": {"prompt_tokens": 3, "total_tokens": 4}}) == 3
    assert prompt_tokens({"usage": {"total_tokens": 4}}) == 4
    assert prompt_tokens({}) is None


def test_answers() -> None:
    """The text with its counts; a refusal is the text's fault, nothing at all is not."""
    usage = {"prompt_tokens": 3, "completion_tokens": 5}
    good = {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}], "usage": usage}
    assert answer(CHAT, good) == Generated("hi", 3, 5, "stop")
    empty = {"choices": [{"message": {"content": None}, "finish_reason": "length"}]}
    assert answer(CHAT, empty) == Generated("", None, None, "length")
    for sent, kind in (
        ({"choices": [{"message": {"content": None, "refusal": "no"}}]}, "bad_input"),
        ({"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]}, "bad_input"),
        ({"choices": []}, "protocol"),
    ):
        result = answer(CHAT, sent)
        assert isinstance(result, ProviderError)
        assert result.kind == kind


def row(custom_id: object, status: int, sent: object, error: object = None) -> dict[str, Any]:
    response = {"status_code": status, "request_id": "req_1", "body": sent}
    return {"id": "batch_req_1", "custom_id": custom_id, "response": response, "error": error}


def test_good_rows() -> None:
    """A vector or an answer, by what the line holds; its tokens are counted."""
    read = result_row(FACTS, WORK, row("k", 200, body((0, coded(1, 0)), tokens=4)))
    assert (read.key, read.tokens) == ("k", 4)
    assert isinstance(read.result, np.ndarray)
    chat = result_row(CHAT, None, row("k", 200, {"choices": [{"message": {"content": "hi"}}]}))
    assert chat.result == Generated("hi")


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (row("k", 400, {"error": {"message": "bad", "code": None}}), "bad_input"),
        (row("k", 429, {"error": {"message": "m", "code": "insufficient_quota"}}), "quota_money"),
        (row("k", 500, {"error": {"message": "m"}}), "overloaded"),
        (row("k", 503, None), "overloaded"),
        (row("k", 200, {"error": {"message": "m", "type": "server_error"}}), "overloaded"),
        (row("k", 200, {}), "protocol"),
        (row("k", 200, body((0, [1.0]))), "protocol"),
        (row("k", 200, body((0, [1.0, 0.0]), (1, [1.0, 0.0]))), "protocol"),
        (
            {"custom_id": "k", "response": None, "error": {"code": "batch_expired", "message": "m"}},
            "overloaded",
        ),
        ({"custom_id": "k", "response": None, "error": None}, "protocol"),
    ],
)
def test_bad_rows(line: dict[str, Any], kind: str) -> None:
    """A bad status, an error inside, an expired line, a line with nothing: errors of that row."""
    read = result_row(FACTS, WORK, line)
    assert read.key == "k"
    assert isinstance(read.result, ProviderError)
    assert read.result.kind == kind


@pytest.mark.parametrize("custom_id", [None, 3, ""])
def test_rows_without_a_key(custom_id: object) -> None:
    """A whole job came back with `custom_id: null` once: such a row has no key."""
    assert result_row(FACTS, WORK, row(custom_id, 200, body((0, coded(1, 0))))).key is None


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("validating", "queued"),
        ("in_progress", "running"),
        ("finalizing", "finalizing"),
        ("completed", "succeeded"),
        ("failed", "failed"),
        ("expired", "expired"),
        ("cancelling", "cancelling"),
        ("cancelled", "cancelled"),
        ("dreaming", "unknown"),
        (None, "unknown"),
    ],
)
def test_states(status: str | None, state: str) -> None:
    """OpenAI's words in ours; a new word is UNKNOWN, not an end."""
    assert job_view({"status": status}, "x").state == state


def test_counts_and_usage() -> None:
    """Failed rows are among the completed ones; zeros before the start are nothing said."""
    view = job_view(
        {
            "status": "completed",
            "request_counts": {"total": 9, "completed": 0, "failed": 9},
            "usage": {"input_tokens": 12},
        },
        "x",
    )
    assert (view.state, view.total, view.completed, view.failed) == (JobState.SUCCEEDED, 9, 9, 9)
    assert view.tokens == 12
    assert job_view({"request_counts": {"total": 0, "completed": 0, "failed": 0}}, "x").total is None


def test_a_job_that_failed_for_the_queue_is_deferred() -> None:
    """The limit on enqueued tokens shows only after the job was created."""
    view = job_view(
        {
            "status": "failed",
            "errors": {
                "object": "list",
                "data": [{"code": "token_limit_exceeded", "message": "Enqueued token limit"}],
            },
        },
        "x",
    )
    assert view.error is not None
    assert view.error.kind is ErrorKind.ENQUEUED_FULL


def test_files_of_a_job() -> None:
    """Both, one or none; the error file may be the only one."""
    assert output_files({"output_file_id": "a", "error_file_id": "b"}) == ["a", "b"]
    assert output_files({"output_file_id": None, "error_file_id": "b"}) == ["b"]
    assert output_files({}) == []
    assert tag_of({"metadata": {"embatch_tag": "t"}}) == "t"
    assert tag_of({"metadata": None}) is None
