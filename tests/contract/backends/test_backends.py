"""What every backend promises, whatever runs under it."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embatch.errors import BackendClosedError, BadTokensError
from embatch.types import Backend, ModelSpec, TakesTokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.types import FloatArray

TEXTS = [
    "a",
    "flow",
    "the boundary layer over a flat plate",
    "Retry failed requests, when servers answer slowly; but stop after three attempts!",
    "Über den Wolken muß die Freiheit wohl grenzenlos sein",
    "東京は日本の首都です。",
    "def mean(values):\n    return sum(values) / len(values)",
    "!!!",
    "🙂 and [SEP] inside",
    "search the vectors of a model " * 40,
]
SAME = 0.9999
"""Cosine of a text's vectors in two batches at least."""

# Backends are shared between a test's examples on purpose: they keep no state from call to call.
examples = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
some_text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=80)


def embed(backend: Backend, texts: Sequence[str], prompt: str = "") -> FloatArray:
    return backend.embed(backend.tokenize(texts, prompt=prompt).payloads)


def least_cosine(one: FloatArray, other: FloatArray) -> float:
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float((np.einsum("ij,ij->i", one, other) / norms).min())


def test_is_a_backend(backend: Backend) -> None:
    """Each has the members of the protocol, and says what it is in the words of a fresh model."""
    assert isinstance(backend, Backend)
    assert isinstance(backend.spec, ModelSpec)
    assert backend.spec.prompt == ""
    assert backend.streams >= 1
    assert backend.device
    assert 0 <= backend.memory_used() <= 1
    smallest, largest = backend.limits.budgets
    assert 0 < smallest <= backend.limits.first_budget <= largest


def test_shape_and_type(backend: Backend) -> None:
    """Vectors are `(n, dim)` float32, finite, and own their memory."""
    vectors = embed(backend, TEXTS)
    assert vectors.shape == (len(TEXTS), backend.spec.dimensions)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    kept = vectors.copy()
    embed(backend, ["something else", "entirely"])
    assert np.array_equal(vectors, kept)


def test_no_texts(backend: Backend) -> None:
    """No texts give no rows, and the right number of columns."""
    made = backend.tokenize([])
    assert (len(made.payloads), made.lengths.shape, made.truncated.shape) == (0, (0,), (0,))
    vectors = backend.embed([])
    assert vectors.shape == (0, backend.spec.dimensions)
    assert vectors.dtype == np.float32


def test_order(backend: Backend) -> None:
    """Row i belongs to text i, however the texts are ordered."""
    vectors = embed(backend, TEXTS)
    turned = embed(backend, TEXTS[::-1])[::-1]
    assert least_cosine(vectors, turned) >= SAME
    cosines = (vectors @ turned.T) / np.outer(np.linalg.norm(vectors, axis=1), np.linalg.norm(turned, axis=1))
    assert (cosines.argmax(axis=1) == np.arange(len(TEXTS))).all()


def test_one_text(backend: Backend) -> None:
    """A text alone gets the vector that it gets among others."""
    vectors = embed(backend, TEXTS)
    alone = np.concatenate([embed(backend, [text]) for text in TEXTS])
    assert least_cosine(vectors, alone) >= SAME


def test_unit_norm(backend: Backend) -> None:
    """Vectors have length one where the spec says so."""
    norms = np.linalg.norm(embed(backend, TEXTS), axis=1)
    if backend.spec.normalize:
        assert np.allclose(norms, 1, atol=1e-3)
    assert (norms > 0).all()


def test_repeated_calls(backend: Backend) -> None:
    """The same batch gives the same vectors again."""
    payloads = backend.tokenize(TEXTS).payloads
    assert np.array_equal(backend.embed(payloads), backend.embed(payloads))


@examples
@given(texts=st.lists(some_text, min_size=1, max_size=8), cuts=st.lists(st.integers(0, 8), max_size=3))
def test_any_composition_of_batches(backend: Backend, texts: list[str], cuts: list[int]) -> None:
    """However texts are put into batches, each gets the same vector within tolerance."""
    payloads = list(backend.tokenize(texts).payloads)
    borders = sorted({0, len(payloads), *(cut for cut in cuts if cut < len(payloads))})
    parts = [backend.embed(payloads[a:b]) for a, b in itertools.pairwise(borders)]
    assert least_cosine(backend.embed(payloads), np.concatenate(parts)) >= SAME


def test_payloads_of_several_calls_mix(backend: Backend) -> None:
    """Payloads made at different times, with and without prompt, go into one batch."""
    plain, prompted = backend.tokenize(TEXTS[:4]), backend.tokenize(TEXTS[:4], prompt="query: ")
    mixed = [payload for pair in zip(plain.payloads, prompted.payloads, strict=True) for payload in pair]
    vectors = backend.embed(mixed)
    assert least_cosine(vectors[::2], embed(backend, TEXTS[:4])) >= SAME
    assert least_cosine(vectors[1::2], embed(backend, TEXTS[:4], "query: ")) >= SAME


def test_two_threads(backend: Backend) -> None:
    """Two threads tokenising and embedding at once get what one gets."""
    expected = embed(backend, TEXTS)
    start = threading.Barrier(2)

    def work(_: int) -> FloatArray:
        start.wait()
        return np.stack([embed(backend, TEXTS) for _ in range(5)])

    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(work, range(2)):
            for vectors in found:
                assert least_cosine(expected, vectors) >= SAME


def test_more_threads_than_streams(backend: Backend) -> None:
    """Further calls wait for a stream and then succeed."""
    payloads = backend.tokenize(TEXTS).payloads
    with ThreadPoolExecutor(backend.streams + 3) as pool:
        found = list(pool.map(backend.embed, [payloads] * (2 * backend.streams + 6)))
    assert all(least_cosine(found[0], vectors) >= SAME for vectors in found)


def test_prompt_changes_the_vector(backend: Backend) -> None:
    """A prompt is put before the text verbatim: the same as the text written with it, and not as without."""
    prompted = embed(backend, TEXTS[:6], "query: ")
    assert least_cosine(prompted, embed(backend, [f"query: {text}" for text in TEXTS[:6]])) >= SAME
    apart = np.abs(prompted - embed(backend, TEXTS[:6])).max(axis=1)
    assert (apart > 1e-3).all()


def test_lengths(backend: Backend) -> None:
    """Lengths count what is computed: positive, more with a prompt, never above the limit, and repeatable."""
    made, again = backend.tokenize(TEXTS), backend.tokenize(TEXTS)
    prompted = backend.tokenize(TEXTS, prompt="query: of the search ")
    assert len(made.payloads) == len(TEXTS)
    assert made.lengths.dtype == np.int32
    assert made.truncated.dtype == np.bool_
    assert np.array_equal(made.lengths, again.lengths)
    assert (made.lengths > 0).all()
    assert (made.lengths <= backend.spec.max_tokens).all()
    assert (prompted.lengths >= made.lengths).all()
    assert (prompted.lengths[:2] > made.lengths[:2]).all()
    assert (made.lengths[made.truncated] == backend.spec.max_tokens).all()


def test_length_does_not_depend_on_the_others(backend: Backend) -> None:
    """A text's tokens are its own, whatever is tokenised beside it."""
    together = backend.tokenize(TEXTS).lengths
    assert together.tolist() == [int(backend.tokenize([text]).lengths[0]) for text in TEXTS]


def test_longest_text(backend: Backend) -> None:
    """A text far beyond the limit is cut there, said to be, and embedded; its end does not matter then."""
    long = "the boundary layer of a flat plate " * 2_000
    made = backend.tokenize([long, long + "and something else"])
    vectors = backend.embed(made.payloads)
    assert np.isfinite(vectors).all()
    if made.truncated.any():
        assert made.truncated.all()
        assert (made.lengths == backend.spec.max_tokens).all()
        assert least_cosine(vectors[:1], vectors[1:]) >= SAME


@examples
@given(
    text=st.lists(some_text, min_size=1, max_size=30).map(" ".join), prompt=st.sampled_from(["", "query: "])
)
def test_split(backend: Backend, text: str, prompt: str) -> None:
    """The pieces of a text join to the text, and each is within the limit with its prompt."""
    pieces = backend.split(text, prompt=prompt)
    assert "".join(pieces) == text
    assert all(pieces)
    assert not backend.tokenize(pieces, prompt=prompt).truncated.any()


def test_split_of_a_long_text(backend: Backend) -> None:
    """A long text is split into few pieces, not into crumbs."""
    text = "search the vectors of a model " * 200
    pieces = backend.split(text)
    assert "".join(pieces) == text
    tokens = int(backend.tokenize(pieces).lengths.sum())
    assert len(pieces) <= tokens // (backend.spec.max_tokens // 2) + 1


def test_short_text_is_one_piece(backend: Backend) -> None:
    """What is within the limit is not split."""
    assert backend.split("a short text") == ["a short text"]


def test_close(own_backend: Backend) -> None:
    """A closed backend raises and says so; closing twice is allowed."""
    payloads = own_backend.tokenize(["a text"]).payloads
    own_backend.embed(payloads)
    own_backend.close()
    own_backend.close()
    with pytest.raises(BackendClosedError):
        own_backend.embed(payloads)


def test_two_of_a_kind(kind: str, backend: Backend, own_backend: Backend) -> None:
    """Two backends of one model have equal specs and vectors, and closing one leaves the other open."""
    assert own_backend.spec == backend.spec
    assert least_cosine(embed(own_backend, TEXTS), embed(backend, TEXTS)) >= SAME
    own_backend.close()
    assert embed(backend, TEXTS[:1]).shape[0] == 1, kind


def test_token_ids(kind: str, backend: Backend) -> None:
    """Ids of a backend's own tokeniser stand for the text, with or without special tokens; others are refused."""
    if not isinstance(backend, TakesTokens):
        assert kind in {"fake", "hashing"}
        return
    tokenized = backend.tokenize(["a short text", "another one " * 400])
    ids = [[int(token) for token in np.asarray(payload)] for payload in tokenized.payloads]
    bare = [row[1:-1] for row in ids]
    for rows in (ids, bare):
        taken = backend.take_tokens(rows)
        assert taken.lengths.tolist() == tokenized.lengths.tolist()
        assert np.array_equal(backend.embed(taken.payloads), backend.embed(tokenized.payloads))
    assert backend.take_tokens([bare[1] * 2]).truncated.tolist() == [True]
    for bad in ([], [-1], [10**9]):
        with pytest.raises(BadTokensError):
            backend.take_tokens([bad])
