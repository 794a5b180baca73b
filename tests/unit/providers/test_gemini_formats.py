"""Gemini's operations, job files and rows of results, as they are on the wire and as they should not be."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from embatch.errors import ProviderError
from embatch.providers.facts import facts_for
from embatch.providers.gemini.lines import answer, input_line, result_row
from embatch.providers.gemini.operations import created, display_name, input_file, job_view, outputs
from embatch.remote import EmbedWork, ErrorKind, Generated, GenerateWork, JobState

FACTS = facts_for("gemini:gemini-embedding-001")
FLASH = facts_for("gemini:gemini-2.5-flash")
WORK = EmbedWork(
    model="gemini-embedding-001", dimensions=128, task="RETRIEVAL_DOCUMENT", title="T", prompt="p: "
)


def operation(state: str | None, **others: Any) -> dict[str, Any]:
    metadata = {
        "@type": "type.googleapis.com/google.ai.generativelanguage.v1.EmbedContentBatch",
        "displayName": "tag-1",
        "createTime": "2026-11-21T10:00:00Z",
        "batchStats": {"requestCount": "5", "successfulRequestCount": "3", "failedRequestCount": "1"},
        "inputConfig": {"fileName": "files/in"},
    }
    if state:
        metadata["state"] = state
    return {"name": "batches/1", "metadata": metadata, **others}


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("BATCH_STATE_PENDING", "queued"),
        ("JOB_STATE_PENDING", "queued"),
        ("JOB_STATE_QUEUED", "queued"),
        ("JOB_STATE_PAUSED", "queued"),
        ("BATCH_STATE_RUNNING", "running"),
        ("JOB_STATE_UPDATING", "running"),
        ("JOB_STATE_CANCELLING", "cancelling"),
        ("BATCH_STATE_SUCCEEDED", "succeeded"),
        ("JOB_STATE_SUCCEEDED", "succeeded"),
        ("JOB_STATE_PARTIALLY_SUCCEEDED", "partial"),
        ("BATCH_STATE_FAILED", "failed"),
        ("BATCH_STATE_CANCELLED", "cancelled"),
        ("BATCH_STATE_EXPIRED", "expired"),
        ("BATCH_STATE_UNSPECIFIED", "unknown"),
        ("BATCH_STATE_DREAMING", "unknown"),
        (None, "submitted"),
    ],
)
def test_states_in_both_spellings(word: str | None, state: str) -> None:
    """`BATCH_STATE_*` and `JOB_STATE_*` are both seen; a new word is UNKNOWN, not an end."""
    assert job_view(operation(word, done=False), "x").state == state


def test_counts_are_strings() -> None:
    """int64 comes as a string; failed rows are among the completed ones."""
    view = job_view(operation("BATCH_STATE_RUNNING"), "x")
    assert (view.total, view.completed, view.failed) == (5, 4, 1)


def test_a_job_without_counts_says_none() -> None:
    """What the provider does not say is None, not 0."""
    view = job_view({"name": "batches/1", "done": False}, "x")
    assert (view.state, view.total, view.completed, view.failed) == (JobState.SUBMITTED, None, None, None)


@pytest.mark.parametrize("stale", ["BATCH_STATE_SUCCEEDED", "BATCH_STATE_RUNNING", None])
def test_an_error_beats_the_state_beside_it(stale: str | None) -> None:
    """A job that ended with an error has failed, whatever its metadata still says; the reason is kept."""
    view = job_view(operation(stale, done=True, error={"code": 13, "message": "it broke"}), "x")
    assert view.state is JobState.FAILED
    assert view.error is not None
    assert "it broke" in str(view.error)


def test_a_full_queue_is_told_from_other_failures() -> None:
    """RESOURCE_EXHAUSTED of a job is the queue: it can be submitted again later."""
    view = job_view(operation(None, done=True, error={"code": 8, "message": "no room"}), "x")
    assert view.error is not None
    assert view.error.kind is ErrorKind.ENQUEUED_FULL


@pytest.mark.parametrize(
    ("state", "code", "expected"),
    [
        ("BATCH_STATE_CANCELLED", 1, "cancelled"),
        ("BATCH_STATE_RUNNING", 1, "cancelled"),
        ("BATCH_STATE_EXPIRED", 4, "expired"),
    ],
)
def test_cancelled_and_expired_jobs_may_carry_an_error(state: str, code: int, expected: str) -> None:
    """They did not fail."""
    assert job_view(operation(state, done=True, error={"code": code, "message": "m"}), "x").state == expected


def test_done_beats_a_state_that_lags_behind() -> None:
    """`done: true` without an error is an end, though the metadata still says RUNNING."""
    done = operation("BATCH_STATE_RUNNING", done=True, response={"responsesFile": "files/out"})
    assert job_view(done, "x").state is JobState.SUCCEEDED


def test_a_state_at_the_top_is_seen() -> None:
    """Some answers have no metadata."""
    assert job_view({"state": "BATCH_STATE_EXPIRED", "done": True}, "x").state is JobState.EXPIRED


@pytest.mark.parametrize(
    "place",
    [
        {"response": {"responsesFile": "files/out"}},
        {"response": {"output": {"responsesFile": "files/out"}}},
        {"metadata": {"output": {"responsesFile": "files/out"}}},
        {"output": {"responsesFile": "files/out"}},
    ],
)
def test_results_in_a_file(place: dict[str, Any]) -> None:
    """The file's name is found wherever it stands."""
    assert outputs({"done": True, **place}).file == "files/out"


@pytest.mark.parametrize("name", ["inlinedResponses", "inlinedEmbedContentResponses"])
def test_results_inside_the_operation(name: str) -> None:
    """Also when every row failed, whatever the list is called."""
    row = {"metadata": {"key": "k"}, "error": {"code": 3, "message": "bad", "details": [{"a": 1}]}}
    found = outputs({"response": {name: {"inlinedResponses": [row]}}})
    assert found.file is None
    read = result_row(FACTS, WORK, found.inlined[0])
    assert read.key == "k"
    assert isinstance(read.result, ProviderError)


@pytest.mark.parametrize("place", [{}, {"response": {}}, {"metadata": {"output": {}}}, {"response": "odd"}])
def test_a_good_job_without_results(place: dict[str, Any]) -> None:
    """SUCCEEDED with no output at all: no rows, no crash."""
    assert outputs({"done": True, **place}) == (None, ())


def test_what_finds_a_job_again() -> None:
    """Its tag, its input file and its time."""
    op = operation("BATCH_STATE_RUNNING")
    assert (display_name(op), input_file(op), created(op)) == ("tag-1", "files/in", "2026-11-21T10:00:00Z")
    assert (display_name({}), input_file({}), created({})) == (None, None, "")


def test_lines_have_a_key_and_all_that_was_asked() -> None:
    """One line for each text; results are joined by its key, since order gets lost."""
    assert input_line(FACTS, WORK, "k1", "text") == {
        "key": "k1",
        "request": {
            "model": "models/gemini-embedding-001",
            "content": {"parts": [{"text": "p: text"}]},
            "taskType": "RETRIEVAL_DOCUMENT",
            "title": "T",
            "outputDimensionality": 128,
        },
    }
    bare = input_line(FACTS, EmbedWork(model="models/gemini-embedding-001"), "k", "t")["request"]
    assert bare == {"model": "models/gemini-embedding-001", "content": {"parts": [{"text": "t"}]}}


def test_lines_that_generate() -> None:
    """System text and settings go where the API wants them, and only if given."""
    work = GenerateWork(model="gemini-2.5-flash", system="be brief", temperature=0.0, max_output_tokens=9)
    assert input_line(FLASH, work, "k", "hi")["request"] == {
        "contents": [{"role": "user", "parts": [{"text": "hi"}]}],
        "systemInstruction": {"parts": [{"text": "be brief"}]},
        "generationConfig": {"temperature": 0.0, "maxOutputTokens": 9},
    }
    assert set(input_line(FLASH, GenerateWork(model="m"), "k", "hi")["request"]) == {"contents"}


def test_a_good_row() -> None:
    """The token count comes as a string; the vector is cut and normalised."""
    line = {"key": "k", "response": {"embedding": {"values": [3.0, 4.0] + [0.0] * 126}, "tokenCount": "4"}}
    row = result_row(FACTS, WORK, line)
    assert (row.key, row.tokens) == ("k", 4)
    assert isinstance(row.result, np.ndarray)
    assert row.result[:2] == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ({"key": "k", "error": {"code": 3, "message": "m", "details": [{"@type": "x"}]}}, "bad_input"),
        ({"key": "k", "response": {"error": {"code": 14, "message": "overloaded"}}}, "overloaded"),
        ({"key": "k", "error": {"code": 503, "status": "UNAVAILABLE", "message": "m"}}, "overloaded"),
        ({"key": "k", "response": {}}, "protocol"),
        ({"key": "k"}, "protocol"),
        ({"key": "k", "response": {"embedding": {}}}, "protocol"),
        ({"key": "k", "response": {"embedding": {"values": [1.0, 2.0]}}}, "protocol"),
    ],
)
def test_bad_rows(line: dict[str, Any], kind: str) -> None:
    """An error beside or inside `response`, and a row with nothing in it, are errors of that row."""
    row = result_row(FACTS, WORK, line)
    assert row.key == "k"
    assert isinstance(row.result, ProviderError)
    assert row.result.kind == kind


@pytest.mark.parametrize("key", [None, 5, "", {}])
def test_rows_without_a_key(key: object) -> None:
    """A key that is none is None: the row cannot be joined."""
    assert result_row(FACTS, WORK, {"key": key, "error": {"code": 3, "message": "m"}}).key is None


def generated(text: str | None, **others: Any) -> dict[str, Any]:
    parts = [{"text": "thinking…", "thought": True}] + ([] if text is None else [{"text": text}])
    return {
        "candidates": [{"content": {"parts": parts, "role": "model"}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 5, "thoughtsTokenCount": 7},
        **others,
    }


def test_a_generated_row() -> None:
    """Thoughts are no part of the answer, but are billed."""
    row = result_row(FLASH, None, {"key": "k", "response": generated("hello")})
    assert row.result == Generated("hello", 3, 12, "STOP")
    assert row.tokens == 3


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        ({"promptFeedback": {"blockReason": "SAFETY"}}, "bad_input"),
        ({"candidates": [{"finishReason": "PROHIBITED_CONTENT"}]}, "bad_input"),
        ({"candidates": []}, "protocol"),
        ({}, "protocol"),
    ],
)
def test_blocked_and_missing_answers(response: dict[str, Any], kind: str) -> None:
    """A blocked prompt is the text's fault; an answer without a candidate is not."""
    result = answer(FLASH, response)
    assert isinstance(result, ProviderError)
    assert result.kind == kind


def test_an_answer_cut_by_its_limit_is_an_answer() -> None:
    """All tokens went into thoughts: an empty text with the reason."""
    response = {"candidates": [{"finishReason": "MAX_TOKENS"}], "usageMetadata": {"thoughtsTokenCount": 9}}
    assert answer(FLASH, response) == Generated("", None, 9, "MAX_TOKENS")


def test_lines_are_json() -> None:
    """What is written can be read."""
    line = input_line(FACTS, WORK, "k", "ü\u2028\n")
    assert json.loads(json.dumps(line)) == line
