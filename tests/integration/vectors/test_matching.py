"""Texts and queries become the words that full-text search compares."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.contract.chunk_stores.making import chunk

from embatch.storage.vectors.matching import LONGEST, document_words, query_words, stem

NAMES = st.lists(st.from_regex(r"[a-z]{4,8}", fullmatch=True), min_size=2, max_size=4)


@pytest.mark.parametrize(
    "words",
    [
        "retry retries retried retrying",
        "cache caches cached caching",
        "match matches matched matching",
        "chunk chunks chunked chunking",
        "process processes processed processing",
        "query queries",
        "index indexes",
        "file files",
        "embed embeds embedding embeddings",
        "stop stops stopped stopping",
    ],
)
def test_forms_of_a_word_are_one(words: str) -> None:
    """Number and tense make no difference."""
    assert len({stem(word) for word in words.split()}) == 1


@pytest.mark.parametrize(
    "word", ["string", "class", "status", "axis", "speed", "seed", "utf8", "is", "größe"]
)
def test_words_that_only_look_inflected_stay(word: str) -> None:
    """Endings that belong to the word are kept."""
    assert stem(word) == word


@given(parts=NAMES)
def test_an_identifier_is_the_same_in_every_style(parts: list[str]) -> None:
    """`snake_case`, `camelCase`, `PascalCase` and `CONSTANT_CASE` give the same words: the parts, and all of them."""
    snake = "_".join(parts)
    pascal = "".join(part.capitalize() for part in parts)
    styles = [snake, snake.upper(), pascal, parts[0] + pascal[len(parts[0]) :]]
    forms = [set(document_words(chunk("", style)).split()) for style in styles]
    assert all(form == forms[0] for form in forms)
    assert {stem(part) for part in parts} < forms[0]


def test_questions_lose_their_filling_words() -> None:
    """What carries no topic is left out, unless nothing else is there; nothing is looked for twice."""
    assert query_words("Where do we retry the connection?") == [stem("retry"), stem("connection")]
    assert query_words("where is it") == [stem("where"), "is", "it"]
    assert query_words("retry Retry RETRIES") == ["retry"]


def test_all_that_names_a_chunk_is_searched() -> None:
    """Symbol, path and imports of a chunk are among its words."""
    one = chunk("src/web/client.py", "pass", symbol="HttpClient.fetch", imports="from sockets import Thing")
    assert {"src", "web", "client", "httpclient", "fetch", "socket", "thing"} <= set(
        document_words(one).split()
    )


@given(text=st.text(max_size=200))
def test_words_hold_nothing_but_letters_and_digits(text: str) -> None:
    """No library can see an operator in them, and none is longer than the limit."""
    words = query_words(text)
    assert len(set(words)) == len(words)
    for word in words:
        assert re.fullmatch(r"[^\W_]+", word)
        assert len(word) <= LONGEST


@given(text=st.text(max_size=60))
def test_a_text_is_found_by_itself(text: str) -> None:
    """Whatever is looked for in a text's own words is among them."""
    assert set(query_words(text)) <= set(document_words(chunk("", text)).split())


def test_data_is_no_word() -> None:
    """Long runs, such as a key in base 64, are not searched for."""
    assert query_words("x" * (LONGEST + 1)) == []
    assert len(query_words("x" * LONGEST)) == 1
