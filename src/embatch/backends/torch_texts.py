"""Texts as what a sentence-transformers model computes: token ids, or whatever its first module wants.

The torch backend takes its lengths and its features from here. Where the model is a plain transformer with a
`tokenizer.json`, embatch's own tokeniser is used, so that both backends see the same tokens; every other model keeps
the preprocessing that sentence-transformers gives it. No device is touched here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from embatch.errors import BadTokensError, UsageError
from embatch.types import Tokenized

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.backends.tokenizing import TextTokenizer

NO_LIMIT = 2**31 - 1
"""`max_tokens` of a model that takes texts of any length."""

# No tokeniser has tokens that are longer on average: what lies beyond is cut off before it costs memory.
_CHARS_PER_TOKEN = 64
_GUESSED_CHARS_PER_TOKEN = 4


class Texts(Protocol):
    """What the torch backend asks of either way to prepare texts."""

    max_tokens: int

    def tokenize(self, texts: Sequence[str], *, prompt: str = "") -> Tokenized:
        """As `Backend.tokenize`."""
        ...

    def split(self, text: str, *, prompt: str = "") -> list[str]:
        """As `Backend.split`."""
        ...

    def take(self, ids: Sequence[Sequence[int]]) -> Tokenized:
        """As `TakesTokens.take_tokens`."""
        ...

    def features(self, payloads: Sequence[Any]) -> list[tuple[Sequence[int], dict[str, Any]]]:
        """What the model's forward takes, in host memory: one or more groups of (rows, features by name)."""
        ...


class SharedTexts:
    """embatch's own tokeniser: payloads are arrays of ids, padded here."""

    def __init__(self, torch: Any, tokenizer: TextTokenizer, *, pad_to: int) -> None:
        self._torch = torch
        self._tokenizer = tokenizer
        self._pad_to = pad_to
        self.max_tokens = tokenizer.max_tokens

    def tokenize(self, texts: Sequence[str], *, prompt: str = "") -> Tokenized:
        """Payloads are int32 arrays of ids `(tokens,)`."""
        return self._tokenizer.tokenize(texts, prompt=prompt)

    def split(self, text: str, *, prompt: str = "") -> list[str]:
        """Consecutive pieces within the limit; joined: the text."""
        return self._tokenizer.split(text, prompt=prompt)

    def take(self, ids: Sequence[Sequence[int]]) -> Tokenized:
        """Payloads of texts that are ids already."""
        return self._tokenizer.take(ids)

    def features(self, payloads: Sequence[Any]) -> list[tuple[Sequence[int], dict[str, Any]]]:
        """Ids and mask, both `(n, longest)` int64 rounded up to a multiple of `pad_to`, padded on the right."""
        lengths = np.fromiter(map(len, payloads), np.int64, len(payloads))
        longest = min(-(-int(lengths.max()) // self._pad_to) * self._pad_to, self.max_tokens)
        real = np.arange(longest) < lengths[:, np.newaxis]
        ids = np.full(real.shape, self._tokenizer.pad_id, np.int64)
        ids[real] = np.concatenate(payloads)
        mask = real.astype(np.int64)
        features = {"input_ids": self._torch.from_numpy(ids), "attention_mask": self._torch.from_numpy(mask)}
        return [(range(len(payloads)), features)]


class _Prompted(NamedTuple):
    """A text and its prompt, apart: some models leave the prompt's tokens out of the mean."""

    prompt: str
    text: str


class OwnTexts:
    """The model's own preprocessing: payloads are texts, which it tokenises once more in `features`."""

    def __init__(self, model: Any) -> None:
        self._model = model
        tokenizer = getattr(model, "tokenizer", None)
        # Word embeddings and the like have tokenisers of other kinds; they truncate nothing.
        self._tokenizer = tokenizer if hasattr(tokenizer, "init_kwargs") else None
        limit = getattr(model, "max_seq_length", None)
        bounded = self._tokenizer is not None and isinstance(limit, int) and 0 < limit < NO_LIMIT
        self.max_tokens = int(limit) if bounded and limit else NO_LIMIT

    def tokenize(self, texts: Sequence[str], *, prompt: str = "") -> Tokenized:
        """Payloads are prompts and texts; lengths are guessed from the characters without a tokeniser."""
        most_chars = min(_CHARS_PER_TOKEN * self.max_tokens, NO_LIMIT)
        kept = [_Prompted(prompt, text[:most_chars]) for text in texts]
        counts = self._count([prompt + text for _, text in kept])
        cut = np.fromiter((len(text) > most_chars for text in texts), np.bool_, len(kept))
        lengths = np.minimum(counts, self.max_tokens).astype(np.int32)
        return Tokenized(kept, lengths, (counts > self.max_tokens) | cut)

    def split(self, text: str, *, prompt: str = "") -> list[str]:
        """Consecutive pieces within the limit; joined: the text.

        Raises:
            UsageError: `prompt` alone fills the limit.
        """
        if self.max_tokens == NO_LIMIT:
            return [text]
        if self._count([prompt])[0] >= self.max_tokens:
            raise UsageError(
                f"The prompt alone fills the model's {self.max_tokens} tokens", hint="Use a shorter prompt."
            )
        return self._halves(text, prompt)

    def take(self, ids: Sequence[Sequence[int]]) -> Tokenized:
        """Not here: what the model makes of a text is its own.

        Raises:
            BadTokensError: always.
        """
        del ids
        raise BadTokensError("this model prepares its texts itself and takes no token ids", hint="Send text.")

    def features(self, payloads: Sequence[_Prompted]) -> list[tuple[Sequence[int], dict[str, Any]]]:
        """One group for each prompt among the payloads, nearly always one in all."""
        by_prompt: dict[str, list[int]] = {}
        for row, payload in enumerate(payloads):
            by_prompt.setdefault(payload.prompt, []).append(row)
        return [
            (rows, self._model.preprocess([payloads[row].text for row in rows], prompt=prompt or None))
            for prompt, rows in by_prompt.items()
        ]

    def _count(self, texts: list[str]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        if self._tokenizer is None or not texts:
            sizes = [len(text) // _GUESSED_CHARS_PER_TOKEN + 1 for text in texts]
        else:
            encoded = self._tokenizer(texts, truncation=False, padding=False, verbose=False)
            sizes = [len(ids) for ids in encoded["input_ids"]]
        return np.array(sizes, np.int64)

    def _halves(self, text: str, prompt: str) -> list[str]:
        """The text, cut in two between words until each piece fits."""
        if len(text) <= 1 or (
            len(text) <= _CHARS_PER_TOKEN * self.max_tokens
            and self._count([prompt + text])[0] <= self.max_tokens
        ):
            return [text]
        middle = len(text) // 2
        blank = text.rfind(" ", len(text) // 4, middle)
        at = blank if blank > 0 else middle
        return self._halves(text[:at], prompt) + self._halves(text[at:], prompt)
