"""Services' answers are read with suspicion: each vector reaches its own text, or nothing does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embatch.errors import ProviderError
from embatch.frontends.processor.answers import read_answer
from embatch.remote import ErrorKind


def numbers(results: object) -> list[Any]:
    """Vectors as lists, errors as None."""
    assert isinstance(results, list)
    return [None if isinstance(one, ProviderError) else one.tolist() for one in results]


@pytest.mark.parametrize(
    "raw",
    [
        SimpleNamespace(embeddings=[[1.0, 2.0], [3.0, 4.0]]),
        SimpleNamespace(embeddings=np.array([[1, 2], [3, 4]], np.float64)),
        {"embeddings": ((1, 2), (3, 4))},
        {"data": [{"embedding": [1, 2]}, {"embedding": [3, 4]}]},
        [[1, 2], [3, 4]],
    ],
)
def test_shapes_of_answers(raw: object) -> None:
    """Objects, mappings, arrays and bare lists are understood alike, as float32."""
    results = read_answer(raw, 2).results
    assert numbers(results) == [[1.0, 2.0], [3.0, 4.0]]
    assert all(not isinstance(one, ProviderError) and one.dtype == np.float32 for one in results)


@given(st.permutations(range(6)))
def test_indices_decide(order: list[int]) -> None:
    """Where vectors have an index, they are put in its order, in whatever order they came."""
    data = [SimpleNamespace(index=i, embedding=[float(i), 1.0]) for i in order]
    assert numbers(read_answer(SimpleNamespace(data=data), 6).results) == [[float(i), 1.0] for i in range(6)]


@pytest.mark.parametrize("indices", [[0, 0], [0, 2], [0, None], [-1, 0], ["0", "1"], [False, True]], ids=str)
def test_indices_that_make_no_sense(indices: list[object]) -> None:
    """Doubled, missing or foreign indices condemn the whole answer: no vector can be told apart."""
    data = [{"index": i, "embedding": [1.0]} for i in indices]
    with pytest.raises(ProviderError) as caught:
        read_answer({"embeddings": data}, 2)
    assert caught.value.kind is ErrorKind.PROTOCOL


@pytest.mark.parametrize(
    "raw",
    [
        *(None, 5, "text", {}, SimpleNamespace(embeddings=None), {"embeddings": 3}, {"embeddings": {"a": 1}}),
        *({"embeddings": [[1.0]]}, {"embeddings": [[1.0]] * 3}),
    ],
    ids=str,
)
def test_answers_without_vectors(raw: object) -> None:
    """An answer without as many vectors as texts is refused as a whole, by name."""
    with pytest.raises(ProviderError, match="the service answered"):
        read_answer(raw, 2)


@pytest.mark.parametrize("bad", [None, "abc", [], [[1.0]], ["a"], {"embedding": None}, [1, [2]]], ids=str)
def test_one_bad_vector_costs_only_its_text(bad: object) -> None:
    """What is no vector is an error in its own place; the others stay."""
    assert numbers(read_answer([[1.0], bad], 2).results) == [[1.0], None]


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 3, "total_tokens": 7}, 7),
        (SimpleNamespace(prompt_tokens=3), 3),
        (9, 9),
        (None, None),
        ({"total_tokens": None}, None),
        ({"total_tokens": -1}, None),
        ({"total_tokens": float("nan"), "prompt_tokens": 2}, 2),
        ({"total_tokens": True}, None),
        ("many", None),
    ],
    ids=str,
)
def test_usage(usage: object, tokens: int | None) -> None:
    """Tokens are what the service counted, if it is a count at all."""
    answer = read_answer({"embeddings": [[1.0]], "usage": usage, "model": "m"}, 1)
    assert (answer.tokens, answer.model) == (tokens, "m")
