"""Makes asks ready for batches: checks their texts, finds what is known or asked twice, tokenises the rest.

Between the queue and the streams, in a stream's thread and outside the lock: some hundred rows at a time, so that a
large ask holds nobody up. What `engine.window` does for rows of a run is done here for rows of many asks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from embatch.engine.coalesce.units import Text, Unit
from embatch.engine.window import check_text, text_digest
from embatch.errors import BadTokensError, ItemError, TooLongError
from embatch.types import TakesTokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.engine.coalesce.asks import Waiting
    from embatch.types import Backend, FloatArray, ModelSpec, Tokenized, VectorStore


class Portion(NamedTuple):
    """Some rows of an ask."""

    waiting: Waiting
    start: int
    stop: int


@dataclass(slots=True)
class Opened:
    """What portions were made into."""

    units: list[Unit] = field(default_factory=list)
    texts: list[tuple[Text, int, bool]] = field(default_factory=list)
    """Each text with its tokens, and whether it was cut."""
    failed: list[tuple[Text, ItemError]] = field(default_factory=list)
    known: list[tuple[Text, FloatArray]] = field(default_factory=list)
    """Texts whose vector `(dim,)` was stored."""


class Opener:
    """Makes portions ready. Thread-safe.

    Args:
        backend: tokenises.
        store_for: the vectors that are known under a spec; None without a cache. Its stores are thread-safe.
    """

    def __init__(self, backend: Backend, store_for: StoreFor | None) -> None:
        self._backend = backend
        self._store_for = store_for

    def open(self, portions: Sequence[Portion]) -> Opened:
        """Make all ready; the order of units is that of the portions."""
        opened = Opened()
        by_spec: dict[int, tuple[ModelSpec, list[Portion]]] = {}
        for portion in portions:
            spec = portion.waiting.spec
            by_spec.setdefault(id(spec), (spec, []))[1].append(portion)
        for spec, own in by_spec.values():
            self._open_texts(spec, own, opened)
        return opened

    def _open_texts(self, spec: ModelSpec, portions: list[Portion], opened: Opened) -> None:
        texts: dict[bytes, tuple[str, Text]] = {}
        for waiting, start, stop in portions:
            for row in range(start, stop):
                given = waiting.ask.inputs[row]
                if not isinstance(given, str) and _is_ids(given):
                    self._open_ids(spec, waiting, row, given, opened)
                    continue
                error = check_text(given)
                if error is not None:
                    opened.failed.append((Text(spec, b"", [(waiting, row)]), error))
                    continue
                assert isinstance(given, str)
                digest = text_digest(given)
                known = texts.get(digest)
                if known is None:
                    texts[digest] = (given, Text(spec, digest, [(waiting, row)]))
                else:
                    known[1].owners.append((waiting, row))
        self._tokenize(spec, self._unknown(spec, list(texts.values()), opened), opened)

    def _unknown(
        self, spec: ModelSpec, texts: list[tuple[str, Text]], opened: Opened
    ) -> list[tuple[str, Text]]:
        """The texts whose vector is not stored."""
        store = None if self._store_for is None else self._store_for(spec)
        if store is None or not texts:
            return texts
        stored = store.get([text.digest for _, text in texts])
        opened.known.extend((text, stored[text.digest]) for _, text in texts if text.digest in stored)
        return [pair for pair in texts if pair[1].digest not in stored]

    def _tokenize(self, spec: ModelSpec, pairs: list[tuple[str, Text]], opened: Opened) -> None:
        if not pairs:
            return
        tokenized = self._backend.tokenize([given for given, _ in pairs], prompt=spec.prompt)
        if spec.overlong == "truncate" or not tokenized.truncated.any():
            self._add([text for _, text in pairs], tokenized, opened)
            return
        fitting = np.flatnonzero(~tokenized.truncated).tolist()
        self._add([pairs[at][1] for at in fitting], _some(tokenized, fitting), opened)
        for at in np.flatnonzero(tokenized.truncated).tolist():
            given, text = pairs[at]
            if spec.overlong == "pool":
                self._pool(spec, given, text, opened)
            else:
                opened.failed.append((text, too_long(spec)))

    def _pool(self, spec: ModelSpec, given: str, text: Text, opened: Opened) -> None:
        split = self._backend.split(given, prompt=spec.prompt)
        tokenized = self._backend.tokenize(
            [piece for piece in split if not piece.isspace()], prompt=spec.prompt
        )
        lengths = tokenized.lengths.tolist()
        text.pieces = [
            Unit(text, payload, length) for payload, length in zip(tokenized.payloads, lengths, strict=True)
        ]
        text.left = len(text.pieces)
        opened.units.extend(text.pieces)
        opened.texts.append((text, sum(lengths), False))

    def _open_ids(
        self, spec: ModelSpec, waiting: Waiting, row: int, ids: Sequence[int], opened: Opened
    ) -> None:
        text = Text(spec, b"", [(waiting, row)])
        if not isinstance(self._backend, TakesTokens):
            error = BadTokensError(f"{spec.model} has no tokeniser that takes token ids", hint="Send text.")
            opened.failed.append((text, error))
            return
        try:
            tokenized = self._backend.take_tokens([ids])
        except ItemError as error:
            opened.failed.append((text, error))
            return
        if tokenized.truncated[0] and spec.overlong != "truncate":
            opened.failed.append((text, too_long(spec)))
            return
        self._add([text], tokenized, opened)

    @staticmethod
    def _add(texts: list[Text], tokenized: Tokenized, opened: Opened) -> None:
        lengths, truncated = tokenized.lengths.tolist(), tokenized.truncated.tolist()
        for text, payload, length, cut in zip(texts, tokenized.payloads, lengths, truncated, strict=True):
            opened.units.append(Unit(text, payload, length))
            opened.texts.append((text, length, cut))


def too_long(spec: ModelSpec) -> TooLongError:
    """The refusal of a text that is longer than the model takes."""
    return TooLongError(f"the text is longer than the {spec.max_tokens} tokens that {spec.model} takes")


def _is_ids(given: object) -> bool:
    return isinstance(given, list | tuple) and all(type(part) is int for part in given)


def _some(tokenized: Tokenized, rows: list[int]) -> Tokenized:
    payloads = [tokenized.payloads[row] for row in rows]
    return type(tokenized)(payloads, tokenized.lengths[rows], tokenized.truncated[rows])


if TYPE_CHECKING:
    from collections.abc import Callable

    StoreFor = Callable[[ModelSpec], VectorStore | None]
