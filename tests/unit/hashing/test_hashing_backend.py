"""The hashing backend: the same bits everywhere, near for similar texts, far for others, never a zero vector."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embatch.backends.hashing import SLICE_CHARACTERS, HashingBackend
from embatch.errors import UsageError

GOLDEN = {
    "Where do we retry?": (-0.18366419, "4029fd3bdb4046c5"),
    "Straße, ÉCOLE und Ωmega 42": (0.14275227, "5ee5fe1d01b09a73"),
    "東京は日本の首都です": (0.05631502, "8db80f88ecd5121f"),
    "!!!": (-0.47649136, "c9bee2c81d274b01"),
}
"""Per text: the first number that is not zero, and the start of the SHA-256 of the vector's bytes."""


def embed(*texts: str, dimensions: int = 384, prompt: str = "") -> np.ndarray:
    backend = HashingBackend(dimensions)
    return backend.embed(backend.tokenize(texts, prompt=prompt).payloads)


def digest(vector: np.ndarray) -> str:
    return hashlib.sha256(vector.astype("<f4").tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("text", GOLDEN)
def test_golden_vectors(text: str) -> None:
    """A vector is the same bits in every version that carries revision 1."""
    vector = embed(text)[0]
    first, expected = GOLDEN[text]
    assert vector[np.flatnonzero(vector)[0]] == pytest.approx(first, abs=1e-7)
    assert digest(vector) == expected


def test_vectors_do_not_depend_on_the_process() -> None:
    """Another process with another hash seed computes the same bits."""
    text = "Where do we retry?"
    program = (
        "import sys, hashlib; from embatch.backends.hashing import HashingBackend;"
        "v = HashingBackend().embed([sys.argv[1]])[0];"
        "print(hashlib.sha256(v.astype('<f4').tobytes()).hexdigest()[:16])"
    )
    for seed in ("0", "1"):
        found = subprocess.run(
            [sys.executable, "-c", program, text],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout.strip() == GOLDEN[text][1]


@pytest.mark.parametrize(
    ("text", "near", "far"),
    [
        ("fix the login bug", "repair a bug in the login page", "bake a chocolate cake for the party"),
        ("Add retry to the HTTP client", "retries for http clients", "move the button to the left"),
        ("東京は日本の首都です", "日本の首都は東京", "今夜は雨が降る"),
        ("функция повторяет запрос", "функции повторяют запросы", "кот спит на окне"),
    ],
)
def test_similar_texts_are_near_and_others_are_not(text: str, near: str, far: str) -> None:
    """Shared words and stems give a clear cosine, nothing shared gives one about zero."""
    vectors = embed(text, near, far)
    assert vectors[0] @ vectors[1] > 0.25
    assert abs(vectors[0] @ vectors[2]) < 0.15


def test_case_and_compatibility_forms_do_not_matter() -> None:
    """Upper case, composed accents and full-width letters are the same words."""
    vectors = embed("École ﬁxed", "E\u0301COLE FIXED", "ＥＣＯＬＥ fixed")
    assert np.array_equal(vectors[0], vectors[1])
    assert not np.array_equal(vectors[0], vectors[2])


def test_word_order_matters_a_little() -> None:
    """Word pairs tell apart what bags of words do not."""
    vectors = embed("the dog bites the postman", "the postman bites the dog")
    assert 0.8 < vectors[0] @ vectors[1] < 0.9999


@pytest.mark.parametrize("text", ["!!!", "→", "🎉🎉", "\u0301", " ", "\0", "…?!", "\ud800"])
def test_texts_without_words_have_a_unit_vector(text: str) -> None:
    """Signs, emoji, lone marks and even white space get a vector of length one."""
    assert np.linalg.norm(embed(text)) == pytest.approx(1, abs=1e-6)


def test_texts_without_words_differ_by_their_signs() -> None:
    """The visible characters decide where there is no word."""
    vectors = embed("!!!", "!!!!", "???")
    assert vectors[0] @ vectors[1] > 0.2
    assert abs(vectors[0] @ vectors[2]) < 0.2


def test_prompt_is_part_of_the_text() -> None:
    """A prompt put before a text is the same as the text written with it."""
    assert np.array_equal(embed("a text", prompt="query: "), embed("query: a text"))
    assert not np.array_equal(embed("a text"), embed("query: a text"))


def test_a_long_text_is_summed_over_slices() -> None:
    """A text of many slices has a unit vector near to that of its repeated part."""
    part = "lorem ipsum dolor sit amet "
    vectors = embed(part, part * (3 * SLICE_CHARACTERS // len(part)), "x" * (2 * SLICE_CHARACTERS + 1))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert vectors[0] @ vectors[1] > 0.9


def test_lengths_follow_the_characters() -> None:
    """A length is what hashing costs: a quarter of the characters, prompt included."""
    made = HashingBackend().tokenize(["", "abcd", "a" * 400], prompt="q: ")
    assert made.lengths.tolist() == [1, 2, 101]
    assert not made.truncated.any()


@given(st.lists(st.text(min_size=1, max_size=60), max_size=12), st.integers(0, 12))
def test_the_batch_does_not_matter(texts: list[str], cut: int) -> None:
    """The same text gives the same bits in whatever batch it comes."""
    whole = embed(*texts)
    assert whole.shape == (len(texts), 384)
    assert np.array_equal(whole, np.concatenate([embed(*texts[:cut]), embed(*texts[cut:])]))


@pytest.mark.parametrize("dimensions", [16, 384, 1000, 65_536])
def test_any_number_of_dimensions(dimensions: int) -> None:
    """Dimensions need not be a power of two, and are part of the model's name."""
    assert embed("a text", dimensions=dimensions).shape == (1, dimensions)
    assert HashingBackend(dimensions).spec.model == f"hashing-{dimensions}"


@pytest.mark.parametrize("dimensions", [0, -1, 15, 65_537])
def test_dimensions_out_of_range(dimensions: int) -> None:
    """Too few or too many dimensions are refused with the range."""
    with pytest.raises(UsageError, match="16 to 65536"):
        HashingBackend(dimensions)
