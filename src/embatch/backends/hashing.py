"""Vectors without a model: signed feature hashing of words, word pairs and character n-grams.

A backend like any other, *batches → backend → sink*, for when no model may be loaded or a baseline is wanted: the
same text gives the same bits in any process, on any machine. It leaves out everything learned: no vocabulary, no
document frequencies, no synonyms. The method is that of Weinberger et al., "Feature Hashing for Large Scale
Multitask Learning" (2009): each feature's hash chooses a dimension and a sign.
"""

from __future__ import annotations

import math
import re
import unicodedata
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from embatch.backends.cores import usable_cores
from embatch.errors import BackendClosedError, UsageError
from embatch.types import CostRule, Limits, ModelSpec, Tokenized

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from embatch.types import FloatArray

    Hashes = npt.NDArray[np.uint64]
    Flags = npt.NDArray[np.bool_]
    Numbers = npt.NDArray[np.float64]

REVISION = "1"
"""Version of the algorithm: any change that moves a single bit of a vector must raise it."""

SMALLEST, LARGEST = 16, 65_536
"""Dimensions that can be asked for."""

SLICE_CHARACTERS = 16_384
"""Texts are hashed this many characters at a time: intermediate arrays stay in the L2 cache, and a text of any
size takes bounded memory. Longer texts are cut at white space and their slices summed."""

CHARACTERS_PER_TOKEN = 4

_STREAMS = 2
"""numpy lets other threads run within its operations, not between them. Two streams instead of one: 1.23 times the
texts per second on mixed texts, 1.24 on short and 1.33 on long ones (2 cores, Zen 4, eight rounds)."""

# Fixed constants of the algorithm. Polynomial hashing modulo 2^64: any odd base with well-mixed bits will do.
_BASE = 0xD6E8FEB86659FD93
_MIX = np.uint64(0xA0761D6478BD642F)
_32 = np.uint64(32)

# A feature is one number that sorts by text, then kind, then hash: 16 bits row, 4 bits kind, 44 bits hash.
_ROW_SHIFT, _KIND_SHIFT, _HASH_SHIFT = np.uint64(48), np.uint64(44), np.uint64(20)
_SLICE_ROWS = 1024
_LONGEST_KIND = 7  # kinds 1 to 7: words by length; 9, 10: n-grams; 12 to 15: pairs by their weaker word
_PAIRS, _GRAMS = 12, {3: 9, 4: 10}
_GRAM_WORDS_FROM = 4  # function words and abbreviations share too many n-grams with everything

# Whole numbers, so that every sum below is exact and the vectors are the same bits everywhere. Short words mean
# little in any language written with letters; a pair counts a quarter of its weaker word. Settled on Cranfield
# (nDCG@10) against the cosine of unrelated texts, which n-grams raise.
_WEIGHTS = np.array([0, 6, 10, 19, 38, 51, 64, 64, 0, 13, 19, 0, 2, 3, 5, 10], np.float64)
_MOST_COUNTED = 1023
_DAMPED = np.array([0, *(round(64 * (1 + math.log(n))) for n in range(1, _MOST_COUNTED + 1))], np.float64)

# English words that carry no topic weigh as little as one letter.
_FUNCTION_WORDS = (
    "a about after all also an and any are as at be been before being between both but by can could did do does "
    "for from had has have he her his how if in into is it its may might more most no not of on one only or other "
    "our over she should so some such than that the their them then there these they this those through to under "
    "up was we were what when where which while who will with would you your"
)

_IDEOGRAPH = re.compile("([\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])")
_DENSE_SCRIPTS_FROM = 0x2E80  # CJK, kana, Hangul: a character says as much as about three letters
_DENSE = 3


class HashingBackend:
    """Stateless vectors of `dimensions` numbers, unit norm, no model file. Implements `Backend`.

    Similar words and spellings give similar vectors; texts that share no words are nearly orthogonal. Texts are
    case-folded and NFKC-normalised; nothing is ever truncated.

    Args:
        dimensions: 16 to 65,536. More means fewer accidental overlaps: 384 for task titles, 1,024 for documents.

    Raises:
        UsageError: `dimensions` is out of range.
    """

    def __init__(self, dimensions: int = 384) -> None:
        if not SMALLEST <= dimensions <= LARGEST:
            raise UsageError(
                f"hashing with {dimensions!r} dimensions: {SMALLEST} to {LARGEST} are possible",
                hint="Choose a model such as `hashing`, `hashing-1024`.",
            )
        self.spec = ModelSpec(
            model=f"hashing-{dimensions}",
            revision=REVISION,
            dimensions=dimensions,
            max_tokens=2**31 - 1,
            pooling="sum",
        )
        self.limits = Limits(cost=CostRule.PACKED, budgets=(4096, 131_072), first_budget=32_768)
        self.streams = min(_STREAMS, usable_cores())
        self.device = "cpu"
        self.prompts: Mapping[str, str] = MappingProxyType({})
        self._closed = False

    def tokenize(self, texts: Sequence[str], *, prompt: str = "") -> Tokenized:
        """The texts themselves; a length is a quarter of the characters, which is what hashing costs."""
        payloads = [prompt + text for text in texts] if prompt else list(texts)
        characters = np.fromiter(map(len, payloads), np.int64, len(payloads))
        lengths = (characters // CHARACTERS_PER_TOKEN + 1).astype(np.int32)
        return Tokenized(payloads, lengths, np.zeros(len(payloads), np.bool_))

    def split(self, text: str, *, prompt: str = "") -> list[str]:  # noqa: ARG002  # the protocol's parameter
        """The text whole: no text is too long."""
        return [text]

    def embed(self, payloads: Sequence[object]) -> FloatArray:
        """Vectors `(n, dim)` float32 of unit norm, in the order given.

        Raises:
            BackendClosedError: after `close`.
        """
        if self._closed:
            raise BackendClosedError(f"{self.spec.model} is closed")
        texts = [str(payload) for payload in payloads]
        vectors = np.empty((len(texts), self.spec.dimensions), np.float32)
        for start, end in _slices(texts):
            vectors[start:end] = self._vectors(texts[start:end])
        return vectors

    def memory_used(self) -> float:
        """0.0: the processor has no memory of its own."""
        return 0.0

    def close(self) -> None:
        """Nothing is held; further calls of `embed` raise."""
        self._closed = True

    def _vectors(self, texts: list[str]) -> Numbers:
        """Unit vectors of one slice: many short texts, or one of any length."""
        sums = self._sums(texts, visible=False)
        norms = np.sqrt(np.einsum("ij,ij->i", sums, sums))
        for row in np.flatnonzero(norms == 0):
            # No letter or digit at all, such as "!!!", or features that cancel: its visible characters decide,
            # and a text of white space alone gets the first axis.
            sums[row] = self._sums([texts[row]], visible=True)[0]
            sums[row, 0] += not sums[row].any()
            norms[row] = np.sqrt(sums[row] @ sums[row])
        unit: Numbers = sums / norms[:, None]
        return unit

    def _sums(self, texts: list[str], *, visible: bool) -> Numbers:
        if len(texts) == 1 and len(texts[0]) > SLICE_CHARACTERS:
            total = np.zeros((1, self.spec.dimensions))
            for piece in _pieces(texts[0]):
                total += _sum_features(_features([piece], visible=visible), 1, self.spec.dimensions)
            return total
        return _sum_features(_features(texts, visible=visible), len(texts), self.spec.dimensions)


class _Characters(NamedTuple):
    """The texts of a slice as one array of code points, each text between two blanks."""

    codes: npt.NDArray[np.uint32]
    in_word: Flags
    row: Hashes
    """Which text a character belongs to, already shifted to its place in a feature."""
    prefix: Hashes
    """`prefix[i]`: polynomial hash of the first `i` characters, those outside words counting 0."""
    inverse: Hashes
    """Powers of the base's inverse: move a difference of two prefixes to the place of the first character."""


def _slices(texts: list[str]) -> list[tuple[int, int]]:
    """Ranges of texts to hash together: few enough for the cache, an overlong text alone."""
    ranges, start, characters = [], 0, 0
    for row, text in enumerate(texts):
        if row > start and (characters + len(text) > SLICE_CHARACTERS or row - start == _SLICE_ROWS):
            ranges.append((start, row))
            start, characters = row, 0
        characters += len(text)
    return [*ranges, (start, len(texts))] if texts else []


def _pieces(text: str) -> list[str]:
    """An overlong text in slices, cut after white space where there is some."""
    pieces, start = [], 0
    while len(text) - start > SLICE_CHARACTERS:
        blank = max(text.rfind(sign, start, start + SLICE_CHARACTERS) for sign in " \n\t")
        end = blank + 1 if blank >= start else start + SLICE_CHARACTERS
        pieces.append(text[start:end])
        start = end
    return [*pieces, text[start:]]


def _fold(text: str) -> str:
    """Case and compatibility forms away; blanks around ideographs, since each is a word."""
    if text.isascii():
        return text.lower()
    return _IDEOGRAPH.sub(
        r" \1 ", unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    )


def _characters(texts: list[str], *, visible: bool) -> _Characters:
    folded = [_fold(text) for text in texts]
    sizes = np.fromiter(map(len, folded), np.int64, len(folded)) + 1
    sizes[0] += 1  # the blank before the first text
    encoded = f" {' '.join(folded)} ".encode("utf-32-le", "surrogatepass")
    codes = np.frombuffer(encoded, "<u4")
    in_word = _visible(codes) if visible else _in_word(codes)
    row = np.repeat(np.arange(len(texts), dtype=np.uint64) << _ROW_SHIFT, sizes)
    powers, inverse = _powers(1 << (len(codes) - 1).bit_length())
    prefix = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum(np.where(in_word, codes + np.uint32(1), np.uint32(0)) * powers[: len(codes)], out=prefix[1:])
    return _Characters(codes, in_word, row, prefix, inverse)


def _features(texts: list[str], *, visible: bool) -> Hashes:
    """Every feature of every text, with repetitions, in no order."""
    chars = _characters(texts, visible=visible)
    in_word = chars.in_word
    starts = np.flatnonzero(in_word[1:] & ~in_word[:-1]) + 1
    ends = np.flatnonzero(in_word[:-1] & ~in_word[1:]) + 1
    raw = (chars.prefix[ends] - chars.prefix[starts]) * chars.inverse[starts]
    kinds = _word_kinds(chars, starts, ends, raw)
    words, rows = _mixed(raw), chars.row[starts]
    found = [_feature(rows, kinds, words)]
    same_text = rows[1:] == rows[:-1]
    pairs = _mixed(words[:-1] * np.uint64(3) + words[1:])[same_text]
    weaker = np.minimum(np.minimum(kinds[1:], kinds[:-1])[same_text], np.uint64(4))
    found.append(_feature(rows[1:][same_text], weaker + np.uint64(_PAIRS - 1), pairs))
    chosen = np.ones(len(kinds), np.bool_) if visible else kinds >= _GRAM_WORDS_FROM
    return np.concatenate([*found, *_grams(chars, starts, ends, chosen)])


def _word_kinds(
    chars: _Characters, starts: npt.NDArray[np.intp], ends: npt.NDArray[np.intp], raw: Hashes
) -> Hashes:
    lengths = np.where(chars.codes[starts] >= _DENSE_SCRIPTS_FROM, _DENSE, 1) * (ends - starts)
    known = _function_words()
    nearest = known[np.minimum(np.searchsorted(known, raw), len(known) - 1)]
    kinds: Hashes = np.where(nearest == raw, 1, np.minimum(lengths, _LONGEST_KIND)).astype(np.uint64)
    return kinds


def _grams(
    chars: _Characters, starts: npt.NDArray[np.intp], ends: npt.NDArray[np.intp], chosen: Flags
) -> list[Hashes]:
    """n-grams of the chosen words, the blank before and after a word counting as its first and last sign."""
    edges = np.zeros(len(chars.codes), np.int8)
    edges[starts[chosen]] = 1
    edges[ends[chosen]] -= 1
    inside = np.cumsum(edges, dtype=np.int8).astype(np.bool_)
    found, middle = [], inside[1:-1]
    for n, kind in _GRAMS.items():
        at = np.flatnonzero(middle)
        hashes = _mixed((chars.prefix[at + n] - chars.prefix[at]) * chars.inverse[at] + np.uint64(n))
        found.append(_feature(chars.row[at + 1], np.uint64(kind), hashes))
        middle = middle[:-1] & inside[n - 1 : -1]
    return found


def _sum_features(features: Hashes, rows: int, dimensions: int) -> Numbers:
    """Sums `(rows, dimensions)`: each distinct feature adds its damped count, signed, to its dimension."""
    if not len(features):
        return np.zeros((rows, dimensions))
    features.sort()
    first = np.flatnonzero(np.concatenate([[True], features[1:] != features[:-1]]))
    counts = np.minimum(np.diff(first, append=len(features)), _MOST_COUNTED)
    features = features[first]
    weights = _DAMPED[counts] * _WEIGHTS[(features >> _KIND_SHIFT & np.uint64(15)).astype(np.intp)]
    np.negative(weights, out=weights, where=(features & np.uint64(1)).astype(np.bool_))
    spread = (features >> np.uint64(12) & np.uint64(0xFFFFFFFF)) * np.uint64(dimensions) >> _32
    cells = (features >> _ROW_SHIFT) * np.uint64(dimensions) + spread
    sums = np.bincount(cells.astype(np.intp), weights, minlength=rows * dimensions)
    return sums.reshape(rows, dimensions).astype(np.float64, copy=False)


def _feature(rows: Hashes, kinds: Hashes | np.uint64, hashes: Hashes) -> Hashes:
    features: Hashes = rows | kinds << _KIND_SHIFT | hashes >> _HASH_SHIFT
    return features


def _mixed(hashes: Hashes) -> Hashes:
    """Every bit of the result depends on every bit of the polynomial, whose low bits are weak."""
    half: Hashes = (hashes ^ hashes >> _32) * np.uint64(_BASE)
    full: Hashes = (half ^ half >> _32) * _MIX
    return full ^ full >> _32


@lru_cache(maxsize=8)
def _powers(size: int) -> tuple[Hashes, Hashes]:
    """The first `size` powers (a power of two) of the base and of its inverse modulo 2^64."""
    tables = []
    for base in (_BASE, pow(_BASE, -1, 1 << 64)):
        table = np.ones(size, np.uint64)
        done = 1
        while done < size:
            np.multiply(table[:done], np.uint64(pow(base, done, 1 << 64)), out=table[done : 2 * done])
            done *= 2
        tables.append(table)
    return tables[0], tables[1]


@lru_cache(maxsize=1)
def _function_words() -> Hashes:
    """Sorted unmixed hashes of the function words."""
    modulus = 1 << 64
    return np.array(
        sorted(
            sum((ord(sign) + 1) * pow(_BASE, place, modulus) for place, sign in enumerate(word)) % modulus
            for word in _FUNCTION_WORDS.split()
        ),
        np.uint64,
    )


def _is_word(code: int) -> bool:
    """Letters, marks and digits of every script."""
    return unicodedata.category(chr(code))[0] in "LMN"


@lru_cache(maxsize=1)
def _basic_plane() -> Flags:
    return np.array([_is_word(code) for code in range(0x10000)], np.bool_)


def _in_word(codes: npt.NDArray[np.uint32]) -> Flags:
    """Which characters belong to words. A table for the basic plane; the rest is rare and looked up one by one."""
    flags: Flags = _basic_plane()[np.minimum(codes, 0xFFFF)]
    high = codes > 0xFFFF
    if high.any():
        distinct, place = np.unique(codes[high], return_inverse=True)
        flags[high] = np.array([_is_word(int(code)) for code in distinct], np.bool_)[place]
    return flags


def _visible(codes: npt.NDArray[np.uint32]) -> Flags:
    """Everything but white space, for texts that have no letter and no digit."""
    distinct, place = np.unique(codes, return_inverse=True)
    return np.array([not chr(code).isspace() for code in distinct], np.bool_)[place]
