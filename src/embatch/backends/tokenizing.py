"""Texts to token ids, exactly as sentence-transformers would, at the cost of what is kept rather than what is given.

`TextTokenizer` stands between items and batches: the planner takes its lengths, the backend its ids. A text far
longer than the model takes is tokenised only as far as its tokens are kept. It pads nothing and knows no device.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import models

from embatch.backends.tokenizer_files import load_tokenizer
from embatch.errors import BadTokensError, CorruptModelError, UnsupportedModelError, UsageError
from embatch.types import Tokenized

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tokenizers import Encoding, Tokenizer

    from embatch.backends.layout import Layout
    from embatch.types import IntArray

# English has 4 to 5 characters a token and code 3: this much of a text nearly always fills the limit.
_CHARS_PER_TOKEN = 8
# A prefix counts as full only with this many tokens to spare: what the cut may have changed at its end. Between
# words that is nothing with the usual tokenisers; inside a word it is that word, which has up to 100 tokens.
_SPARE_BETWEEN_WORDS = 16
_SPARE_INSIDE_WORD = 128
# So much text together stays in the thread that has it: some milliseconds of work. More is shared among the tokeniser's
# own threads. While the cores compute, these wait for one, and then go on looking for work on it for a while.
_FEW_CHARS = 1 << 13
# Longer texts are tokenised piece by piece: a tokeniser takes some 50 times a text's memory.
_SEGMENT_CHARS = 1 << 16
_BLANKS = " \n\t\r"
_BLANK = re.compile(f"[{_BLANKS}]")
_BORDER_SEARCH = 1024
# WordPiece drops blanks, and makes one unknown token of any word beyond 100 characters: the rest of such a run changes
# nothing. The look-behinds keep the search linear.
_LONG_WORD = re.compile(r"(?<![0-9A-Za-z])([0-9A-Za-z]{512})[0-9A-Za-z]+")
_LONG_BLANK = re.compile(f"(?<![{_BLANKS}])[{_BLANKS}]{{512,}}")


class TextTokenizer:
    """The tokeniser of one model, with that model's limit. Thread-safe."""

    def __init__(self, layout: Layout) -> None:
        """Read the tokeniser of `layout`.

        Raises:
            CorruptModelError: its file is missing or broken, or the limit leaves no room for text.
            UnsupportedModelError: it exists only in a form that the tokenizers library cannot read.
        """
        self._tokenizer = load_tokenizer(layout)
        # The fast one, since tokenizers 0.20.1, tracks no offsets: a third faster.
        self._encode_batch = getattr(self._tokenizer, "encode_batch_fast", self._tokenizer.encode_batch)
        self._from_right = layout.truncation_side == "right"
        self._head, self._tail = _special_tokens(self._tokenizer, layout)
        self._drops_runs = isinstance(self._tokenizer.model, models.WordPiece)
        self.max_tokens = layout.max_tokens
        """Longest text in tokens, special tokens included."""
        self.pad_id = layout.config.integer("pad_token_id", 0)
        """What rows are padded with."""
        self._words = self._tokenizer.get_vocab_size()
        self._room = self.max_tokens - len(self._head) - len(self._tail)
        if self._room < 1:
            raise CorruptModelError(
                f"{layout.folder}: a limit of {self.max_tokens} tokens leaves no room for text"
            )

    def tokenize(self, texts: Sequence[str], *, prompt: str = "") -> Tokenized:
        """Ids of each text with `prompt` before it, cut to the limit, special tokens kept.

        Returns:
            Payloads that are int32 arrays `(tokens,)`, with their lengths and whether a text was cut.
        """
        enough = self._room * _CHARS_PER_TOKEN
        heads, spares = [], []
        for text in texts:
            head, spare = (text, 0) if len(text) <= enough else self._shorten(text, enough)
            # A prompt before a text cut on the left would be cut off with the rest.
            heads.append(head if spare and not self._from_right else prompt + head)
            spares.append(spare)
        payloads: list[IntArray] = []
        truncated = np.zeros(len(texts), dtype=np.bool_)
        encodings = self._encode(heads)
        for row, (encoding, spare) in enumerate(zip(encodings, spares, strict=True)):
            ids = encoding.ids
            if spare and len(ids) < self._room + spare:
                ids = self._long(prompt + texts[row])
            truncated[row] = len(ids) > self._room
            payloads.append(self._finished(ids))
        lengths = np.fromiter(map(len, payloads), dtype=np.int32, count=len(payloads))
        return Tokenized(payloads, lengths, truncated)

    def take(self, ids: Sequence[Sequence[int]]) -> Tokenized:
        """Payloads of texts that are token ids already; see `TakesTokens.take_tokens`.

        Raises:
            BadTokensError: a list is empty, or has an id that is not in the vocabulary.
        """
        payloads: list[IntArray] = []
        truncated = np.zeros(len(ids), dtype=np.bool_)
        for row, own in enumerate(ids):
            content = self._content(own)
            truncated[row] = len(content) > self._room
            payloads.append(self._finished(content))
        lengths = np.fromiter(map(len, payloads), dtype=np.int32, count=len(payloads))
        return Tokenized(payloads, lengths, truncated)

    def _content(self, ids: Sequence[int]) -> list[int]:
        """The ids without the special tokens around them, if they have them."""
        content = list(ids)
        if not content or min(content) < 0 or max(content) >= self._words:
            raise BadTokensError(
                f"token ids must lie between 0 and {self._words - 1}, at least one"
                if content
                else "a list of token ids is empty"
            )
        head, tail = self._head, self._tail
        if content[: len(head)] == head and content[len(content) - len(tail) :] == tail:
            content = content[len(head) : len(content) - len(tail)]
        return content

    def _encode(self, texts: list[str]) -> list[Encoding]:
        """Without special tokens."""
        if len(texts) == 1 or sum(map(len, texts)) <= _FEW_CHARS:
            return [self._tokenizer.encode(text, add_special_tokens=False) for text in texts]
        return self._encode_batch(texts, add_special_tokens=False)

    def count(self, texts: Sequence[str], *, prompt: str = "") -> IntArray:
        """`(n,)`: tokens that each text has in full, with `prompt` and special tokens."""
        content = np.zeros(len(texts), dtype=np.int32)
        short = [row for row, text in enumerate(texts) if len(text) <= _SEGMENT_CHARS]
        encodings = self._encode([prompt + texts[row] for row in short])
        content[short] = [len(encoding) for encoding in encodings]
        for row, text in enumerate(texts):
            if len(text) > _SEGMENT_CHARS:
                content[row] = sum(map(len, self._segments(prompt + text)))
        return content + np.int32(len(self._head) + len(self._tail))

    def split(self, text: str, *, prompt: str = "") -> list[str]:
        """Consecutive pieces of `text`, each within the limit with `prompt` before it; joined: the text.

        Raises:
            UsageError: `prompt` alone fills the limit.
        """
        taken = int(self.count([prompt])[0])
        if taken >= self.max_tokens:
            raise UsageError(
                f"The prompt alone has {taken} tokens; the model takes {self.max_tokens}",
                hint="Use a shorter prompt.",
            )
        return self._split(text, prompt, self.max_tokens - taken)

    def _finished(self, ids: list[int]) -> IntArray:
        """Ids of the content, cut at the side that the model cuts, between the special tokens."""
        if len(ids) > self._room:
            ids = ids[: self._room] if self._from_right else ids[-self._room :]
        return np.array(self._head + ids + self._tail, dtype=np.int32)

    def _shorten(self, text: str, chars: int) -> tuple[str, int]:
        """About `chars` characters from the end that is kept, and how many spare tokens prove them enough."""
        at = _border_before(text, 0, chars) if self._from_right else _border_after(text, len(text) - chars)
        spare = _SPARE_BETWEEN_WORDS if text[at] in _BLANKS else _SPARE_INSIDE_WORD
        return (text[:at] if self._from_right else text[at:]), spare

    def _long(self, text: str) -> list[int]:
        """Ids of the content as far as they matter: for texts with few tokens in very many characters."""
        ids: list[int] = []
        for segment in self._segments(text):
            ids = ids + segment if self._from_right else segment + ids
            if len(ids) >= self._room + _SPARE_INSIDE_WORD:
                break
        return ids

    def _segments(self, text: str) -> Iterator[list[int]]:
        """Ids of consecutive pieces of the text, from the end that is kept. Bounded in memory."""
        if self._drops_runs:
            text = _LONG_BLANK.sub(" ", _LONG_WORD.sub(r"\1", text))
        start, end = 0, len(text)
        while start < end:
            if self._from_right:
                border = _border_before(text, start, start + _SEGMENT_CHARS)
                piece, start = text[start:border], border
            else:
                border = _border_after(text, end - _SEGMENT_CHARS)
                piece, end = text[border:end], border
            yield self._tokenizer.encode(piece, add_special_tokens=False).ids

    def _split(self, text: str, prompt: str, room: int) -> list[str]:
        """Pieces of `room` tokens. A word cut in two may gain tokens: such a piece is split further."""
        pieces: list[str] = []
        start = 0
        while start < len(text):
            end = _border_before(text, start, start + _SEGMENT_CHARS)
            segment = text[start:end]
            cuts = _cuts(self._tokenizer.encode(segment, add_special_tokens=False), segment, room)
            if end < len(text) and len(cuts) > 1:
                cuts.pop()  # the last piece goes on in the next segment
            pieces += [segment[a:b] for a, b in zip([0, *cuts], cuts, strict=False)]
            start += cuts[-1]
        counts = self.count(pieces, prompt=prompt)
        return [
            part
            for piece, count in zip(pieces, counts, strict=True)
            for part in (
                [piece] if count <= self.max_tokens or room == 1 else self._split(piece, prompt, room // 2)
            )
        ]


def _special_tokens(tokenizer: Tokenizer, layout: Layout) -> tuple[list[int], list[int]]:
    """The ids that the tokeniser puts before and after every text."""
    full = tokenizer.encode("a").ids
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    for before in range(len(full) - len(bare) + 1):
        if full[before : before + len(bare)] == bare:
            return full[:before], full[before + len(bare) :]
    raise UnsupportedModelError(
        f"{layout.transformer}: the tokeniser changes a text's tokens when it finishes them"
    )


def _border_before(text: str, least: int, at: int) -> int:
    """A place to cut `text`, at most `at` and above `least`: before white space if there is some near, else `at`."""
    if at >= len(text):
        return len(text)
    low = max(least, at - _BORDER_SEARCH) + 1
    blank = max(text.rfind(sign, low, at + 1) for sign in _BLANKS)
    while blank > low and text[blank - 1] in _BLANKS:
        blank -= 1
    return blank if blank >= low else at


def _border_after(text: str, at: int) -> int:
    """A place to cut `text`, at least `at`: before white space if there is some near, else `at`."""
    if at <= 0:
        return 0
    found = _BLANK.search(text, at, at + _BORDER_SEARCH)
    return found.start() if found else at


def _cuts(encoding: Encoding, text: str, room: int) -> list[int]:
    """Ends of pieces of at most `room` tokens, the last of them the text's: between words where that is near."""
    cuts: list[int] = []
    first, total = 0, len(encoding)
    while total - first > room:
        token = _word_start(encoding, text, first + room, first + room // 2)
        start = _start(encoding, token)
        while token < total and start <= (cuts[-1] if cuts else 0):
            token += 1  # several tokens of one character stay together
            start = _start(encoding, token) if token < total else len(text)
        if start >= len(text):
            break
        cuts.append(start)
        first = token
    return [*cuts, len(text)]


def _word_start(encoding: Encoding, text: str, token: int, least: int) -> int:
    """The last token up to `token` and above `least` that begins after white space; `token` if none does."""
    for candidate in range(token, least, -1):
        start = _start(encoding, candidate)  # of a token of blanks it may be the text's end
        if start and (text[start : start + 1].isspace() or text[start - 1].isspace()):
            return candidate
    return token


def _start(encoding: Encoding, token: int) -> int:
    """The character at which a token begins."""
    chars = encoding.token_to_chars(token)
    return chars[0] if chars else 0
