"""Tasks, dimensions, specs, estimates, and vectors made whole."""

from __future__ import annotations

import base64
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embatch.errors import ProviderError, UsageError
from embatch.providers.facts import facts_for
from embatch.providers.work import (
    as_vector,
    check_work,
    estimate_tokens,
    finish,
    resolve_task,
    sent_dimensions,
    work_spec,
)
from embatch.remote import EmbedWork, ErrorKind, GenerateWork

GEMINI = facts_for("gemini:gemini-embedding-001")
GEMINI_2 = facts_for("gemini:gemini-embedding-2")
OPENAI = facts_for("openai:text-embedding-3-small")
ADA = facts_for("openai:text-embedding-ada-002")
COMPATIBLE = facts_for("compatible:bge-m3")


@pytest.mark.parametrize(
    ("facts", "task", "expected"),
    [
        (GEMINI, None, (None, "")),
        (GEMINI, "document", ("RETRIEVAL_DOCUMENT", "")),
        (GEMINI, "query", ("RETRIEVAL_QUERY", "")),
        (GEMINI, "clustering", ("CLUSTERING", "")),
        (GEMINI, "RETRIEVAL_QUERY", ("RETRIEVAL_QUERY", "")),
        (GEMINI_2, "document", (None, "title: none | text: ")),
        (GEMINI_2, "query", (None, "task: search result | query: ")),
        (GEMINI_2, "RETRIEVAL_QUERY", (None, "task: search result | query: ")),
        (OPENAI, "document", (None, "")),
        (OPENAI, "query", (None, "")),
    ],
)
def test_tasks_become_the_providers_words(facts: object, task: str | None, expected: object) -> None:
    """A task is an argument for one model, a text before the item for another, and nothing for a third."""
    assert resolve_task(facts, task) == expected  # type: ignore[arg-type]  # all are facts


@pytest.mark.parametrize(("facts", "known"), [(GEMINI, "FACT_VERIFICATION"), (OPENAI, "document")])
def test_unknown_tasks_are_refused_with_the_known_ones(facts: object, known: str) -> None:
    """A task that a model does not have is a usage error that lists what it has."""
    with pytest.raises(UsageError) as error:
        resolve_task(facts, "poetry")  # type: ignore[arg-type]  # all are facts
    assert known in error.value.hint


@pytest.mark.parametrize(
    ("facts", "work"),
    [
        (GEMINI, EmbedWork(model="m", dimensions=127)),
        (GEMINI, EmbedWork(model="m", dimensions=3073)),
        (GEMINI, EmbedWork(model="m", dimensions=0)),
        (GEMINI, EmbedWork(model="m", task="POETRY")),
        (GEMINI, EmbedWork(model="m", task="CLUSTERING", title="t")),
        (ADA, EmbedWork(model="m", dimensions=512)),
        (OPENAI, EmbedWork(model="m", task="RETRIEVAL_QUERY")),
        (COMPATIBLE, EmbedWork(model="m", dimensions=-1)),
    ],
)
def test_what_a_model_cannot_do_is_refused_before_sending(facts: object, work: EmbedWork) -> None:
    """Dimensions outside the model's range, tasks and titles that it does not take."""
    with pytest.raises(UsageError):
        check_work(facts, work)  # type: ignore[arg-type]  # all are facts


def test_what_a_model_can_do_passes() -> None:
    """Limits are included, a model's own size too, and any size where nothing is known."""
    for dimensions in (None, 128, 768, 3072):
        check_work(GEMINI, EmbedWork(model="m", dimensions=dimensions, task="RETRIEVAL_DOCUMENT", title="t"))
    check_work(ADA, EmbedWork(model="m", dimensions=1536))
    check_work(COMPATIBLE, EmbedWork(model="m", dimensions=5))
    check_work(OPENAI, GenerateWork(model="m"))


def test_dimensions_are_sent_only_to_models_that_take_them() -> None:
    """A model of one size refuses the argument, even with the right value."""
    assert sent_dimensions(ADA, EmbedWork(model="m", dimensions=1536)) is None
    assert sent_dimensions(GEMINI, EmbedWork(model="m", dimensions=768)) == 768
    assert sent_dimensions(COMPATIBLE, EmbedWork(model="m", dimensions=5)) == 5


def test_everything_that_changes_a_vector_is_in_the_fingerprint() -> None:
    """Dimensions, task, title and prompt each make another fingerprint."""
    work = EmbedWork(model="gemini-embedding-001", dimensions=768, task="RETRIEVAL_DOCUMENT")
    changed = [
        work,
        replace(work, dimensions=1536),
        replace(work, task="RETRIEVAL_QUERY"),
        replace(work, task=None),
        replace(work, title="Title"),
        replace(work, prompt="x: "),
    ]
    specs = [work_spec(GEMINI, each) for each in changed]
    assert len({spec.fingerprint for spec in specs}) == len(changed)
    assert specs[0].model == "gemini:gemini-embedding-001"
    assert (specs[0].dimensions, specs[0].max_tokens, specs[0].normalize) == (768, 2048, True)
    assert (
        specs[0].fingerprint
        == work_spec(facts_for("gemini:gemini-embedding-001", tier="3"), work).fingerprint
    )


def test_a_spec_needs_the_dimensions() -> None:
    """Where they are not known yet, they must be given."""
    with pytest.raises(UsageError, match="not known"):
        work_spec(COMPATIBLE, EmbedWork(model="bge-m3"))
    assert work_spec(COMPATIBLE, EmbedWork(model="bge-m3", dimensions=8)).normalize is False


@given(st.text())
def test_estimates_are_at_least_one_and_grow_with_the_text(text: str) -> None:
    """No text has no tokens, and a longer text never has fewer."""
    estimate = estimate_tokens(OPENAI, text)
    assert estimate >= 1
    assert estimate_tokens(OPENAI, text + "abcd") >= estimate
    assert estimate_tokens(OPENAI, text + "漢") >= estimate


def test_other_scripts_count_more() -> None:
    """Four ASCII characters are a token; of others, one and a half."""
    assert estimate_tokens(OPENAI, "a" * 400) == 100
    assert estimate_tokens(OPENAI, "漢" * 300) == 200


def test_a_cut_vector_is_normalised_once() -> None:
    """gemini-embedding-001 cuts without normalising: what is handed out has length 1 and the same direction."""
    raw = [0.3, -0.4] + [0.0] * 766
    vector = finish(GEMINI, EmbedWork(model="m", dimensions=768), raw)
    assert isinstance(vector, np.ndarray)
    assert vector.dtype == np.float32
    assert vector[:2] == pytest.approx([0.6, -0.8])


def test_a_vector_that_comes_normalised_is_left_alone() -> None:
    """Bit by bit: rounding is not corrected."""
    raw = np.zeros(1536, np.float32)
    raw[:2] = [0.60001, 0.8]
    vector = finish(OPENAI, EmbedWork(model="m"), base64.b64encode(raw.tobytes()).decode())
    assert isinstance(vector, np.ndarray)
    assert np.array_equal(vector, raw)


def test_vectors_of_unknown_models_are_not_touched() -> None:
    """Nothing is known of their length."""
    vector = finish(COMPATIBLE, EmbedWork(model="m"), [3.0, 4.0])
    assert isinstance(vector, np.ndarray)
    assert vector.tolist() == [3.0, 4.0]


@pytest.mark.parametrize(
    "raw",
    [
        None,
        [],
        "",
        "no base64!",
        "AAA=",
        [0.1, 0.2],
        [[0.1] * 1536],
        ["a"] * 1536,
        [None] * 1536,
        [float("nan")] * 1536,
        [1e39] * 1536,
        [0.0] * 1536,
        {"values": 1},
    ],
)
def test_what_is_no_vector_stands_as_an_error_in_its_place(raw: object) -> None:
    """Wrong size, NaN, beyond float32, length zero, not numbers: PROTOCOL, never a broken vector."""
    error = finish(OPENAI, EmbedWork(model="m"), raw)
    assert isinstance(error, ProviderError)
    assert error.kind is ErrorKind.PROTOCOL


def test_without_the_work_any_size_up_to_the_models_own_will_do() -> None:
    """A job of an interrupted run: its dimensions are not known any more, but never more than the model has."""
    assert isinstance(finish(OPENAI, None, [1.0] * 512), np.ndarray)
    assert isinstance(finish(OPENAI, None, [1.0] * 1537), ProviderError)
    assert isinstance(finish(ADA, None, [1.0] * 512), ProviderError)


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20))
def test_base64_and_numbers_say_the_same(values: list[float]) -> None:
    """Both ways of sending a vector give the same float32 numbers."""
    array = np.asarray(values, "<f4")
    coded = as_vector(base64.b64encode(array.tobytes()).decode())
    plain = as_vector([float(value) for value in array])
    assert coded is not None
    assert plain is not None
    assert np.array_equal(coded, plain)
