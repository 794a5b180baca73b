"""OpenAI's own JavaScript client, unchanged, gets the same from the server as the Python one."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.contract.server.node import MARKS, found_by

from embatch.frontends.server.settings import ApiKey

if TYPE_CHECKING:
    from tests.contract.server.conftest import Serving

pytestmark = MARKS

KEY = "sk-0123456789abcdef"
TEXTS = ["the cat sat on the mat", "Zürich, 東京 and 🦊"]


@pytest.fixture(scope="module")
def found(serving: Serving) -> Any:
    """What the client saw, all of it in one run of node."""
    with serving(keys=(ApiKey(name="team", secret=KEY),)) as server:
        return found_by("openai_client.mjs", server, KEY)


@pytest.fixture(scope="module")
def expected() -> Any:
    from embatch import Embedder

    with Embedder("hashing", profiles=False) as embedder:
        return embedder.embed(TEXTS).vectors


def vectors_of(answer: Any) -> Any:
    return np.array([each["embedding"] for each in answer["data"]], np.float32)


def test_texts_get_the_vectors_that_the_library_gives(found: Any, expected: Any) -> None:
    """In the client's own base64, as numbers, and as base64 that is handed through."""
    np.testing.assert_array_equal(vectors_of(found["one"]), expected[:1])
    np.testing.assert_array_equal(vectors_of(found["many"]), expected)
    raw = base64.b64decode(found["base64"]["data"][0]["embedding"])
    np.testing.assert_array_equal(np.frombuffer(raw, "<f4"), expected[0])
    assert found["many"]["usage"]["prompt_tokens"] > 2
    assert vectors_of(found["short"]).shape == (1, 16)


@pytest.mark.parametrize(
    ("what", "kind", "status", "param"),
    [
        ("empty", "BadRequestError", 400, "input[1]"),
        ("tooMany", "BadRequestError", 400, "dimensions"),
        ("unknown", "NotFoundError", 404, None),
        ("stranger", "AuthenticationError", 401, None),
    ],
)
def test_mistakes_are_the_errors_that_the_client_knows(
    found: Any, what: str, kind: str, status: int, param: str | None
) -> None:
    """Class, status and field are those of OpenAI, and the request has its id."""
    error = found[what]
    assert (error["kind"], error["status"], error["param"]) == (kind, status, param)
    assert error["requestId"]


def test_models_are_listed_and_found(found: Any) -> None:
    """By the served name and by what stands behind it."""
    assert [each["id"] for each in found["models"]] == ["words"]
    assert found["model"]["id"] == "words"
