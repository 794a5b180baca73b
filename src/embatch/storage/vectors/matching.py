"""From texts and queries to the words that full-text search compares, the same in every store.

Between chunks and a store's text index. Identifiers give their parts and themselves, endings that say number or tense
are cut off, and questions lose the words that carry no topic. It ranks nothing: that is the store's BM25. Everything
here is made of letters and digits with spaces between, so no library sees a query language in it.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embatch.chunks import Chunk

LONGEST = 64
"""Longer runs of letters and digits are data, such as a key in base 64, not words."""

_WORD = re.compile(r"\w+")
_PART = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_DENSE = re.compile("[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]+")
_VOWEL = re.compile("[aeiouy]")
_KEPT_DOUBLE = "lsz"  # call, pass, buzz

_QUESTION_WORDS = (
    "a about all also am an and any are as at be been being both but by can could did do does doing each find "
    "for from get gets give given has have he her here hers him his how i if in into is it its itself let many "
    "may me might more most must my no nor not of off on once one only or other our out over own please same "
    "shall she should show so some such tell than that the their them then there these they this those through "
    "to too under until up upon us used uses very was we were what when where whether which while who whom "
    "whose why will with within without would you your"
)
_STOP_WORDS = frozenset(_QUESTION_WORDS.split())


def document_words(chunk: Chunk) -> str:
    """The words of a chunk by which it is found, with spaces between: of its text, symbol, path and imports.

    What names a chunk says more of it than what it mentions: words of the symbol count three times, of the path twice
    (by nDCG and recall on the questions of `benchmarks/suites/search.py`).
    """
    texts = (chunk.text, *(3 * [chunk.symbol]), *(2 * [chunk.path]), chunk.imports)
    return " ".join(term for text in texts for word in _WORD.findall(text) for term in _terms(word))


def query_words(text: str) -> list[str]:
    """The distinct words to look for, in their order; none for a text without letters and digits.

    Words such as `where` and `the` are left out, unless nothing else is asked for.
    """
    words = _WORD.findall(text)
    telling = [word for word in words if word.lower() not in _STOP_WORDS]
    return list(dict.fromkeys(term for word in telling or words for term in _terms(word)))


@lru_cache(maxsize=1 << 16)
def _terms(word: str) -> tuple[str, ...]:
    """What one run of letters, digits and underscores is found by: its parts, and all of them joined."""
    if not word.isascii():
        word = _folded(word)
    dense = [pair for run in _DENSE.findall(word) for pair in _pairs(run)]
    parts = _PART.findall(word) if word.isascii() else [p for p in _DENSE.sub("_", word).split("_") if p]
    terms = [stem(part.lower()) for part in parts if len(part) <= LONGEST]
    if len(parts) > 1 and sum(map(len, parts)) <= LONGEST:
        terms.append(stem("".join(parts).lower()))
    return (*terms, *dense)


@lru_cache(maxsize=1 << 15)
def stem(word: str) -> str:
    """A word in lower case without an ending of number or tense: `retries`, `retried`, `retrying` are `retry`.

    After the first step of Porter 1980, "An algorithm for suffix stripping", and a final `e` is cut off as in its last.
    """
    if len(word) < 4 or not (word.isascii() and word.isalpha()):
        return word
    word = _without_plural(word)
    for ending, shortest in (("ied", 5), ("ing", 6), ("ed", 5)):
        if word.endswith(ending) and len(word) >= shortest:
            word = _without_tense(word, ending)
            break
    return word[:-1] if word.endswith("e") and len(word) > 3 else word


def _without_plural(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    if word.endswith(("sses", "xes", "ches", "shes", "zzes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def _without_tense(word: str, ending: str) -> str:
    rest = word[: -len(ending)]
    if ending == "ied":
        return f"{rest}y"
    if not _VOWEL.search(rest) or word.endswith("eed") or word == "embed":  # string, speed
        return word
    return rest[:-1] if rest[-1] == rest[-2] and rest[-1] not in _KEPT_DOUBLE else rest


def _folded(word: str) -> str:
    """Without accents and with one form for each letter: `Größe` is `Grosse`, `é` is `e`."""
    parts = unicodedata.normalize("NFKD", word.replace("ß", "ss"))
    return "".join(
        char for char in parts if not unicodedata.combining(char) and (char.isalnum() or char == "_")
    )


def _pairs(run: str) -> list[str]:
    """Neighbouring characters of a script that puts no spaces between words."""
    return [run[at : at + 2] for at in range(len(run) - 1)] or [run]
