"""What holds for chunks of code whatever the code and whatever counts its tokens."""

from __future__ import annotations

import random
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embatch.chunks import Chunk, Document
from embatch.search.chunks.code import cut_code
from embatch.search.chunks.grammars import parse
from embatch.search.chunks.languages import language_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Count = Callable[[Sequence[str]], Sequence[int]]

pytestmark = pytest.mark.search

PIECE = re.compile(r"\w{1,4}|[^\w\s]")
SAMPLES = sorted((Path(__file__).parent / "code").glob("sample.*.txt"))
LANGUAGES = {language_of(path.stem, ""): path.read_text(encoding="utf-8") for path in SAMPLES}


def pieces(texts: Sequence[str]) -> list[int]:
    """Much as WordPiece counts."""
    return [len(PIECE.findall(text)) + 2 for text in texts]


def characters(texts: Sequence[str]) -> list[int]:
    """As a byte model counts."""
    return [len(text) for text in texts]


def cut_off(texts: Sequence[str]) -> list[int]:
    """As a tokeniser that truncates counts: nothing is more than 101."""
    return [min(101, size) for size in pieces(texts)]


def checked(text: str, language: str, max_tokens: int, count: Count) -> list[Chunk]:
    """The chunks, with all that must hold for any."""
    document = Document(path="a", text=text, language=language, first_line=7)
    chunks = cut_code(document, max_tokens=max_tokens, count=count)
    assert "".join(chunk.text for chunk in chunks) == text
    for chunk in chunks:
        assert text[chunk.start : chunk.end] == chunk.text
        assert chunk.start_line == 7 + text.count("\n", 0, chunk.start)
        assert chunk.end_line == 7 + text.count("\n", 0, chunk.end - 1)
        assert not chunk.text.isspace() or len(chunks) == 1
    embedded = [text for chunk in chunks if (text := chunk.embedded)]
    for size, words in zip(count(embedded), embedded, strict=True):
        assert size <= max_tokens or len(words) == 1
    return chunks


def leaves(text: str, language: str) -> Iterator[tuple[int, int]]:
    """Characters of each token, for text in ASCII."""
    waiting: list[Any] = [parse(language, text.encode())]
    while waiting:
        node = waiting.pop()
        if node.child_count:
            waiting.extend(node.children)
        else:
            yield node.start_byte, node.end_byte


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, str]:
    """A language and source in it of which something was removed, doubled, or replaced by what breaks it."""
    language = draw(st.sampled_from(sorted(LANGUAGES)))
    text = LANGUAGES[language]
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 200)))
        new = draw(
            st.one_of(
                st.sampled_from(
                    ["", "{", "}", ")", '"', "'''", "/*", "\n", "\r\n", "\0", "\t", "é漢", "<<EOF"]
                ),
                st.text(max_size=5),
                st.just(text[start:end] * 2),
            )
        )
        text = text[:start] + new + text[end:]
    return language, text


@pytest.mark.parametrize("count", [pieces, characters, cut_off], ids=lambda count: str(count.__name__))
@settings(max_examples=60, deadline=None)
@given(source=mutated(), max_tokens=st.integers(8, 100))
def test_broken_source_is_cut_too(count: Count, source: tuple[str, str], max_tokens: int) -> None:
    """Chunks tile the source, are within the limit and know their lines, in every language, whatever is wrong."""
    language, text = source
    checked(text, language, max_tokens, count)


@settings(max_examples=60, deadline=None)
@given(source=mutated(), max_tokens=st.integers(24, 100))
def test_tokens_are_not_cut(source: tuple[str, str], max_tokens: int) -> None:
    """No border is within a token that leaves room in a chunk."""
    language, text = source
    text = text.encode("ascii", "replace").decode()
    borders = {chunk.start for chunk in checked(text, language, max_tokens, pieces)}
    for start, end in leaves(text, language):
        if pieces([text[start:end]])[0] <= max_tokens // 2:
            assert not borders.intersection(range(start + 1, end))


def function(rng: random.Random, language: str) -> str:
    """A function of one to thirty statements."""
    name = f"f{rng.randrange(10**9)}"
    lines = [
        f"call_{rng.randrange(10**6)}(value, {rng.randrange(10**6)})"
        for _ in range(rng.choice([1, 2, 5, 9, 30]))
    ]
    if language == "python":
        return f"def {name}(value):\n" + "".join(f"    {line}\n" for line in lines) + "\n\n"
    return f"function {name}(value) {{\n" + "".join(f"  {line};\n" for line in lines) + "}\n\n"


def statement(rng: random.Random, language: str) -> str:
    line = f"constant_{rng.randrange(10**9)} = {rng.randrange(10**9)}"
    return line + ("\n" if language == "python" else ";\n")


@lru_cache
def parts(seed: int, language: str) -> tuple[str, ...]:
    """A file in parts: functions and statements."""
    rng = random.Random(seed)
    make = [function, statement, statement]
    return tuple(rng.choice(make)(rng, language) for _ in range(150))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 5),
    language=st.sampled_from(["python", "javascript"]),
    at=st.integers(0, 150),
    gone=st.integers(0, 3),
    new=st.integers(0, 3),
)
def test_chunks_far_from_an_edit_stay(seed: int, language: str, at: int, gone: int, new: int) -> None:
    """Inserting and removing functions and statements changes no chunk more than some chunks away."""
    before = parts(seed, language)
    rng = random.Random(seed + 1000)
    inserted = tuple(rng.choice([function, statement])(rng, language) for _ in range(new))
    after = before[:at] + inserted + before[at + gone :]
    near = 3000  # characters, some ten chunks
    edge = len("".join(before[:at]))
    old, now = ("".join(text) for text in (before, after))
    shift = len(now) - len(old)
    removed = len("".join(before[at : at + gone]))
    places = [
        {(c.start, c.end, c.digest) for c in checked(text, language, 64, pieces)} for text in (old, now)
    ]
    for start, end, digest in places[0]:
        if end < edge - near:
            assert (start, end, digest) in places[1]
        elif start > edge + removed + near:
            assert (start + shift, end + shift, digest) in places[1]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), at=st.integers(0, 399))
def test_an_edit_within_a_long_function_moves_only_borders_near_it(seed: int, at: int) -> None:
    """A statement that is added to a function of 400 leaves its chunks far away as they are."""
    rng = random.Random(seed)
    lines = [f"    call_{rng.randrange(10**9)}(value)\n" for _ in range(400)]
    texts = [
        "def long(value):\n" + "".join(lines[:at]) + extra + "".join(lines[at:])
        for extra in ("", "    added = call(value)\n")
    ]
    old, now = ({chunk.digest: chunk.start for chunk in checked(t, "python", 64, pieces)} for t in texts)
    edge = len("def long(value):\n" + "".join(lines[:at]))
    far = [start for digest, start in old.items() if digest not in now]
    assert all(abs(start - edge) < 3000 for start in far)
